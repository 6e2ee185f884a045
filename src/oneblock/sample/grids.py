"""Sampling grids: ``steps + 1`` descending noise levels (float64), from the law's top to 0.

The sampler calls the denoiser at the first ``steps`` of them; the last step goes to 0, where the answer is the
denoiser's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oneblock.partition import Partition


def equal_mass_grid(partition: Partition, steps: int) -> Tensor:
    """Each block gets the same number of steps, at levels of equal mass that start on the block's upper edge.

    The grid of DiffusionBlocks, Section 3.3 (https://arxiv.org/abs/2506.14202), with one change: the levels are
    counted per band, so it also serves bands of unequal mass.

    Raises:
        ValueError: when ``steps`` is not a multiple of the number of blocks.
    """
    blocks = partition.num_blocks
    if steps < blocks or steps % blocks:
        raise ValueError(f"steps={steps} is not a multiple of the {blocks} blocks; use {_nearest(steps, blocks)}")
    per_block = steps // blocks
    levels = []
    for block in range(blocks):
        lower, upper = partition.band(block)
        q_low, q_high = partition.law.cdf(torch.tensor([lower, upper], dtype=torch.float64))
        fraction = torch.arange(per_block, dtype=torch.float64) / per_block
        inner = partition.law.quantile(q_high + fraction * (q_low - q_high))
        inner[0] = upper
        levels.append(inner)
    return torch.cat([*levels, torch.zeros(1, dtype=torch.float64)])


def karras_grid(sigma_min: float, sigma_max: float, steps: int, rho: float = 7.0) -> Tensor:
    """``(sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho``, then 0 (EDM, Equation 5)."""
    if steps < 2:
        raise ValueError(f"steps={steps} is too small for a grid; use 2 or more")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (top + ramp * (bottom - top)) ** rho
    levels[0], levels[-1] = sigma_max, sigma_min
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def _nearest(steps: int, blocks: int) -> str:
    below = steps // blocks * blocks
    return f"{below} or {below + blocks}" if below else str(blocks)
