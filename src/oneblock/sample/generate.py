"""Generation of many samples in batches, reproducible one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.sample.ode import Sampler


@torch.no_grad()
def generate(
    denoiser: DenoiserLike,
    sampler: Sampler,
    grid: Tensor,
    contexts: Tensor,
    shape: tuple[int, ...],
    seed: int,
    batch_size: int = 500,
) -> Tensor:
    """Samples (n, *shape) for ``contexts`` (n, ...) from pure noise at level ``grid[0]``.

    The noise of batch i follows from (seed, i), so more samples leave the first ones as they are.
    """
    samples = []
    for i, part in enumerate(contexts.split(batch_size)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        z = torch.randn(batch_size, *shape, generator=generator)[: len(part)] * float(grid[0])
        samples.append(sampler.run(denoiser, z.to(contexts.device), grid, part, generator))
    return torch.cat(samples)
