"""Text by name: one line says which text, and its tokens come from a memory-mapped file that is written once.

    books        the four below, with their splits: 22 MB of English in the public domain, fetched once by ``make text``
    sotu         addresses of American presidents, 1790-2026
    austen       six novels
    shakespeare  plays and poems
    milton       poems and a speech
    file:PATH    a folder of documents (.txt files, or rows of .jsonl files with a field ``text``), a .jsonl file, or
                 any other single file of text, which is cut in three (``textfile``)
    hf:NAME      the first rows of a data set streamed by the ``datasets`` library, one per document

Behind ``hf:NAME`` stand settings, for example ``hf:NAME,text=COLUMN,config=NAME,documents=1000``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from oneblock.plain import write_whole

from .documents import (
    SPLITS,
    Document,
    Splits,
    TextSplit,
    bytes_to_read,
    cut_file,
    split_documents,
    split_files,
)
from .encode import cut_at_words, encode_pieces
from .near import NearCopies, near_copies
from .progress import counting, note
from .reading import data_folder
from .textfile import is_rows
from .textfolder import list_files, tell_unused
from .textstream import stream_documents
from .tokens import TokenFile, write_tokens
from .vocabulary import Vocabulary

CORPORA = ("sotu", "austen", "shakespeare", "milton")
TEXTS = ("books", *CORPORA, "file:PATH", "hf:NAME")
TEXT_FOLDER = "text"
NUM_ROWS = 100_000
# part of the names in the cache; raise it when documents, splits or a vocabulary's rule change
VERSION = 2
COPIES_FILE = "near-copies.json"
LEARNED_FROM = 2**27
"""Characters at the start of a training text that byte pairs are learned from."""
WORTH_A_NOTE = 0.01
"""Share of a held-out text's passages in the training text that is told."""


@dataclass(frozen=True)
class Corpus:
    """A text whose documents are listed when they are needed.

    Attributes:
        name: as the user wrote it.
        state: tells this text from others and from what it was before, without reading it.
        splits: reads and splits it.
        work: about how many bytes are read until its token files are written.
        told: notes which of its files are not used.
    """

    name: str
    state: str
    splits: Callable[[], Splits]
    work: int = 0
    told: Callable[[], None] = lambda: None


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
    another name, when a file of the text has another size or time of change; ``hf:NAME`` is never asked again. Texts of
    any length are read piece by piece; ``progress.listening`` tells how far it is.

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
    folder = (cache or data_folder() / ".cache" / "tokens") / _cache_name(corpus, vocabulary)
    path = folder / f"{split}.tokens"
    if not path.is_file():
        corpus.told()
        with counting(corpus.work, "bytes of text"):
            splits = corpus.splits()
            for each in SPLITS:
                write_tokens(folder / f"{each}.tokens", _encoded(splits[each], vocabulary), vocabulary)
        _compare(folder, spec)
    return TokenFile(path)


def read_texts(spec: str, split: TextSplit, *, root: Path | None = None) -> Iterator[str]:
    """The documents of one split as texts; arguments and errors of ``open_text``."""
    _check_split(split)
    return (document.read() for document in find_corpus(spec, root).splits()[split])


def read_words(spec: str, split: TextSplit, *, root: Path | None = None) -> Iterator[str]:
    """The same in pieces of a thousand words or so, to learn a vocabulary from (``encode.cut_at_words``): those of the
    first ``LEARNED_FROM`` characters, as what is learned takes memory for every word that is new."""
    _check_split(split)
    corpus, left = find_corpus(spec, root), LEARNED_FROM
    with counting(min(corpus.work, LEARNED_FROM), "bytes of text, to learn byte pairs"):
        for document in corpus.splits()[split]:
            for piece in cut_at_words(document.text()):
                if left <= 0:
                    return
                left -= len(piece)
                yield piece


def split_copies(file: TokenFile) -> dict[str, dict[str, float]]:
    """What the splits beside a token file of ``open_text`` have in common with the training text, by split; empty for
    any other file."""
    path = file.path.parent / COPIES_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def _compare(folder: Path, spec: str) -> None:
    """Write how much of the held-out splits stands in the training text, and note it."""
    train = TokenFile(folder / "train.tokens")
    found = {split: near_copies(train, TokenFile(folder / f"{split}.tokens")) for split in SPLITS[1:]}
    rows = json.dumps({split: each.as_row() for split, each in found.items()})
    write_whole(folder / COPIES_FILE, rows, together=True)
    if any(each.passages >= WORTH_A_NOTE for each in found.values()):
        note(f"{spec}: {'; '.join(_shown(split, each) for split, each in found.items())}")


def _shown(split: str, found: NearCopies) -> str:
    return (
        f"{found.passages:.0%} of the passages of {split} stand in the training text word for word "
        f"({found.documents:.0%} of its documents are near-copies)"
    )


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
        return _documents_corpus(spec, [list_files(path)], lambda: tell_unused(path))
    if is_rows(path):
        return _documents_corpus(spec, [[path]])
    return Corpus(spec, _state([path]), lambda: cut_file(path), bytes_to_read(path))


def _documents_corpus(spec: str, folders: Sequence[Sequence[Path]], told: Callable[[], None] = lambda: None) -> Corpus:
    """Files of folders that are split one by one: what is held out of ``austen`` is also held out of ``books``."""

    def splits() -> Splits:
        each = [split_files(files, spec) for files in folders]
        return {split: _Joined([one[split] for one in each]) for split in SPLITS}

    files = list(itertools.chain(*folders))
    return Corpus(spec, _state(files), splits, sum(map(bytes_to_read, files)), told)


@dataclass(frozen=True)
class _Joined:
    """Documents of several folders, one after the other."""

    parts: Sequence[Iterable[Document]]

    def __iter__(self) -> Iterator[Document]:
        return itertools.chain(*self.parts)


def _state(files: Sequence[Path]) -> str:
    stats = [(path.resolve().as_posix(), path.stat()) for path in files]
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _corpus_folder(name: str, root: Path | None) -> Path:
    data = data_folder() if root is None else root
    folders = [data / TEXT_FOLDER / name, data / name]
    for folder in folders:
        if folder.is_dir():
            return folder
    looked = ", ".join(map(str, folders))
    raise ValueError(f"{name} is not in any of {looked}; one of these folders must hold its texts; run `make text`")


def _cache_name(corpus: Corpus, vocabulary: Vocabulary) -> str:
    """A folder name that starts readable and differs for every text, state and vocabulary."""
    key = repr((VERSION, corpus.name, corpus.state, vocabulary.fingerprint()))
    readable = re.sub(r"[^A-Za-z0-9]+", "-", corpus.name).strip("-")[-40:]
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _encoded(documents: Iterable[Document], vocabulary: Vocabulary) -> Iterator[Iterator[Tensor]]:
    return (_named(document, vocabulary) for document in documents)


def _named(document: Document, vocabulary: Vocabulary) -> Iterator[Tensor]:
    """The ids of a document in pieces; what the vocabulary refuses, with the document's name."""
    pieces = encode_pieces(vocabulary, document.text())
    while True:
        try:
            ids = next(pieces, None)
        except ValueError as error:
            named = document.name in str(error)
            raise error if named else ValueError(f"{document.name}: {error}") from error
        if ids is None:
            return
        yield ids
