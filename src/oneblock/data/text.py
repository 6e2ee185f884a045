"""Text by name: one line says which text, and its tokens come from a memory-mapped file that is written once.

    books        the four below, with their splits: 22 MB of English in the public domain, fetched once by ``make text``
    sotu         addresses of American presidents, 1790-2026
    austen       six novels
    shakespeare  plays and poems
    milton       poems and a speech
    file:PATH    a folder of .txt files, one per document, or a single file, which is cut in three
    hf:NAME      the first rows of a data set streamed by the ``datasets`` library, one per document

Behind ``hf:NAME`` stand settings, for example ``hf:NAME,text=COLUMN,config=NAME,documents=1000``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .documents import (
    SPLITS,
    Document,
    Splits,
    TextSplit,
    cut_file,
    file_document,
    list_files,
    split_documents,
    stream_documents,
)
from .tokens import TokenFile, write_tokens
from .vocabulary import Vocabulary

CORPORA = ("sotu", "austen", "shakespeare", "milton")
TEXTS = ("books", *CORPORA, "file:PATH", "hf:NAME")
TEXT_FOLDER = "text"
NUM_ROWS = 100_000
# part of the names in the cache; raise it when documents, splits or a vocabulary's rule change
VERSION = 1


@dataclass(frozen=True)
class Corpus:
    """A text whose documents are listed when they are needed.

    Attributes:
        name: as the user wrote it.
        state: tells this text from others and from what it was before, without reading it.
        splits: reads and splits it.
    """

    name: str
    state: str
    splits: Callable[[], Splits]


def open_text(
    spec: str,
    split: TextSplit,
    vocabulary: Vocabulary,
    *,
    root: Path | None = None,
    cache: Path | None = None,
) -> TokenFile:
    """The tokens of one split of a named text.

    The first call writes a token file for each split into ``cache``; a later one maps it. It is written again, under
    another name, when a file of the text has another size or time of change; ``hf:NAME`` is never asked again.

    Args:
        spec: one of ``TEXTS``, with PATH or NAME filled in.
        split: ``train``, ``valid`` or ``test``; see ``documents``.
        vocabulary: makes the ids.
        root: where the corpora are looked for, and what a relative PATH starts from.
        cache: folder of the token files; None is ``.cache/tokens`` in ``$ONEBLOCK_DATA`` or ``./data``.

    Raises:
        ValueError: unknown spec or split, or a text that is absent, empty, binary, or foreign to the vocabulary.
        MissingExtraError: the vocabulary or the stream needs a package that is not installed.
    """
    _check_split(split)
    corpus = find_corpus(spec, root)
    folder = (cache or _data_folder() / ".cache" / "tokens") / _cache_name(corpus, vocabulary)
    path = folder / f"{split}.tokens"
    if not path.is_file():
        splits = corpus.splits()
        for each in SPLITS:
            write_tokens(folder / f"{each}.tokens", _encoded(splits[each], vocabulary), vocabulary)
    return TokenFile(path)


def read_texts(spec: str, split: TextSplit, *, root: Path | None = None) -> Iterator[str]:
    """The documents of one split as texts, to learn a vocabulary from; arguments and errors of ``open_text``."""
    _check_split(split)
    return (document.read() for document in find_corpus(spec, root).splits()[split])


def find_corpus(spec: str, root: Path | None = None) -> Corpus:
    """The text that ``spec`` names; arguments and errors of ``open_text``."""
    kind, place = _parse(spec)
    if kind == "hf":
        return _hub_corpus(spec, place)
    if kind == "file":
        path = Path(place).expanduser() if root is None else root / Path(place).expanduser()
        return _file_corpus(spec, path)
    names = CORPORA if kind == "books" else (kind,)
    return _documents_corpus(spec, [list_files(_corpus_folder(name, root)) for name in names])


def _parse(spec: str) -> tuple[str, str]:
    kind, colon, place = spec.partition(":")
    takes_place = {known.partition(":")[0]: ":" in known for known in TEXTS}
    if takes_place.get(kind) != bool(colon) or (colon and not place):
        raise ValueError(
            f"text={spec!r} is unknown; {', '.join(TEXTS)} are allowed; for a text of your own use file:PATH"
        )
    return kind, place


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; {', '.join(SPLITS)} are allowed; choose one of them")


def _hub_corpus(spec: str, place: str) -> Corpus:
    name, *settings = place.split(",")
    values = dict(setting.partition("=")[::2] for setting in settings)
    if unknown := set(values) - {"text", "config", "documents"}:
        raise ValueError(
            f"text={spec!r} sets {', '.join(sorted(unknown))}; text, config and documents are allowed; "
            "write hf:NAME,text=COLUMN"
        )
    number = values.get("documents", str(NUM_ROWS))
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"text={spec!r} has documents={number}; 1 or more is allowed; use for example {NUM_ROWS}")

    def splits() -> Splits:
        documents = stream_documents(name, config=values.get("config"), column=values.get("text"), count=int(number))
        return split_documents(documents, spec)

    return Corpus(spec, number, splits)


def _file_corpus(spec: str, path: Path) -> Corpus:
    if not path.exists():
        raise ValueError(f"{path} does not exist; a text file or a folder of .txt files is allowed; check the path")
    if path.is_dir():
        return _documents_corpus(spec, [list_files(path)])
    return Corpus(spec, _state([path]), lambda: cut_file(path))


def _documents_corpus(spec: str, folders: Sequence[Sequence[Path]]) -> Corpus:
    """Files of folders that are split one by one: what is held out of ``austen`` is also held out of ``books``."""

    def splits() -> Splits:
        each = [split_documents(map(file_document, files), spec) for files in folders]
        return {split: [document for one in each for document in one[split]] for split in SPLITS}

    return Corpus(spec, _state(list(itertools.chain(*folders))), splits)


def _state(files: Sequence[Path]) -> str:
    stats = [(path.resolve().as_posix(), path.stat()) for path in files]
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _corpus_folder(name: str, root: Path | None) -> Path:
    data = _data_folder() if root is None else root
    folders = [data / TEXT_FOLDER / name, data / name]
    for folder in folders:
        if folder.is_dir():
            return folder
    looked = ", ".join(map(str, folders))
    raise ValueError(f"{name} is not in any of {looked}; one of these folders must hold its texts; run `make text`")


def _data_folder() -> Path:
    return Path(os.environ.get("ONEBLOCK_DATA") or "data")


def _cache_name(corpus: Corpus, vocabulary: Vocabulary) -> str:
    """A folder name that starts readable and differs for every text, state and vocabulary."""
    key = repr((VERSION, corpus.name, corpus.state, vocabulary.fingerprint()))
    readable = re.sub(r"[^A-Za-z0-9]+", "-", corpus.name).strip("-")[-40:]
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _encoded(documents: Sequence[Document], vocabulary: Vocabulary) -> Iterator[Tensor]:
    for document in documents:
        text = document.read()
        try:
            ids = vocabulary.encode(text)
        except ValueError as error:
            raise ValueError(f"{document.name}: {error}") from error
        yield ids
