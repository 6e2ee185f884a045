"""Generation of many samples, each of which follows from its own noise and condition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, overload

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.sample.carry import Carrying
from oneblock.sample.ode import Sampler
from oneblock.state import State, StatefulDenoiser, joined

CHUNK = 500
"""Samples whose noise one generator draws, always as a whole."""
TOGETHER = 4 * CHUNK
"""Samples that go through the levels together: where blocks are loaded one after the other, each is loaded once for all
of them."""


@torch.no_grad()
def generate(
    denoiser: DenoiserLike,
    sampler: Sampler,
    grid: Tensor,
    conditions: Condition,
    shape: tuple[int, ...],
    seed: int,
    batch_size: int = CHUNK,
    waiting: Callable[[int], None] | None = None,
    carry: bool = False,
) -> Tensor:
    """Samples (n, *shape) for ``conditions`` of n samples from pure noise at level ``grid[0]``.

    The noise of sample i follows from (seed, i) alone, so that neither more samples nor another ``batch_size`` change
    a sample, beyond rounding. They are made on the device of the conditions; where the conditions hold no tensor, on
    that of the grid.

    Args:
        batch_size: samples of one call of the denoiser.
        waiting: told how many samples come after those that go through the levels next.
        carry: each call is given the state that the call before has left; the denoiser must know states.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not a batch size; use 1 or more")
    device = next((t.device for t in conditions.tensors()), grid.device)
    in_parts = _InParts(denoiser, batch_size)
    samples = []
    for start in range(0, len(conditions), TOGETHER):
        part = conditions.take(slice(start, start + TOGETHER))
        if waiting is not None:
            waiting(len(conditions) - start - len(part))
        noise = _Chunks(seed, start // CHUNK, len(part))
        z = noise(torch.empty(len(part), *shape, device=device)) * float(grid[0])
        samples.append(sampler.run(Carrying(in_parts) if carry else in_parts, z, grid, part, noise))
    return torch.cat(samples)


@dataclass(frozen=True)
class _InParts:
    """A denoiser that is asked about at most ``batch_size`` samples at a time."""

    denoiser: DenoiserLike
    batch_size: int

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...

    def __call__(
        self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        parts = [slice(start, start + self.batch_size) for start in range(0, len(z), self.batch_size)]
        if state is None:
            return torch.cat([self.denoiser(z[part], sigma[part], condition.take(part)) for part in parts])
        asked = cast(StatefulDenoiser, self.denoiser)
        done = [asked(z[part], sigma[part], condition.take(part), state.take(part)) for part in parts]
        return torch.cat([answer for answer, _ in done]), joined([left for _, left in done])


class _Chunks:
    """Noise of ``count`` samples from the chunk ``first`` on: that of chunk i follows from (seed, i)."""

    def __init__(self, seed: int, first: int, count: int) -> None:
        chunks = range(first, first + -(-count // CHUNK))
        self._generators = [torch.Generator().manual_seed((seed * 1_000_003 + i) % 2**64) for i in chunks]

    def __call__(self, like: Tensor) -> Tensor:
        shape = (CHUNK, *like.shape[1:])
        drawn = [torch.randn(shape, generator=generator, dtype=like.dtype) for generator in self._generators]
        return torch.cat(drawn)[: len(like)].to(like.device)
