"""Rows of a data set on a hub as documents, streamed by the ``datasets`` library."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import cast

from .documents import Document, row_document
from .errors import MissingExtraError

Row = Mapping[str, object]


def stream_documents(name: str, *, config: str | None, column: str | None, count: int) -> list[Document]:
    """The first ``count`` rows with text of a data set, streamed by ``datasets`` from its split ``train``, in memory.

    Args:
        name: as ``datasets.load_dataset`` takes it, for example ``owner/name``.
        config: the configuration, None for the only one.
        column: of the text; None finds the only column of text.
        count: 1 or more.

    Raises:
        ValueError: no row, no such column, several or none that fit, or a value that is not text.
        MissingExtraError: ``datasets`` is not installed.
    """
    rows = iter(_open_stream(name, config))
    first = next(rows, None)
    if first is None:
        raise ValueError(f"hf:{name} has no rows; 1 or more are allowed; use another data set or configuration")
    column = _text_column(first, column, name)
    texts = (_row_text(row, column, name) for row in itertools.chain([first], rows))
    filled = itertools.islice((text for text in texts if text), count)
    return [row_document(text, f"hf:{name} row {number} with text") for number, text in enumerate(filled)]


def _open_stream(name: str, config: str | None) -> Iterable[Row]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "hub") from error
    return cast(Iterable[Row], datasets.load_dataset(name, config, split="train", streaming=True))


def _text_column(first: Row, choice: str | None, name: str) -> str:
    fitting = [column for column, value in first.items() if isinstance(value, str) and choice in (None, column)]
    if len(fitting) != 1:
        asked = "" if choice is None else f" named {choice!r}"
        raise ValueError(
            f"hf:{name} has {len(fitting)} text columns{asked} ({', '.join(fitting) or 'none'}) among "
            f"{', '.join(first)}; exactly one is allowed; write hf:NAME,text=COLUMN"
        )
    return fitting[0]


def _row_text(row: Row, column: str, name: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(
            f"hf:{name} holds {type(value).__name__} in column {column!r}; text is allowed; choose another text column"
        )
    return value.strip()
