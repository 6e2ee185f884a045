"""The shape of the density around a state, from the score ``(D(z, sigma) - z) / sigma^2`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.audit.cyclic import Reverse, cycle, cycle_grid
from oneblock.blockwise import DenoiserLike
from oneblock.checks import check_count, check_number
from oneblock.condition import Condition, as_condition
from oneblock.noise import NoiseLaw


@dataclass(frozen=True, eq=False)
class Flux:
    """Mean outward score on a sphere around each of n states (n,): itself, negative in a basin; and ``normalised``, the
    mean cosine of score and outward direction, in [-1, 1]."""

    outward: Tensor
    normalised: Tensor


@torch.no_grad()
def score_flux(
    denoiser: DenoiserLike,
    x: Tensor,
    sigma: float,
    radius: float,
    directions: int,
    generator: torch.Generator,
    condition: Condition | Tensor | None = None,
) -> Flux:
    """The flux of the score at level sigma through a sphere around each of ``x`` (n, ...), over random ``directions``.

    Times d / radius, d numbers in a state, it estimates the divergence of the score (Verma et al., 2026; see
    ``audit.exact``).
    """
    check_number("radius", radius, above=0)
    check_count("directions", directions)
    told = as_condition(condition, len(x)).to(x.device)
    levels = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
    outward, normalised = [], []
    for _ in range(directions):
        drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device)
        u = drawn.to(x.device).flatten(1)
        u = (u / u.norm(dim=1, keepdim=True)).view_as(x)
        z = x + radius * u
        score = (denoiser(z, levels, told) - z) / sigma**2
        through = (score * u).flatten(1).sum(1)
        outward.append(through)
        normalised.append(through / score.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny))
    return Flux(torch.stack(outward).mean(0), torch.stack(normalised).mean(0))


def basin(
    denoiser: DenoiserLike,
    law: NoiseLaw,
    x: Tensor,
    sigmas: Sequence[float],
    tolerance: float,
    generator: torch.Generator,
    *,
    tries: int = 10,
    needed: int = 9,
    steps: int = 10,
    condition: Condition | Tensor | None = None,
    reverse: Reverse = "euler",
) -> Tensor:
    """The size (n,) of the basin of each of ``x`` (n, ...): the largest of ``sigmas`` (ascending) up to which one cycle
    comes back to within the distance ``tolerance`` in ``needed`` of ``tries`` or more; 0 if none does."""
    check_count("needed", needed, 1, tries)
    reached = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    holds = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for sigma in sigmas:
        grid = cycle_grid(law, sigma, steps)
        back = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for _ in range(tries):
            (after,) = cycle(denoiser, x, grid, 1, generator, condition, reverse)
            back += (after - x).flatten(1).norm(dim=1) <= tolerance
        holds &= back >= needed
        reached[holds] = sigma
    return reached
