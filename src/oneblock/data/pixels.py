"""From a decoded Pillow image of any mode to bytes of a fixed size and channel count."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
# 65535 / 255: the 16-bit value that means the same brightness as the byte 1
WIDE_STEP = 257
DEFAULT_SIZE = 32
# what Pillow's decoders raise on damaged files, besides OSError
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error, zlib.error)


def require_pillow() -> None:
    """Raise MissingExtraError unless Pillow is installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pillow") from error


def is_grey(mode: str) -> bool:
    """Whether images of this Pillow mode hold brightness only; a palette counts as colour."""
    return mode in GREY_MODES


def choose_channels(modes: Mapping[str, int], channels: int | None, name: str) -> int:
    """The channel count for images of these modes.

    Args:
        modes: number of images of each Pillow mode.
        channels: 1 or 3 decide by themselves; None asks the modes.
        name: the data set, for the error message.

    Raises:
        ValueError: ``channels`` is None and the modes mix grey and colour.
    """
    if channels is not None:
        return channels
    grey = {is_grey(mode) for mode in modes}
    if len(grey) > 1:
        counts = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        raise ValueError(
            f"{name} mixes grey and colour images ({counts}); one kind is allowed when channels is None; "
            "pass channels=1 or channels=3 (--channels)"
        )
    return 1 if grey.pop() else 3


def to_pixels(image: Image, size: int, channels: int) -> Tensor:
    """Resize the short side to ``size``, crop the centre, convert.

    Transparent parts are laid on white, 16 bits become 8, and the orientation noted by a camera is applied.

    Args:
        image: any mode that Pillow converts to ``L`` or ``RGB``, any size.
        size: side of the square result, at least 1.
        channels: 1 or 3.

    Returns:
        uint8 (channels, size, size).
    """
    import numpy as np
    from PIL import ImageOps

    upright = _opaque(_narrow(ImageOps.exif_transpose(image)))
    converted = upright.convert("L" if channels == 1 else "RGB")
    array = np.array(_square(converted, size), dtype=np.uint8).reshape(size, size, channels)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _narrow(image: Image) -> Image:
    """8 bits in place of 16: Pillow itself would clip every value above 255."""
    import numpy as np
    from PIL import Image as Pillow

    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64) / WIDE_STEP
    return Pillow.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _opaque(image: Image) -> Image:
    from PIL import Image as Pillow

    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    white = Pillow.new("RGBA", layer.size, (255, 255, 255, 255))
    return Pillow.alpha_composite(white, layer).convert("RGB")


def _square(image: Image, size: int) -> Image:
    from PIL import Image as Pillow

    width, height = image.size
    short = min(width, height)
    if short != size:
        wide, high = round(width * size / short), round(height * size / short)
        image = image.resize((wide, high), resample=Pillow.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
