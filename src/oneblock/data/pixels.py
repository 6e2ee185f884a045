"""From a Pillow image of any mode to bytes of a fixed size and channel count."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .bands import centre, is_large, is_streamed, reduce
from .errors import MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
DEFAULT_SIZE = 32
WIDE = 2**16 - 1
"""White of an image of 16 bits."""
# what Pillow's decoders raise on damaged files, besides OSError
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error, zlib.error)
# tags of TIFF files and of cameras
BITS, PHOTOMETRIC, ORIENTATION, SMALLEST, LARGEST = 258, 262, 274, 340, 341
LONG = 4
"""How many times as long as wide an image may be to be resized as a whole. Resizing a part rounds differently, and what
ordinary images become should not change."""
PROFILES_KEPT = 64
COLOURS = {"P": "RGB", "PA": "RGB", "RGBA": "RGB", "LA": "L", "YCbCr": "RGB"}
"""Modes that colour profiles do not know, and those that take their place."""


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


def value_range(image: Image) -> tuple[float, float] | None:
    """The values that mean black and white where an image has more than 8 bits per value; None for all others.

    Integers of 16 bits (12 in some TIFF files) use their whole range. Of 32-bit integers and of floating point a file
    must say it: TIFF in SMinSampleValue and SMaxSampleValue.

    Raises:
        ValueError: the file does not say what its values mean.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return None
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;"):
        low, high = 0.0, float(2 ** int(_first(tags.get(BITS, 16))) - 1)
    elif image.mode == "I" and image.format in ("PPM", "PNG"):
        low, high = 0.0, float(WIDE)  # Pillow brings theirs to 16 bits
    else:
        low, high = (float(_first(tags.get(tag, math.nan))) for tag in (SMALLEST, LARGEST))
    if not (low < high and math.isfinite(high - low)):
        kind = "floating point" if image.mode == "F" else "integers of 32 bits"
        raise ValueError(
            f"{kind} without a known range (save 8 or 16 bits, or TIFF with SMinSampleValue and SMaxSampleValue)"
        )
    return (high, low) if _first(tags.get(PHOTOMETRIC, 1)) == 0 else (low, high)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def to_pixels(image: Image, size: int, channels: int) -> Tensor:
    """Resize the short side to ``size``, crop the centre, convert.

    Transparent parts are laid on white, values of more than 8 bits become 8, an embedded colour profile is converted to
    sRGB, the orientation noted by a camera is applied. Of several pictures in a file the first is taken. An image of
    more than ``bands.LARGE`` pixels is reduced piece by piece first, so that its memory stays small.

    Args:
        image: any mode that Pillow converts to ``L`` or ``RGB``, any size.
        size: side of the square result, at least 1.
        channels: 1 or 3.

    Returns:
        uint8 (channels, size, size).

    Raises:
        ValueError: the meaning of the values is not known (``value_range``).
    """
    import numpy as np

    mode = "L" if channels == 1 else "RGB"
    plain = Plain(mode, value_range(image), image.info.get("icc_profile"))
    if is_large(image):
        image = _turned(reduce(image, size, plain), _orientation(image, is_streamed(image)))
    else:
        image.load()
        image = plain(_turned(image, _orientation(image)))
    array = np.array(_square(image, size), dtype=np.uint8).reshape(size, size, channels)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


class Plain:
    """Makes an image, or a part of it, opaque, of 8 bits, of sRGB, and of one mode; every pixel by itself.

    Args:
        mode: ``L`` or ``RGB``.
        limits: the values of black and of white (``value_range``).
        profile: the embedded ICC profile; one that cannot be used is passed over, as browsers do.
    """

    def __init__(self, mode: str, limits: tuple[float, float] | None, profile: bytes | None) -> None:
        self.mode, self.limits, self.profile = mode, limits, profile

    def __call__(self, image: Image) -> Image:
        return _opaque(self._srgb(self._narrow(image))).convert(self.mode)

    def _narrow(self, image: Image) -> Image:
        """8 bits in place of more: Pillow itself would clip every value above 255."""
        import numpy as np
        from PIL import Image as Pillow

        if self.limits is None:
            return image
        black, white = self.limits
        values = np.asarray(image).astype(np.float64)
        shares = np.nan_to_num((values - black) * (255 / (white - black)))  # NaN is black
        grey = Pillow.fromarray(shares.round().clip(0, 255).astype(np.uint8))
        if isinstance(clear := image.info.get("transparency"), int):
            grey.putalpha(Pillow.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return grey

    def _srgb(self, image: Image) -> Image:
        if not self.profile:
            return image
        from PIL import ImageCms

        opaque = image.convert(COLOURS.get(image.mode, image.mode))
        transform = _transform(self.profile, opaque.mode)
        if transform is None:
            return image
        converted = ImageCms.applyTransform(opaque, transform)
        assert converted is not None, "only a conversion in place gives nothing"
        if image.has_transparency_data:
            converted.putalpha(image.convert("RGBA").getchannel("A"))
        return converted


@lru_cache(PROFILES_KEPT)
def _transform(profile: bytes, mode: str) -> ImageCmsTransform | None:
    """From the colours of a profile to sRGB; None where they are sRGB, or the profile does not fit ``mode``."""
    import io

    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def _orientation(image: Image, streamed: bool = False) -> int:
    """How the camera was held. Asking a PNG that was not loaded would load it; it says so before its pixels, or not."""
    from PIL import Image as Pillow

    exif = image.getexif() if not streamed else Pillow.Exif()
    if streamed:
        exif.load(image.info.get("exif", b""))
    return int(exif.get(ORIENTATION, 1))


def _turned(image: Image, turn: int) -> Image:
    """The image as the camera was held; ``turn`` is the orientation of its EXIF data."""
    from PIL import Image as Pillow

    turns = Pillow.Transpose
    methods = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }
    return image.transpose(methods[turn]) if turn in methods else image


def _opaque(image: Image) -> Image:
    from PIL import Image as Pillow

    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    white = Pillow.new("RGBA", layer.size, (255, 255, 255, 255))
    return Pillow.alpha_composite(white, layer).convert("RGB")


def _square(image: Image, size: int) -> Image:
    """The centre of the image, resized as all of it is; of a long one, no more than is kept is computed."""
    from PIL import Image as Pillow

    width, height = image.size
    short = min(width, height)
    if max(width, height) > LONG * short:
        return image.resize((size, size), resample=Pillow.Resampling.BICUBIC, box=centre(width, height, size))
    wide, high = round(width * size / short), round(height * size / short)
    if short != size:
        image = image.resize((wide, high), resample=Pillow.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return image.crop((left, top, left + size, top + size))
