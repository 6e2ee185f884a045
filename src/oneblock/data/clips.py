"""Clips behind a codec: frames may be encoded one by one, or several in a row become one, as 1 + r k become 1 + k.

Shapes: n clips, f frames in [-1, 1] of (channels, height, width); encoded they are f' frames of (c, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from .codec import Codec, Pixels

State = Mapping[str, Tensor]
"""What a decoder keeps of the frames before."""


class ClipDecoder(Protocol):
    """Decodes a clip piece by piece, in order: the pieces together are what ``ClipCodec.decode`` makes of the whole."""

    def __call__(self, encoded: Tensor) -> Tensor:
        """The next frames (n, f, channels, height, width), about [-1, 1], of ``encoded`` (n, f', c, h, w)."""

    def state(self) -> State:
        """What is kept; nothing in it changes later."""

    def restore(self, state: State) -> None:
        """Go on where another decoder stood."""


@runtime_checkable
class ClipCodec(Codec, Protocol):
    """A ``Codec`` of clips (n, f, channels, height, width) in [-1, 1], encoded (n, f', c, h, w).

    Shapes and numbers of frames that do not fit are a ``ValueError`` that says which do.
    """

    @property
    def streams(self) -> bool:
        """Whether there is a ``decoder`` that keeps no more, the longer a clip gets."""

    def decoder(self) -> ClipDecoder:
        """A decoder of one batch of clips, from their beginning; ``ValueError`` where there is none."""

    def num_encoded(self, frames: int, later: bool = False) -> int:
        """f' of f ``frames``, those at the beginning of a clip or ``later`` ones."""

    def encoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(f', c, h, w) of a clip (f, channels, height, width)."""

    def decoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(f, channels, height, width) of what is encoded as (f', c, h, w)."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How shapes of clips change.

    Args:
        frames: r, of which one is made after the first frame.
        pixels: along the side of a square of which one place is made.
        channels: of frames, and encoded; None leaves them as they are.
    """

    frames: int = 1
    pixels: int = 1
    channels: tuple[int, int] | None = None

    def num_encoded(self, frames: int, later: bool = False) -> int:
        first = 0 if later else 1
        count, left = divmod(frames - first, self.frames)
        if left:
            near = [first + self.frames * k for k in (count, count + 1)]
            takes = f"{self.frames} k of them after others" if later else f"1 + {self.frames} k of them"
            raise ValueError(
                f"{frames} frames do not fit the autoencoder, which takes {takes}; use "
                f"{' or '.join(str(number) for number in near if number > 0)} frames (frames, --frames)"
            )
        return count + first

    def encoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        frames, channels, height, width = shape
        if self.channels is not None and channels != self.channels[0]:
            raise ValueError(
                f"frames have {channels} channels, but the autoencoder takes {self.channels[0]}; use "
                f"--channels {self.channels[0]}"
            )
        for side in (height, width):
            if side < self.pixels or side % self.pixels:
                below = side // self.pixels * self.pixels
                near = [str(number) for number in (below, below + self.pixels) if number]
                raise ValueError(
                    f"frames of {height} x {width} pixels do not fit the autoencoder, which makes one place of "
                    f"{self.pixels} x {self.pixels}; use {' or '.join(near)} pixels (frame_size, --frame-size)"
                )
        encoded = channels if self.channels is None else self.channels[1]
        return self.num_encoded(frames), encoded, height // self.pixels, width // self.pixels

    def decoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        frames, channels, height, width = shape
        decoded = channels if self.channels is None else self.channels[0]
        return 1 + self.frames * (frames - 1), decoded, self.pixels * height, self.pixels * width


@dataclass(frozen=True)
class Framewise:
    """A codec of images as a ``ClipCodec``: every frame is encoded and decoded by itself.

    Args:
        codec: of images.
        compression: of each frame.
    """

    codec: Codec = field(default_factory=Pixels)
    compression: Compression = Compression()

    @property
    def streams(self) -> bool:
        return True

    def encode(self, images: Tensor) -> Tensor:
        self.encoded_shape(tuple(images.shape[1:]))
        return self.codec.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def decode(self, encoded: Tensor) -> Tensor:
        return self.codec.decode(encoded.flatten(0, 1)).unflatten(0, encoded.shape[:2])

    def fingerprint(self) -> str:
        return self.codec.fingerprint()

    def decoder(self) -> ClipDecoder:
        return _EachFrame(self)

    def num_encoded(self, frames: int, later: bool = False) -> int:
        return self.compression.num_encoded(frames, later)

    def encoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.compression.encoded_shape(shape)

    def decoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.compression.decoded_shape(shape)


@dataclass(frozen=True)
class _EachFrame:
    """A decoder that keeps nothing."""

    codec: Framewise

    def __call__(self, encoded: Tensor) -> Tensor:
        return self.codec.decode(encoded)

    def state(self) -> State:
        return {}

    def restore(self, state: State) -> None:
        pass


def clip_codec(codec: Codec) -> ClipCodec:
    """The codec of a source of clips: itself, or that of pixels.

    Raises:
        ValueError: it encodes images.
    """
    if isinstance(codec, Pixels):
        return Framewise(codec)
    if not isinstance(codec, ClipCodec):
        raise ValueError(f"{type(codec).__name__} encodes images, and these are clips; give a ClipCodec, as Framewise")
    return codec
