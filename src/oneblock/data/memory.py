"""Batches: training samples addressed by their step, and those of images in memory."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .imageset import ImageSet
from .order import Order
from .transforms import to_float, to_uint8


class Samples(NamedTuple):
    """Training samples: values (n, ...), and labels int64 (n,), or None where the data have none."""

    values: Tensor
    labels: Tensor | None


class Batches(Protocol):
    """Training samples addressed by their step."""

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        """The n samples of one step; depends on nothing but the arguments."""


@runtime_checkable
class Movable(Batches, Protocol):
    """Training samples that another device can hold whole."""

    @property
    def nbytes(self) -> int:
        """Bytes that they take there."""

    def to(self, device: torch.device) -> Batches:
        """The same samples in the same order, held and indexed on ``device``."""


class Source(Batches, Protocol):
    """Training images addressed by their step."""

    @property
    def name(self) -> str:
        """Where the images come from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of one image."""

    @property
    def classes(self) -> tuple[str, ...]:
        """One name per label."""

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        """The batch of one step; depends on nothing but the arguments.

        Args:
            step: 0 or more.
            batch_size: n, 1 or more.
            seed: names the order of the samples.

        Returns:
            Images float32 (n, c, h, w) in [-1, 1] and their labels.

        Raises:
            ValueError: ``step`` is negative or ``batch_size`` is below 1.
        """

    def first(self, count: int | None = None) -> ImageSet:
        """The first ``count`` images (None: all), in memory and in the order they are stored."""

    def samples(self, count: int | None = None) -> Samples:
        """The same as training sees them."""

    def fingerprint(self) -> str:
        """16 hex digits that tell these images from others; a plan holds them."""


class MemorySource:
    """A ``Source`` over an ``ImageSet``, with random access to every step."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self._order = Order(len(images), images.images.device)

    @property
    def name(self) -> str:
        return self.images.name

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images.shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        chosen = self.indices(step, batch_size, seed)
        return Samples(to_float(self.images.images[chosen]), self.images.labels[chosen])

    def first(self, count: int | None = None) -> ImageSet:
        return self.images if count is None else self.images.first(count)

    def samples(self, count: int | None = None) -> Samples:
        found = self.first(count)
        return Samples(to_float(found.images), found.labels)

    def fingerprint(self) -> str:
        return self.images.fingerprint()

    @property
    def nbytes(self) -> int:
        """Of images, as bytes, and labels."""
        return self.images.images.nbytes + self.images.labels.nbytes

    def to(self, device: torch.device) -> MemorySource:
        """The same on ``device``, where batches are then made."""
        return MemorySource(self.images.to(device))

    def indices(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Positions in the set of the samples of one step: int64 (batch_size,)."""
        return self._order.indices(step, batch_size, seed)


def drawn(source: Source, count: int) -> ImageSet:
    """``count`` images of a source, drawn from all of them: those of step 0 under seed 0, so that every caller has the
    same. All, in the order they are stored, if there are no more."""
    found = source.first(count + 1)
    if len(found) <= count:
        return found
    if isinstance(source, MemorySource):
        return source.images.take(source.indices(0, count, 0))
    values, labels = source.batch(0, count, 0)
    known = found.labels[:1].expand(count) if labels is None else labels
    return ImageSet(to_uint8(values), known, found.classes, found.name)


def shuffled_if_sorted(images: ImageSet, count: int) -> ImageSet:
    """``count`` images of a set: the first, or drawn from all where the set is sorted by class, as folders are."""
    if count >= len(images) or bool((images.labels.diff() < 0).any()) or images.labels[0] == images.labels[-1]:
        return images.first(count)
    return drawn(MemorySource(images), count)
