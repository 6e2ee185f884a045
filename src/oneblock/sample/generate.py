"""Generation of many samples in batches, reproducible one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.sample.ode import Sampler


@torch.no_grad()
def generate(
    denoiser: DenoiserLike,
    sampler: Sampler,
    grid: Tensor,
    conditions: Condition,
    shape: tuple[int, ...],
    seed: int,
    batch_size: int = 500,
) -> Tensor:
    """Samples (n, *shape) for ``conditions`` of n samples from pure noise at level ``grid[0]``.

    The noise of batch i follows from (seed, i), so more samples leave the first ones as they are. They are made on the
    device of the conditions; where these hold no tensor, on that of the grid.
    """
    device = next((t.device for t in conditions.tensors()), grid.device)
    samples = []
    for i, start in enumerate(range(0, len(conditions), batch_size)):
        part = conditions.take(slice(start, start + batch_size))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        z = torch.randn(batch_size, *shape, generator=generator)[: len(part)] * float(grid[0])
        samples.append(sampler.run(denoiser, z.to(device), grid, part, generator))
    return torch.cat(samples)
