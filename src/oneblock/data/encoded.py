"""Sources behind a codec: the model may denoise something other than pixels, for example an autoencoder's latents."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .dataset import DatasetSource
from .imageset import ImageSet
from .memory import Batches, MemorySource, Movable, Samples, Source


class Codec(Protocol):
    """A fixed, deterministic map from images to what is denoised, and back."""

    def encode(self, images: Tensor) -> Tensor:
        """(n, c, h, w) of ``images`` (n, channels, height, width) in [-1, 1]."""

    def decode(self, encoded: Tensor) -> Tensor:
        """Images (n, channels, height, width), about [-1, 1], of ``encoded`` (n, c, h, w)."""

    def fingerprint(self) -> str:
        """Tells this codec from others; empty for pixels."""


class Pixels:
    """The codec that leaves images as they are."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, encoded: Tensor) -> Tensor:
        return encoded

    def fingerprint(self) -> str:
        return ""


def movable(source: Batches) -> Movable | None:
    """``source`` as samples that another device can hold whole; None where they are made anew for every batch."""
    if isinstance(source, EncodedSource) and isinstance(source.codec, Pixels):
        source = source.images
    return source if isinstance(source, Movable) else None


def captions_of(source: Batches) -> tuple[str, ...] | None:
    """The captions that the labels of ``source`` count through; None where labels are classes, or there are none."""
    images = source.images if isinstance(source, EncodedSource) else source
    held = images.images if isinstance(images, MemorySource) else images
    return tuple(held.classes) if isinstance(held, ImageSet | DatasetSource) and held.captioned else None


class EncodedSource:
    """A ``Source`` whose batches are those of ``images`` through ``codec``; ``first`` still gives the images.
    ``text_encoder`` is the directory of what reads its captions; None is what a plan says."""

    def __init__(self, images: Source, codec: Codec, text_encoder: Path | None = None) -> None:
        self.images = images
        self.codec = codec
        self.text_encoder = text_encoder
        self._shape = tuple(codec.encode(torch.zeros(1, *images.shape)).shape[1:])

    @property
    def name(self) -> str:
        return self.images.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of one encoded image."""
        return self._shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        images, labels = self.images.batch(step, batch_size, seed)
        return Samples(self.codec.encode(images), labels)

    def first(self, count: int | None = None) -> ImageSet:
        return self.images.first(count)

    def samples(self, count: int | None = None) -> Samples:
        values, labels = self.images.samples(count)
        return Samples(self.codec.encode(values), labels)

    def fingerprint(self) -> str:
        return self.images.fingerprint()
