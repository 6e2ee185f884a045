"""Noise levels of the blocks of a video: each block of frames may have its own.

One block of frames, the anchor, has the level that training draws. The others follow from a policy:

- ``"same"``: all have the level of the anchor (ordinary diffusion of a whole video)
- ``"independent"``: each draws its own from the law (Chen et al., "Diffusion Forcing", https://arxiv.org/abs/2407.01392)
- ``"monotone"``: no block is noisier than a later one, around an anchor at a random place; ``"last"``: around the last
- ``"clean"``: the blocks before are clean, as they are in sampling

Monotone levels are drawn exactly, by counting (SANA-Video's increasing noise, https://arxiv.org/abs/2509.24695). On a
grid of levels with weights w_j, sequences of f levels that ascend to at most level k weigh in all

    N(k, 0) = 1,    N(k, f) = sum_(j <= k) w_j N(j, f - 1)

and below a level a the nearest of f is j with probability ``w_j N(j, f - 1) / N(a, f)``. As N is a cumulative sum, one
search in its row is a draw. With equal weights every monotone sequence is equally likely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from oneblock.checks import check_choice, check_count
from oneblock.noise import NoiseLaw

LevelPolicy = Literal["same", "independent", "monotone", "last", "clean"]
GRID = 256
"""Levels of equal mass that monotone levels are drawn from."""


def log_counts(weights: Tensor, most: int) -> Tensor:
    """``log N(k, f)`` (most + 1, k) for f = 0 .. ``most``, of ``weights`` (k,) above 0; see the module."""
    rows = [torch.zeros_like(weights, dtype=torch.float64)]
    for _ in range(most):
        rows.append((weights.double().log() + rows[-1]).logcumsumexp(0))
    return torch.stack(rows)


class Monotone:
    """Draws ascending indices of a grid around a given one.

    Args:
        weights: (k,), above 0, of the levels of the grid, ascending.
        most: indices of a sequence besides the given one, at most.
    """

    def __init__(self, weights: Tensor, most: int) -> None:
        self._below, self._above = log_counts(weights, most), log_counts(weights.flip(0), most)

    def to(self, device: torch.device) -> Monotone:
        moved = Monotone.__new__(Monotone)
        moved._below, moved._above = self._below.to(device), self._above.to(device)
        return moved

    def draw(
        self, below: Tensor, above: Tensor, place: Tensor, count: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Indices (n, count) that ascend, where ``place`` (n,) is that of the given one; it is left at -1.

        Args:
            below, above: (n,), the largest index that may stand before the given one, and the smallest behind it.
        """
        drawn = torch.full((len(place), count), -1, device=place.device)
        last = self._below.shape[1] - 1
        drawn = self._one_side(self._below, drawn, below, place, generator)
        mirrored = torch.where(drawn < 0, drawn, last - drawn).flip(1)
        mirrored = self._one_side(self._above, mirrored, last - above, count - 1 - place, generator)
        return torch.where(mirrored < 0, mirrored, last - mirrored).flip(1)

    def _one_side(
        self, logs: Tensor, drawn: Tensor, current: Tensor, place: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Fill the columns before ``place``, the nearest first."""
        for step in range(1, drawn.shape[1]):
            left = place - step + 1  # to be drawn, this one included
            u = torch.rand(len(place), generator=generator, dtype=torch.float64, device=place.device)
            row = logs[left.clamp(min=0)]
            goal = u.log()[:, None] + row.gather(1, current[:, None])
            found = torch.minimum(torch.searchsorted(row, goal)[:, 0], current)
            column = (place - step).clamp(min=0)[:, None]
            kept = drawn.gather(1, column)[:, 0]
            drawn = drawn.scatter(1, column, torch.where(left > 0, found, kept)[:, None])
            current = torch.where(left > 0, found, current)
        return drawn


@dataclass(frozen=True)
class FrameLevels:
    """Draws the levels of all blocks of a video around that of the anchor.

    Args:
        policy: see the module.
        law: of the levels.
        count: blocks of frames.
        device: where levels are drawn; None is the CPU.
    """

    policy: LevelPolicy
    law: NoiseLaw
    count: int
    device: torch.device | None = None

    def __post_init__(self) -> None:
        check_choice("policy", self.policy, get_args(LevelPolicy))
        check_count("count", self.count)

    def to(self, device: torch.device) -> FrameLevels:
        return replace(self, device=device)

    @property
    def _where(self) -> torch.device:
        return self.device or torch.device("cpu")

    @cached_property
    def _grid(self) -> Tensor:
        """(k,) float32, ascending: the middles of slices of equal mass."""
        mass = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
        return self.law.quantile(mass).float().to(self._where)

    @cached_property
    def _monotone(self) -> Monotone:
        return Monotone(torch.full((GRID,), 1.0 / GRID, dtype=torch.float64), self.count - 1).to(self._where)

    def draw(self, sigma: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Levels (n, count) of all blocks, and the place (n,) of the anchor, whose level is ``sigma`` (n,) exactly.

        With ``"clean"`` and ``"same"`` all blocks have its level: clean ones are another stream.
        """
        n = len(sigma)
        place = torch.full((n,), self.count - 1, device=sigma.device)
        if self.policy in ("same", "clean") or self.count == 1:
            return sigma[:, None].expand(n, self.count), place
        if self.policy != "last":
            place = torch.randint(self.count, (n,), generator=generator, device=sigma.device)
        levels = (
            self._independent(n, generator)
            if self.policy == "independent"
            else self._ascending(sigma, place, generator)
        )
        return levels.to(sigma).scatter(1, place[:, None], sigma[:, None]), place

    def _independent(self, count: int, generator: torch.Generator | None) -> Tensor:
        mass = torch.rand(count, self.count, generator=generator, dtype=torch.float64, device=self._where)
        return self.law.quantile(mass)

    def _ascending(self, sigma: Tensor, place: Tensor, generator: torch.Generator | None) -> Tensor:
        last = len(self._grid) - 1
        below = (torch.searchsorted(self._grid, sigma, right=True) - 1).clamp(min=0)
        above = torch.searchsorted(self._grid, sigma).clamp(max=last)
        drawn = self._monotone.draw(below, above, place, self.count, generator)
        levels = self._grid[drawn.clamp(min=0)]
        before = torch.arange(self.count, device=sigma.device) < place[:, None]
        # at the ends of the law there may be no level of the grid beyond the anchor
        return torch.where(before, levels.minimum(sigma[:, None]), levels.maximum(sigma[:, None]))
