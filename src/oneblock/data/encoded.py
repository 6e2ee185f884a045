"""Sources behind a codec: the model may denoise something other than pixels, for example an autoencoder's latents."""

from __future__ import annotations

from pathlib import Path

import torch

from .clips import ClipCodec
from .codec import Codec, Pixels
from .dataset import DatasetSource
from .hub import HubSource
from .imageset import ImageSet
from .latents import Latents, latents
from .memory import Batches, MemorySource, Movable, Samples, Source
from .reading import Reading
from .videoset import VideoSource


def movable(source: Batches) -> Movable | None:
    """``source`` as samples that another device can hold whole; None where they are made anew for every batch."""
    if isinstance(source, EncodedSource):
        source = source.images if isinstance(source.codec, Pixels) else source.latents or source
    return source if isinstance(source, Movable) else None


def captions_of(source: Batches) -> tuple[str, ...] | None:
    """The captions that the labels of ``source`` count through; None where labels are classes, or there are none."""
    images = source.images if isinstance(source, EncodedSource) else source
    held = images.images if isinstance(images, MemorySource) else images
    return tuple(held.classes) if isinstance(held, ImageSet | DatasetSource | HubSource) and held.captioned else None


class EncodedSource:
    """A ``Source`` whose batches are those of ``images`` (or clips) through ``codec``; ``first`` still gives images.

    Args:
        reading: where and how the encoded images of a set in memory are kept, which are then encoded once, when they
            are first asked for; None encodes every batch.
        text_encoder: directory of what reads their captions; None is what a plan says.
    """

    def __init__(
        self, images: Source, codec: Codec, reading: Reading | None = None, *, text_encoder: Path | None = None
    ) -> None:
        self.images = images
        self.codec = codec
        self.text_encoder = text_encoder
        self._reading = reading
        self._latents: Latents | None = None
        self._shape = _encoded_shape(codec, images.shape)

    def of(self, images: Source) -> EncodedSource:
        """The same of other ``images``."""
        return EncodedSource(images, self.codec, self._reading, text_encoder=self.text_encoder)

    @property
    def name(self) -> str:
        return self.images.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of one encoded image, (f, c, h, w) of a clip."""
        return self._shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def latents(self) -> Latents | None:
        """All encoded images, made when they are first asked for; None where every batch is encoded by itself."""
        if self._latents is None and self._reading is not None and isinstance(self.images, MemorySource | VideoSource):
            self._latents = latents(self.images, self.codec.encode, self.codec.fingerprint(), self._reading)
        return self._latents

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        known = self.latents
        if known is not None:
            return known.batch(step, batch_size, seed)
        images, labels = self.images.batch(step, batch_size, seed)
        return Samples(self.codec.encode(images), labels)

    def first(self, count: int | None = None) -> ImageSet:
        return self.images.first(count)

    def samples(self, count: int | None = None) -> Samples:
        known = self.latents
        if known is not None:
            return Samples(known.values[:count], None if known.labels is None else known.labels[:count])
        values, labels = self.images.samples(count)
        return Samples(self.codec.encode(values), labels)

    def fingerprint(self) -> str:
        return self.images.fingerprint()


def _encoded_shape(codec: Codec, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(codec, ClipCodec):
        return codec.encoded_shape(shape)
    return tuple(codec.encode(torch.zeros(1, *shape)).shape[1:])
