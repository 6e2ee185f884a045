"""Sampling grids: ``steps + 1`` descending noise levels (float64), from the law's top to 0.

The sampler calls the denoiser at the first ``steps`` of them; the last step goes to 0, where the answer is the
denoiser's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oneblock.checks import check_count
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


def flow_grid(low: float, high: float, steps: int, shift: float = 1.0) -> Tensor:
    """The levels of equal steps in the time of a flow, shifted: ``t_i = 1 - i / steps``, ``sigma = shift t / (1 - t)``,
    from ``high`` down to 0 (Esser et al., Equation 23, https://arxiv.org/abs/2403.03206).

    Raises:
        ValueError: the steps are so many that a level would leave the range from ``low`` to ``high``.
    """
    check_count("steps", steps)
    t = 1 - torch.arange(1, steps, dtype=torch.float64) / steps
    inner = shift * t / (1 - t)
    if len(inner) and not low <= float(inner[-1]) <= float(inner[0]) < high:
        raise ValueError(f"steps={steps} lead below the level {low:g} or above {high:g}; use fewer steps")
    ends = torch.tensor([high, 0.0], dtype=torch.float64)
    return torch.cat([ends[:1], inner, ends[1:]])


def _nearest(steps: int, blocks: int) -> str:
    below = steps // blocks * blocks
    return f"{below} or {below + blocks}" if below else str(blocks)
