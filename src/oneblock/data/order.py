"""The order of training samples, which any machine can compute from the seed alone.

The samples of epoch e stand in the order of a permutation drawn from a generator seeded with a hash of (seed, e). Step
s of batch size n covers positions s n .. s n + n - 1 of the endless row of these permutations, so every epoch shows
each sample once, a resumed run needs no stored state, and the batch size may exceed the set.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Order:
    """The order of ``count`` samples.

    Args:
        device: where positions are given out; they are the same everywhere.
    """

    def __init__(self, count: int, device: torch.device | None = None) -> None:
        self.count = count
        self.device = torch.device("cpu") if device is None else device
        self._epoch: tuple[int, int] | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Positions in the set of the samples of one step: int64 (batch_size,)."""
        check_position(step, batch_size)
        start, missing, parts = step * batch_size, batch_size, []
        while missing:
            epoch, offset = divmod(start, self.count)
            part = self._permutation(seed, epoch)[offset : offset + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return torch.cat(parts)

    def _permutation(self, seed: int, epoch: int) -> Tensor:
        if self._epoch != (seed, epoch):
            generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
            self._order = torch.randperm(self.count, generator=generator).to(self.device)
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
