"""Images too large to be held as pixels: only the central square is read, a band of rows at a time, and each band is
reduced by a whole factor before the next is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .png import open_rows

if TYPE_CHECKING:
    from PIL.Image import Image

LARGE = 2**24
"""Pixels above which an image is read in bands."""
BAND = 2**21
"""Pixels of a band."""
FINER = 3
"""The reduced square has at least this many times the pixels of the result on a side, so that nobody sees the reduction
(the ``reducing_gap`` of Pillow)."""

AVERAGED = ("L", "LA", "RGB", "RGBA")
"""Modes whose values can be averaged as they are."""

Box = tuple[int, int, int, int]


def is_large(image: Image) -> bool:
    """Whether ``reduce`` is for this image."""
    return image.width * image.height > LARGE


def is_streamed(image: Image) -> bool:
    """Whether the rows of its file can be read without holding them all."""
    return image.format == "PNG" and open_rows(_file(image)) is not None


def centre(width: int, height: int, size: int) -> tuple[float, float, float, float]:
    """What of an image stays when its short side becomes ``size`` pixels and the centre is cropped in these: left, top,
    right, bottom in pixels of the image."""
    short = min(width, height)
    wide, high = round(width * size / short), round(height * size / short)
    left, top = (wide - size) // 2, (high - size) // 2
    return left * width / wide, top * height / high, (left + size) * width / wide, (top + size) * height / high


def reduce(image: Image, size: int, plain: Callable[[Image], Image]) -> Image:
    """The central square, made plain, with sides of at least ``FINER`` times ``size`` where the image has as many.

    Args:
        image: just opened, not loaded.
        size: side of the result that is wanted in the end.
        plain: makes an image of any mode one of bytes, pixel by pixel.
    """
    from PIL import Image as Pillow

    wanted = FINER * size
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (wanted, wanted))  # None keeps the mode
    short = min(image.size)
    factor = max(1, short // wanted)
    side = short // factor * factor
    box = centre(image.width, image.height, size)
    left = max(0, min(image.width - side, round((box[0] + box[2] - side) / 2)))
    top = max(0, min(image.height - side, round((box[1] + box[3] - side) / 2)))
    found: Image | None = None
    at = 0
    for band in _bands(image, (left, top, left + side, top + side), factor):
        # averages of transparent colours are weighted by Pillow, which then has less to make plain
        averaged = band.mode in AVERAGED and "transparency" not in band.info
        small = plain(band.reduce(factor)) if averaged else plain(band).reduce(factor)
        found = found or Pillow.new(small.mode, (side // factor, side // factor))
        found.paste(small, (0, at))
        at += small.height
    assert found is not None, "a square has at least one row"
    return found


def _bands(image: Image, box: Box, factor: int) -> Iterator[Image]:
    """The rows of ``box``, a multiple of ``factor`` at a time."""
    left, top, right, bottom = box
    rows = max(1, BAND // max(1, image.width) // factor) * factor
    stream = open_rows(_file(image)) if image.format == "PNG" else None
    if stream is not None:
        for band in stream.bands(top, bottom, rows):
            if image.palette is not None:
                band.putpalette(image.palette.palette)
            band.info = image.info
            yield band.crop((left, 0, right, band.height))
        return
    for start in range(top, bottom, rows):
        yield image.crop((left, start, right, min(start + rows, bottom)))


def _file(image: Image) -> str:
    return str(getattr(image, "filename", ""))
