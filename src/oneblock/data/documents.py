"""Documents of a text, and which of them are for training, for tuning and for the test.

Many documents are split whole, by their contents, so that none is on two sides: copies of a document count as one, and
neither names nor order matter. What counts is what is used: byte order marks, kinds of line ends, white space at the
ends and ways to write one character (Unicode's form NFC) make no difference. A single file is cut into three contiguous
parts instead. Both aim at ``HELD_OUT_PERCENT`` of the bytes for ``valid`` and for ``test`` each.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from .textfile import check_kind, compression, decode_pieces, is_rows, read_pieces, read_rows

TextSplit = Literal["train", "valid", "test"]
SPLITS: tuple[TextSplit, ...] = get_args(TextSplit)
HELD_OUT_PERCENT = 5
LEAST = 100 // HELD_OUT_PERCENT
"""Bytes of the smallest file that is cut."""
# ends every document but the parts of a single file; characters make it one space
SEPARATOR = "\n\n"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that is read when it is needed.

    Attributes:
        name: for messages.
        pieces: gives the text, one piece after the other.
        ending: stands after the text.
        mark: stands after the text where its digest is taken: a clean text file ends in a line feed.
    """

    name: str
    pieces: Callable[[], Iterator[str]]
    ending: str = ""
    mark: bytes = b""

    def text(self) -> Iterator[str]:
        """All pieces, with the ending."""
        yield from self.pieces()
        if self.ending:
            yield self.ending

    def read(self) -> str:
        """The whole text in memory."""
        return "".join(self.text())

    def measure(self) -> tuple[int, int]:
        """The first 64 bits of the SHA-256 of the text in form NFC, and its bytes in UTF-8, each with the ``mark``."""
        digest, size = hashlib.sha256(), len(self.mark)
        for piece in _normal(self.pieces()):
            content = piece.encode()
            digest.update(content)
            size += len(content)
        digest.update(self.mark)
        return int.from_bytes(digest.digest()[:8], "big"), size


Splits = Mapping[TextSplit, Iterable[Document]]


def file_documents(path: Path) -> Iterator[Document]:
    """The documents of a file: a text as one, and of .jsonl every row with a text.

    Raises:
        ValueError: no text, or what ``textfile`` refuses.
    """
    check_kind(path)
    if is_rows(path):
        for number, text in read_rows(path):
            yield row_document(text, f"{path} line {number}")
        return
    name = str(path)
    yield Document(
        name=name,
        pieces=lambda: _stripped(decode_pieces(read_pieces(path), name), path),
        ending=SEPARATOR,
        mark=b"\n",
    )


def row_document(text: str, name: str) -> Document:
    """A text in memory as a document."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return Document(name=name, pieces=lambda: iter([plain]), ending=SEPARATOR)


def _stripped(pieces: Iterable[str], path: Path) -> Iterator[str]:
    """A text with line feeds alone and without white space at its ends; of nothing else it is refused."""
    held, begun = "", False
    for piece in _line_feeds(pieces):
        piece = piece if begun else piece.lstrip()
        body = piece.rstrip()
        if body:
            yield held + body
            held, begun = piece[len(body) :], True
        elif begun:
            held += piece
    if not begun:
        raise _empty(path)


def _line_feeds(pieces: Iterable[str]) -> Iterator[str]:
    """The same text with line feeds in the place of carriage returns."""
    held = ""
    for piece in pieces:
        piece, held = held + piece, ""
        if piece.endswith("\r"):
            piece, held = piece[:-1], "\r"
        yield piece.replace("\r\n", "\n").replace("\r", "\n")
    if held:
        yield "\n"


def _normal(pieces: Iterable[str]) -> Iterator[str]:
    """The text in form NFC; pieces are cut before a character of ASCII, which never joins the one before it."""
    held = ""
    for piece in pieces:
        piece = held + piece
        cut = next((i for i in range(len(piece) - 1, 0, -1) if piece[i] < "\x80"), len(piece))
        held = piece[cut:]
        yield unicodedata.normalize("NFC", piece[:cut])
    yield unicodedata.normalize("NFC", held)


def split_files(files: Sequence[Path], name: str) -> Splits:
    """Split the documents of files whole, keeping their order; errors of ``assign`` and ``file_documents``."""
    found = _assigned((document for path in files for document in file_documents(path)), name)

    def choose(split: int) -> Iterator[Document]:
        documents = (document for path in files for document in file_documents(path))
        return (document for document, chosen in zip(documents, found, strict=True) if chosen == split)

    return {split: _Again(lambda number=number: choose(number)) for number, split in enumerate(SPLITS)}  # type: ignore[misc]


def split_documents(documents: Iterable[Document], name: str) -> dict[TextSplit, list[Document]]:
    """Split documents in memory whole, keeping their order; errors of ``assign``."""
    documents = list(documents)
    found = _assigned(documents, name)
    return {split: [one for one, i in zip(documents, found, strict=True) if i == n] for n, split in enumerate(SPLITS)}


@dataclass(frozen=True)
class _Again:
    """Documents that are read anew whenever they are asked for."""

    documents: Callable[[], Iterator[Document]]

    def __iter__(self) -> Iterator[Document]:
        return self.documents()


def _assigned(documents: Iterable[Document], name: str) -> bytes:
    digests, sizes = array("Q"), array("Q")
    for document in documents:
        digest, size = document.measure()
        digests.append(digest)
        sizes.append(size)
    return assign(digests, sizes, name)


def assign(digests: Sequence[int], sizes: Sequence[int], name: str) -> bytes:
    """The split of each document, as its place in ``SPLITS``.

    Test, then valid, take documents in order of their digests as long as these fit into ``HELD_OUT_PERCENT`` of all
    bytes, or the smallest one where none fits. Training keeps the rest, one at least.

    Args:
        digests: of three different ones or more.
        name: of the corpus, for the message.

    Raises:
        ValueError: fewer than three documents differ.
    """
    total: dict[int, int] = {}
    for digest, size in zip(digests, sizes, strict=True):
        total[digest] = total.get(digest, 0) + size
    if len(total) < len(SPLITS):
        raise ValueError(
            f"{name} has {len(total)} different documents; {len(SPLITS)} or more are allowed; add documents, or name a "
            "single file, which is cut in parts"
        )
    limit = sum(total.values()) * HELD_OUT_PERCENT / 100
    test = _held_out(total, limit, keep=2)
    rest = {digest: size for digest, size in total.items() if digest not in test}
    valid = _held_out(rest, limit, keep=1)
    return bytes(2 if digest in test else 1 if digest in valid else 0 for digest in digests)


def _held_out(sizes: Mapping[int, int], limit: float, keep: int) -> set[int]:
    """The digests of one split, leaving ``keep`` documents at least to the others."""
    taken: set[int] = set()
    total = 0
    for digest in sorted(sizes):
        if total + sizes[digest] <= limit and len(taken) < len(sizes) - keep:
            taken.add(digest)
            total += sizes[digest]
    return taken or {min(sizes, key=lambda digest: (sizes[digest], digest))}


def cut_file(path: Path) -> Splits:
    """A single file in three parts, as it is: the first 90 % of its bytes train, the next 5 % valid, the last 5 % test.

    A cut within a character moves to its end. Of text8 these are the 90, 5 and 5 million characters of the literature.

    Raises:
        ValueError: the file is empty, too short for three parts, or not UTF-8 text.
    """
    check_kind(path)
    size = _checked_size(path)
    if size < LEAST:
        raise ValueError(f"{path} has {size} bytes, too few to cut in three; {LEAST} or more are allowed")
    percents = (100 - 2 * HELD_OUT_PERCENT, 100 - HELD_OUT_PERCENT)
    edges = [0, *(_next_character(path, size * percent // 100) for percent in percents), size]
    if any(start == stop for start, stop in itertools.pairwise(edges)):
        raise ValueError(f"{path} has {size} bytes, too few characters to cut in three; give a longer text")
    parts = zip(SPLITS, itertools.pairwise(edges), strict=True)
    return {split: [_part(path, split, start, stop)] for split, (start, stop) in parts}


def _checked_size(path: Path) -> int:
    """Bytes of a whole file, unpacked, which is text and not white space alone."""
    size, filled = 0, False

    def counted() -> Iterator[bytes]:
        nonlocal size
        for piece in read_pieces(path):
            size += len(piece)
            yield piece

    for text in decode_pieces(counted(), str(path)):
        filled = filled or not text.isspace()
    if not filled:
        raise _empty(path)
    return size


def _next_character(path: Path, position: int) -> int:
    """The first position from ``position`` on that is not within a character."""
    near = b"".join(read_pieces(path, position, position + 4))
    return position + next((i for i, byte in enumerate(near) if byte & 0xC0 != 0x80), len(near))


def _part(path: Path, split: TextSplit, start: int, stop: int) -> Document:
    name = f"{path} ({split})"
    return Document(name=name, pieces=lambda: decode_pieces(read_pieces(path, start, stop), name, start))


def bytes_to_read(path: Path) -> int:
    """About how many bytes of a file are read until its documents are written: once to split them, once to write each
    part, from the start where it is compressed."""
    times = 4 if compression(path) or is_rows(path) else 2
    return times * path.stat().st_size


def _empty(path: Path) -> ValueError:
    return ValueError(f"{path} is empty; a text of one character or more is allowed; fill it or take it away")
