"""Files of text, read piece by piece: in UTF-8, as they are or compressed, or rows of JSON with their texts.

    .txt, any other name   text in UTF-8
    .jsonl, .ndjson        a JSON object a line; the text is its field ``text``

Each may be compressed (gzip, bzip2, xz, Zstandard), which is seen from its first bytes. What holds text in another way
(UTF-16, Parquet, archives, tables, documents) is refused by name.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from .errors import MissingExtraError
from .progress import add

PIECE = 2**20
"""Bytes that are read together."""
ROWS = (".jsonl", ".ndjson")
PACKED = (".gz", ".bz2", ".xz", ".zst")
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "Zstandard"}
_ICONV = "convert it, for example with iconv -f {} -t UTF-8"
_TAKE_OUT = 'take the texts out of it, into .txt files or rows {"text": ...} of a .jsonl file'
REFUSED = {
    b"\xff\xfe\0\0": ("text in UTF-32", _ICONV.format("UTF-32")),
    b"\0\0\xfe\xff": ("text in UTF-32", _ICONV.format("UTF-32")),
    b"\xff\xfe": ("text in UTF-16", _ICONV.format("UTF-16")),
    b"\xfe\xff": ("text in UTF-16", _ICONV.format("UTF-16")),
    b"PAR1": ("a Parquet file", _TAKE_OUT),
    b"ARROW1": ("an Arrow file", _TAKE_OUT),
    b"PK\x03\x04": ("a ZIP archive", "unpack it"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it"),
    b"%PDF": ("a PDF document", _TAKE_OUT),
}
"""First bytes -> what the file is, and what to do."""
FOREIGN = (".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".tar", ".tgz")
"""Suffixes of files whose texts stand inside something else."""


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def is_rows(path: Path) -> bool:
    """Whether a file is rows of JSON by its name, compressed or not."""
    return Path(_unpacked(path)).suffix in ROWS


def is_text(path: Path) -> bool:
    """Whether a file of a folder is one of its documents by its name: .txt, compressed or not, in any case."""
    return Path(_unpacked(path)).suffix == ".txt"


def _unpacked(path: Path) -> str:
    """The name in small letters, without the suffix of a compression."""
    name = path.name.lower()
    return name[: -len(path.suffix)] if path.suffix.lower() in PACKED else name


def check_kind(path: Path) -> None:
    """Refuse, by its first bytes or its name, a file whose text is not read here."""
    with open(path, "rb") as file:
        head = file.read(8)
    for start, (kind, advice) in REFUSED.items():
        if head.startswith(start):
            raise ValueError(f"{path} is {kind}; text in UTF-8 is allowed; {advice}")
    suffix = Path(_unpacked(path)).suffix
    if suffix in FOREIGN:
        raise ValueError(f"{path} is a {suffix} file, which holds text among other things; {_TAKE_OUT}")


def compression(path: Path) -> str | None:
    """How a file is compressed, None if it is not."""
    with open(path, "rb") as file:
        head = file.read(8)
    return next((name for start, name in COMPRESSIONS.items() if head.startswith(start)), None)


@contextmanager
def _opened(path: Path, file: BinaryIO) -> Iterator[_Reader]:
    kind = compression(path)
    if kind == "Zstandard":
        with _zstandard(file) as reader:
            yield reader
        return
    if kind is None:
        yield file
        return
    import bz2
    import gzip
    import lzma

    doors: Mapping[str, Callable[..., Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    with doors[kind](file, "rb") as packed:
        yield packed


def _zstandard(file: BinaryIO) -> BinaryIO:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError("zstandard", "text") from error
    return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))


def read_pieces(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The bytes ``start`` to ``stop`` (None: the end) of a file, unpacked, ``PIECE`` at a time.

    Raises:
        ValueError: what is compressed is damaged.
        MissingExtraError: it needs a package.
    """
    with open(path, "rb") as file, _opened(path, file) as reader:
        position = 0
        if reader is file:
            position = file.seek(start)
        while stop is None or position < stop:
            before = file.tell()
            piece = _read(reader, PIECE if stop is None else min(PIECE, max(stop - position, 1)), path)
            add(file.tell() - before)
            if not piece:
                return
            skipped = min(max(start - position, 0), len(piece))
            position += len(piece)
            if skipped < len(piece):
                yield piece[skipped:]


def _read(reader: _Reader, size: int, path: Path) -> bytes:
    try:
        return reader.read(size)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} cannot be unpacked ({error}); the whole file is needed; fetch it again") from error


def decode_pieces(pieces: Iterable[bytes], name: str, start: int = 0) -> Iterator[str]:
    """UTF-8 text, without a byte order mark at its start; ``start`` is where the first piece stands in the file.

    Raises:
        ValueError: NUL bytes or invalid UTF-8, by their offset in the file.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, first = start, start == 0
    for piece in pieces:
        if (place := piece.find(b"\0")) >= 0:
            raise _binary(name, offset + place, piece[place - 1 : place + 3])
        text = _decoded(decoder, piece, offset, name, final=False)
        offset += len(piece)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if text:
            yield text
    _decoded(decoder, b"", offset, name, final=True)


def _decoded(decoder: codecs.IncrementalDecoder, piece: bytes, offset: int, name: str, final: bool) -> str:
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(piece, final)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 at byte offset {offset - pending + error.start} "
            f"(0x{error.object[error.start]:02x}, {error.reason}); text in UTF-8 is allowed; convert it, for example "
            "with iconv"
        ) from error


def _binary(name: str, offset: int, around: bytes) -> ValueError:
    likely = "is it UTF-16, which iconv converts" if around.count(0) == 2 else "is it a binary file"
    return ValueError(f"{name} has a NUL byte at offset {offset}; text in UTF-8 is allowed; {likely}?")


def read_rows(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a .jsonl file with a text, by number from 1, and their texts.

    Raises:
        ValueError: a line is not a JSON object with a text in its field ``text``, by its number.
    """
    for number, line in enumerate(_lines(decode_pieces(read_pieces(path), str(path))), 1):
        if line.strip():
            text = _row_text(line, f"line {number} of {path}")
            if text.strip():
                yield number, text


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        yield from lines
    yield rest


def _row_text(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'{place} is not JSON ({error}); an object {{"text": ...}} a line is allowed') from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = f"has the fields {', '.join(map(str, row)) or 'none'}" if isinstance(row, dict) else "is no object"
        raise ValueError(f'{place} {found}; an object with a text in its field "text" is allowed; rename the field')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} holds half of a surrogate pair; whole characters are allowed; mend it") from error
    return text
