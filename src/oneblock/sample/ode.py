"""Solvers of the probability-flow equation ``dz/dsigma = (z - D(z, sigma)) / sigma`` (EDM, Equations 1 and 3).

Each sampler is a function ``(denoiser, z, grid, condition, noise) -> z``; ``z`` enters at noise level ``grid[0]``
and leaves at ``grid[-1]``. Levels descend, so every step moves towards D. ``SAMPLERS`` declares the order of each; the
tests measure it against an exact denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition, Until

Noise = Callable[[Tensor], Tensor]
"""Gives standard normal noise of the shape, type and device of a tensor."""
SampleFunction = Callable[[DenoiserLike, Tensor, Tensor, Condition, Noise | None], Tensor]


@dataclass(frozen=True)
class Sampler:
    """A sampler and what it promises: error ``O(h^order)`` and denoiser calls for ``steps`` steps ending at 0."""

    run: SampleFunction
    order: int
    calls: Callable[[int], int]


def _levels(grid: Tensor) -> list[float]:
    levels: list[float] = grid.tolist()
    if len(levels) < 2 or not all(a > b for a, b in pairwise(levels)) or levels[-1] < 0:
        raise ValueError(f"grid={levels} does not descend to 0 or above; give at least two strictly descending levels")
    return levels


def _denoise(denoiser: DenoiserLike, z: Tensor, sigma: float, condition: Condition) -> Tensor:
    return denoiser(z, torch.full((z.shape[0],), sigma, dtype=z.dtype, device=z.device), condition)


def euler(denoiser: DenoiserLike, z: Tensor, grid: Tensor, condition: Condition, noise: Noise | None = None) -> Tensor:
    """``z' = a z + (1 - a) D(z, sigma)``, ``a = sigma' / sigma``: DiffusionBlocks, Equation 5 with its sign mended."""
    levels = _levels(grid)
    for sigma, after in pairwise(levels):
        a = after / sigma
        z = a * z + (1 - a) * _denoise(denoiser, z, sigma, condition)
    return z


def _heun_step(denoiser: DenoiserLike, z: Tensor, sigma: float, after: float, condition: Condition) -> Tensor:
    """EDM, Algorithm 1, lines 4 to 8: Euler, then the mean of the slopes at both ends (Euler alone into 0)."""
    slope = (z - _denoise(denoiser, z, sigma, condition)) / sigma
    ahead = z + (after - sigma) * slope
    if after == 0:
        return ahead
    slope_ahead = (ahead - _denoise(denoiser, ahead, after, condition)) / after
    return z + (after - sigma) * (slope + slope_ahead) / 2


def heun(denoiser: DenoiserLike, z: Tensor, grid: Tensor, condition: Condition, noise: Noise | None = None) -> Tensor:
    """Second-order Heun (EDM, Algorithm 1): two calls a step, one in the step to 0."""
    levels = _levels(grid)
    for sigma, after in pairwise(levels):
        z = _heun_step(denoiser, z, sigma, after, condition)
    return z


def dpm_solver_2m(
    denoiser: DenoiserLike, z: Tensor, grid: Tensor, condition: Condition, noise: Noise | None = None
) -> Tensor:
    """DPM-Solver++(2M): one call a step, second order from the previous call.

    Lu et al., https://arxiv.org/abs/2211.01095, Algorithm 2 with alpha = 1: in ``lambda = -ln sigma`` the step is
    ``z' = a z + (1 - a) D'``, where ``D'`` extrapolates linearly from the last two calls to the middle of the step.
    """
    levels = _levels(grid)
    previous: tuple[Tensor, float] | None = None
    for sigma, after in pairwise(levels):
        d = _denoise(denoiser, z, sigma, condition)
        target = d
        if previous is not None and after > 0:
            before, h_before = previous
            r = h_before / math.log(sigma / after)
            target = d + (d - before) / (2 * r)
        a = after / sigma
        z = a * z + (1 - a) * target
        previous = (d, math.log(sigma / after) if after > 0 else math.inf)
    return z


def jump(denoiser: DenoiserLike, z: Tensor, grid: Tensor, condition: Condition, noise: Noise | None = None) -> Tensor:
    """``euler`` with a denoiser that is told where each step ends (``condition.Until``), so that a long step may be
    exact: ``x_r = x_t - (t - r) u(x_t, r, t)`` of MeanFlow (Geng et al., Equation 12, https://arxiv.org/abs/2505.13447),
    as ``D = x_t - t u`` and ``x_t = (1 - t) z``."""
    levels = _levels(grid)
    for sigma, after in pairwise(levels):
        a = after / sigma
        until = Until(condition, torch.full((len(z),), after, dtype=z.dtype, device=z.device))
        z = a * z + (1 - a) * _denoise(denoiser, z, sigma, until)
    return z


@dataclass(frozen=True)
class Churn:
    """EDM's stochastic sampler (Algorithm 2) with Table 5's names; call it like any sampler.

    Before each step whose level lies in [s_min, s_max], noise is added up to ``sigma (1 + gamma)`` with
    ``gamma = min(s_churn / steps, sqrt(2) - 1)``, then a Heun step is taken. Levels never exceed the first one.
    """

    s_churn: float = 20.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.0

    def __call__(
        self,
        denoiser: DenoiserLike,
        z: Tensor,
        grid: Tensor,
        condition: Condition,
        noise: Noise | None = None,
    ) -> Tensor:
        levels = _levels(grid)
        gamma = min(self.s_churn / (len(levels) - 1), math.sqrt(2) - 1)
        for sigma, after in pairwise(levels):
            raised = min(sigma * (1 + gamma), levels[0]) if self.s_min <= sigma <= self.s_max else sigma
            fresh = torch.randn_like(z) if noise is None else noise(z)
            z = z + math.sqrt(max(raised**2 - sigma**2, 0.0)) * self.s_noise * fresh
            z = _heun_step(denoiser, z, raised, after, condition)
        return z


churn = Churn()


def ancestral(
    denoiser: DenoiserLike, z: Tensor, grid: Tensor, condition: Condition, noise: Noise | None = None
) -> Tensor:
    """From level s to s' < s: ``z' = a z + (1 - a) D(z, s) + s' sqrt(1 - a) eps``, ``a = (s' / s)^2``; one call a step.

    The law of z' given z if y is D (Ho et al., Equations 6 and 7 with ``x_t = z sqrt(abar_t)``,
    https://arxiv.org/abs/2006.11239). Many small steps draw y from its law given the first z.
    """
    for sigma, after in pairwise(_levels(grid)):
        a = (after / sigma) ** 2
        z = a * z + (1 - a) * _denoise(denoiser, z, sigma, condition)
        if after > 0:
            fresh = torch.randn_like(z) if noise is None else noise(z)
            z = z + after * math.sqrt(1 - a) * fresh
    return z


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler, 1, lambda steps: steps),
    "heun": Sampler(heun, 2, lambda steps: 2 * steps - 1),
    "dpm++2m": Sampler(dpm_solver_2m, 2, lambda steps: steps),
    "churn": Sampler(churn, 2, lambda steps: 2 * steps - 1),
    "jump": Sampler(jump, 1, lambda steps: steps),
}
