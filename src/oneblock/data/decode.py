"""Many files of images decoded at once, in order, in bounded memory.

Pillow lets other threads work while it inflates and decodes, so threads share the work; their results are taken in the
order of the files and do not depend on their number.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from .bands import BAND, is_large, is_streamed
from .pixels import DAMAGE, require_pillow, to_pixels, value_range
from .progress import tell
from .reading import READING, Reading, usable_cpus

if TYPE_CHECKING:
    from PIL.Image import Image

MEMORY = 2**28
"""Bytes that all images being decoded may need together; a single one may need more."""
OPAQUE, CLEAR = 8, 20
"""Bytes for each pixel while an image is decoded and converted; the second with transparency or a palette."""
AHEAD = 8
"""Files for each worker that may be finished or waiting."""

T = TypeVar("T")
R = TypeVar("R")

_opening = threading.Lock()


class UnusableError(Exception):
    """A file that is left out; the kind of reason, details of this file, and whether it may be read another time."""

    def __init__(self, kind: str, detail: str = "", passing: bool = False) -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind, self.detail, self.passing = kind, detail, passing


@dataclass(frozen=True)
class Header:
    """What a file says before it is decoded: Pillow's mode, and the bytes that decoding will need."""

    mode: str
    memory: int


def read_header(path: Path, reading: Reading) -> Header:
    """Look at an image without decoding it.

    Raises:
        UnusableError: it cannot or must not be decoded.
    """
    return _with_image(path, reading, _header)


def read_pixels(path: Path, reading: Reading, size: int, channels: int) -> Tensor:
    """Decode an image: uint8 (channels, size, size).

    Raises:
        UnusableError: it cannot or must not be decoded.
    """
    return _with_image(path, reading, lambda image: to_pixels(image, size, channels))


def read_picture(path: Path, size: int, channels: int) -> Tensor:
    """A single image of a user: uint8 (channels, size, size), resized and cut to a square.

    Raises:
        ValueError: it cannot be decoded.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow()
    try:
        return read_pixels(path, READING, size, channels)
    except UnusableError as error:
        raise ValueError(f"{path} cannot be used: {error}; give an image") from error


def _with_image(path: Path, reading: Reading, work: Callable[[Image], R]) -> R:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with _open(path) as image:
            if image.width * image.height > reading.max_pixels:
                raise UnusableError(kind_of_size(reading), f"{image.width} x {image.height}")
            try:
                value_range(image)
            except ValueError as error:
                raise UnusableError(str(error)) from error
            return work(image)
    except UnidentifiedImageError:
        raise UnusableError("empty file" if not path.stat().st_size else "not an image") from None
    except Pillow.DecompressionBombError as error:  # of an image inside, e.g. of an icon
        raise UnusableError(kind_of_size(reading), str(error)) from error
    except MemoryError:
        raise UnusableError("unreadable", "not enough memory", passing=True) from None
    except DAMAGE as error:
        # the system numbers its errors, Pillow does not
        passing = isinstance(error, OSError) and error.errno is not None
        raise UnusableError("unreadable", str(error) or type(error).__name__, passing) from error


def _open(path: Path) -> Image:
    """Open an image of any size: Pillow's own limit, a global of its module, says nothing of ``max_pixels``."""
    from PIL import Image as Pillow

    with _opening:
        limit = Pillow.MAX_IMAGE_PIXELS
        Pillow.MAX_IMAGE_PIXELS = None
        try:
            return Pillow.open(path)
        finally:
            Pillow.MAX_IMAGE_PIXELS = limit


def kind_of_size(reading: Reading) -> str:
    """The reason for which large images are left out, and the option that allows them."""
    return f"over {reading.max_pixels:,} pixels (max_pixels, --max-pixels, allows more)"


def _header(image: Image) -> Header:
    clear = image.mode in ("P", "PA", "LA", "RGBA") or "transparency" in image.info
    pixels = image.width * image.height
    if not is_large(image):
        return Header(image.mode, pixels * (CLEAR if clear else OPAQUE))
    return Header(image.mode, BAND * CLEAR + (0 if is_streamed(image) else 4 * pixels))


def decode(
    paths: Sequence[tuple[Path, int]], reading: Reading, size: int, channels: int, what: str
) -> Iterator[Tensor | UnusableError]:
    """Decode files in order, several at a time; the listener hears how far it is.

    Args:
        paths: files, each with the bytes that decoding it needs (``Header.memory``).
        what: the data set, for the listener.
    """

    def work(item: tuple[Path, int]) -> Tensor | UnusableError:
        try:
            return read_pixels(item[0], reading, size, channels)
        except UnusableError as error:
            return error

    for done, found in enumerate(in_order(work, paths, lambda item: item[1]), 1):
        yield found
        tell(done, len(paths), f"images of {what}")


def in_order(
    work: Callable[[T], R],
    items: Sequence[T],
    cost: Callable[[T], int],
    workers: int | None = None,
    memory: int = MEMORY,
) -> Iterator[R]:
    """``work`` of every item, in the order of the items.

    Args:
        cost: bytes that the work of an item needs.
        workers: threads; None is ``usable_cpus()``.
        memory: bytes for all items that are worked on at a time; an item that needs more is worked on alone.
    """
    workers = usable_cpus() if workers is None else workers
    waiting: deque[tuple[Future[R], int]] = deque()
    used = 0
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            needed = cost(item)
            while waiting and (used + needed > memory or len(waiting) >= AHEAD * workers):
                future, freed = waiting.popleft()
                yield future.result()
                used -= freed
            waiting.append((pool.submit(work, item), needed))
            used += needed
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
