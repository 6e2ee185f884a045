"""Batches from memory, in an order that any machine can compute from the seed alone.

The samples of epoch e stand in the order of a permutation drawn from a generator seeded with a hash of (seed,
e). Step s of batch size n covers positions s n .. s n + n - 1 of the endless row of these permutations, so
every epoch shows each sample once, a resumed run needs no stored state, and the batch size may exceed the
set.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .imageset import ImageSet
from .transforms import to_float


class Samples(NamedTuple):
    """Training samples: values (n, ...), and labels int64 (n,), or None where the data have none."""

    values: Tensor
    labels: Tensor | None


class Batches(Protocol):
    """Training samples addressed by their step."""

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        """The n samples of one step; depends on nothing but the arguments."""


class Source(Batches, Protocol):
    """Training images addressed by their step."""

    @property
    def name(self) -> str:
        """Where the images come from."""

    @property
    def shape(self) -> tuple[int, int, int]:
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

    def fingerprint(self) -> str:
        """16 hex digits that tell these images from others; a plan holds them."""


class MemorySource:
    """A ``Source`` over an ``ImageSet``, with random access to every step."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self._epoch: tuple[int, int] | None = None
        self._order = torch.empty(0, dtype=torch.int64)

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

    def fingerprint(self) -> str:
        return self.images.fingerprint()

    def indices(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Positions in the set of the samples of one step: int64 (batch_size,)."""
        check_position(step, batch_size)
        start, missing, parts = step * batch_size, batch_size, []
        while missing:
            epoch, offset = divmod(start, len(self.images))
            part = self._permutation(seed, epoch)[offset : offset + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return torch.cat(parts)

    def _permutation(self, seed: int, epoch: int) -> Tensor:
        if self._epoch != (seed, epoch):
            generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
            self._order = torch.randperm(len(self.images), generator=generator)
            self._epoch = (seed, epoch)
        return self._order


def check_position(step: int, batch_size: int) -> None:
    """Refuse a negative step or an empty batch with a ValueError."""
    if step < 0:
        raise ValueError(f"step={step} is negative; 0 or more is allowed; count steps from 0")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is too small; 1 or more is allowed; use for example 64")


def epoch_seed(seed: int, epoch: int, bits: int = 63) -> int:
    """A number in [0, 2^bits) that differs for every (seed, epoch): the head of their SHA-256."""
    digest = hashlib.sha256(f"{seed}:{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)
