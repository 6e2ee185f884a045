"""Rows of a PNG without holding the image: Pillow decodes whole files only.

The rows of a PNG are filtered, and each filter needs no more than the row above. So rows are inflated a band at a time,
and Pillow decodes each band as pixels of their own: the last row that was decoded, unfiltered, then the band.
Only files of 8 bits per value that are not interlaced can be read so.

Format: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD = struct.Struct(">8sI4sIIBBBBB")
# colour type -> mode, of as many bytes as a pixel has
MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
PIECE = 2**16


@dataclass(frozen=True)
class Rows:
    """A PNG whose rows can be read in order; see ``open_rows``."""

    path: str
    width: int
    height: int
    mode: str

    def bands(self, top: int, bottom: int, rows: int) -> Iterator[Image]:
        """The rows from ``top`` up to ``bottom``, ``rows`` at a time, as images of the whole width without a palette.

        Raises:
            OSError: the file is damaged, or ends before ``bottom``.
        """
        above = b""
        edges = [*range(0, top, rows), *range(top, bottom, rows), bottom]
        with open(self.path, "rb") as file:
            inflated = _Inflated(file)
            for start, end in itertools.pairwise(edges):
                band = self._decoded(above, inflated.read((end - start) * self._row), end - start)
                above = b"\0" + band.crop((0, band.height - 1, self.width, band.height)).tobytes()
                if start >= top:
                    yield band

    @property
    def _row(self) -> int:
        """Bytes of a row: the number of its filter, then the pixels."""
        return 1 + self.width * len(self.mode)

    def _decoded(self, above: bytes, rows: bytes, count: int) -> Image:
        from PIL import Image as Pillow

        height = count + bool(above)
        size = (self.width, height)
        image = Pillow.frombytes(self.mode, size, zlib.compress(above + rows, 0), "zip", self.mode, 0)
        return image.crop((0, height - count, self.width, height)) if above else image


def open_rows(path: str) -> Rows | None:
    """The rows of a PNG file; None where it cannot be read in this way."""
    try:
        with open(path, "rb") as file:
            head = HEAD.unpack(file.read(HEAD.size))
    except (OSError, struct.error):
        return None
    signature, _, kind, width, height, depth, colour, _, _, interlaced = head
    fits = signature == SIGNATURE and kind == b"IHDR" and depth == 8 and not interlaced and colour in MODES
    return Rows(path, width, height, MODES[colour]) if fits else None


class _Inflated:
    """The inflated content of the IDAT chunks, any number of bytes at a time."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(len(SIGNATURE))
        self._pieces = _pieces(file)
        self._inflate = zlib.decompressobj()
        self._rest = b""

    def read(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            piece = self._rest or next(self._pieces, b"")
            if not piece:
                raise OSError("image file is truncated")
            try:
                found += self._inflate.decompress(piece, count - len(found))
            except zlib.error as error:
                raise OSError(f"broken PNG file ({error})") from error
            self._rest = self._inflate.unconsumed_tail
        return bytes(found)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The content of the IDAT chunks in pieces; their check sums are verified."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind != b"IDAT":
            file.seek(length + 4, io.SEEK_CUR)
            continue
        check = zlib.crc32(kind)
        while length:
            piece = file.read(min(length, PIECE))
            if not piece:
                return
            check, length = zlib.crc32(piece, check), length - len(piece)
            yield piece
        if file.read(4) != struct.pack(">I", check):
            raise OSError("broken PNG file (bad check sum)")
