"""Documents of a text, and which of them are for training, for tuning and for the test.

Many documents are split whole, by their contents, so that none is on two sides: copies of a document count as one, and
neither names nor order matter. A single file is cut into three contiguous parts instead. Both aim at
``HELD_OUT_PERCENT`` of the bytes for ``valid`` and for ``test`` each.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from .errors import MissingExtraError

TextSplit = Literal["train", "valid", "test"]
SPLITS: tuple[TextSplit, ...] = get_args(TextSplit)
HELD_OUT_PERCENT = 5
# ends every document but the parts of a single file; characters make it one space
SEPARATOR = "\n\n"

Row = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that is read when it is needed.

    Attributes:
        name: for messages.
        size: bytes in UTF-8, at least 1.
        digest: SHA-256 of these bytes, in hex.
        read: gives the text.
    """

    name: str
    size: int
    digest: str
    read: Callable[[], str]


Splits = Mapping[TextSplit, list[Document]]


def list_files(folder: Path) -> list[Path]:
    """All .txt files below ``folder``, by name; hidden ones are not seen.

    Raises:
        ValueError: there are none.
    """
    inside = ((path, path.relative_to(folder)) for path in folder.rglob("*.txt") if path.is_file())
    files = sorted((name.as_posix(), path) for path, name in inside if not any(p.startswith(".") for p in name.parts))
    if not files:
        raise ValueError(f"{folder} has no .txt files; one per document is allowed; add texts or name another folder")
    return [path for _, path in files]


def file_document(path: Path) -> Document:
    """A whole file as a document, without the white space at its ends and with ``SEPARATOR`` after it.

    Raises:
        ValueError: the file holds nothing but white space; on reading: it is not UTF-8 text.
    """
    content = path.read_bytes()
    if not content.strip():
        raise _empty(path)
    return Document(
        name=str(path),
        size=len(content),
        digest=hashlib.sha256(content).hexdigest(),
        read=lambda: decode(path.read_bytes(), str(path)).strip() + SEPARATOR,
    )


def decode(content: bytes, name: str) -> str:
    """UTF-8 text, without a byte order mark at its start.

    Raises:
        ValueError: NUL bytes or invalid UTF-8, by their offset.
    """
    if (offset := content.find(b"\0")) >= 0:
        raise ValueError(f"{name} has a NUL byte at offset {offset}; text in UTF-8 is allowed; is it a binary file?")
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 at byte offset {error.start} (0x{content[error.start]:02x}, {error.reason}); text in "
            "UTF-8 is allowed; convert it, for example with iconv"
        ) from error


def cut_file(path: Path) -> Splits:
    """A single file in three parts, as it is: the first 90 % of its bytes train, the next 5 % valid, the last 5 % test.

    A cut within a character moves to its end. Of text8 these are the 90, 5 and 5 million characters of the literature.

    Raises:
        ValueError: the file is empty, too short for three parts, or not UTF-8 text.
    """
    content = path.read_bytes()
    if not content.strip():
        raise _empty(path)
    decode(content, str(path))
    size = len(content)
    percents = (100 - 2 * HELD_OUT_PERCENT, 100 - HELD_OUT_PERCENT)
    edges = [0, *(_next_character(content, size * percent // 100) for percent in percents), size]
    if any(start == stop for start, stop in itertools.pairwise(edges)):
        raise ValueError(
            f"{path} has {size} bytes, too few to cut in three; {100 // HELD_OUT_PERCENT} or more are allowed"
        )
    parts = zip(SPLITS, itertools.pairwise(edges), strict=True)
    return {split: [_part(path, split, content[start:stop], start)] for split, (start, stop) in parts}


def _next_character(content: bytes, position: int) -> int:
    """The first position from ``position`` on that is not within a character."""
    while position < len(content) and content[position] & 0xC0 == 0x80:
        position += 1
    return position


def _part(path: Path, split: TextSplit, content: bytes, start: int) -> Document:
    name, size = f"{path} ({split})", len(content)

    def read() -> str:
        with open(path, "rb") as file:
            file.seek(start)
            return decode(file.read(size), name)

    return Document(name=name, size=size, digest=hashlib.sha256(content).hexdigest(), read=read)


def split_documents(documents: Iterable[Document], name: str) -> Splits:
    """Split whole documents, keeping their order.

    Test, then valid, take documents in order of their digests as long as these fit into ``HELD_OUT_PERCENT`` of all
    bytes, or the smallest one where none fits. Training keeps the rest, one at least.

    Args:
        documents: three different ones or more.
        name: of the corpus, for the message.

    Raises:
        ValueError: fewer than three documents differ.
    """
    documents = list(documents)
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.digest] = sizes.get(document.digest, 0) + document.size
    if len(sizes) < len(SPLITS):
        raise ValueError(
            f"{name} has {len(sizes)} different documents; {len(SPLITS)} or more are allowed; add documents, or name a "
            "single file, which is cut in parts"
        )
    limit = sum(sizes.values()) * HELD_OUT_PERCENT / 100
    test = _held_out(sizes, limit, keep=2)
    rest = {digest: size for digest, size in sizes.items() if digest not in test}
    valid = _held_out(rest, limit, keep=1)
    chosen = {"train": rest.keys() - valid, "valid": valid, "test": test}
    return {split: [document for document in documents if document.digest in chosen[split]] for split in SPLITS}


def _held_out(sizes: Mapping[str, int], limit: float, keep: int) -> set[str]:
    """The digests of one split, leaving ``keep`` documents at least to the others."""
    taken: set[str] = set()
    total = 0
    for digest in sorted(sizes):
        if total + sizes[digest] <= limit and len(taken) < len(sizes) - keep:
            taken.add(digest)
            total += sizes[digest]
    return taken or {min(sizes, key=lambda digest: (sizes[digest], digest))}


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
    return [_row_document(text, f"hf:{name} row {number} with text") for number, text in enumerate(filled)]


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


def _row_document(text: str, name: str) -> Document:
    content = text.encode()
    digest = hashlib.sha256(content).hexdigest()
    return Document(name=name, size=len(content), digest=digest, read=lambda: text + SEPARATOR)


def _empty(path: Path) -> ValueError:
    return ValueError(f"{path} is empty; a text of one character or more is allowed; fill it or take it away")
