"""The exact denoiser of a finite set, and what cycles of it must do: the law that an audit is checked against.

With the exact score of points x_1 .. x_N and an exact way back, one cycle of amplitude ``q = sigma^2`` adds noise
N(0, q), which gives U, and then draws x_j with probability ``softmax_j(-|U - x_j|^2 / 2q)``. Let d_ij be distances of
points. From a start within r of x_i, r below a quarter of the smallest distance, the chain comes back to x_i with
probability ``1 - A_i(r)`` or more, where

    A_i(r) = min(1, 1/2 sum over j != i of exp(-d_ij (d_ij - 4 r) / (8 q)))

and it stays for M cycles with probability ``h_i(x) h_i(x_i)^(M - 1)``, h_i being the probability to come back (Verma
et al., "Early Signatures of Memorization in Diffusion Models via Basin Geometry and Cyclic Denoising", 2026, Theorem
1). Isolated points have the deepest basins; nothing is claimed about finding one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.audit.copies import CHUNK_ELEMENTS
from oneblock.condition import Condition
from oneblock.precondition import aligned


@dataclass(frozen=True, eq=False)
class Empirical:
    """``D(z, sigma) = sum_j softmax_j(-|z - x_j|^2 / 2 sigma^2) x_j``: E[y | z] where y is one of the points.

    Args:
        points: (m, ...), floating point; a point that stands twice counts twice.
    """

    points: Tensor

    def weights(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The probability (n, m) of each point, given z (n, ...) at levels (n,)."""
        squares = torch.cdist(z.flatten(1), self.points.flatten(1).to(z)).square()
        return (-squares / (2 * aligned(sigma, squares) ** 2)).softmax(1)

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return (self.weights(z, sigma) @ self.points.flatten(1).to(z)).view_as(z)


def comes_back(
    points: Tensor, chosen: Tensor, sigma: float, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``h_i(x_i)`` (k,) for the points ``chosen`` int64 (k,) of ``points`` (m, d), and its standard error (k,), over
    ``draws`` of the noise."""
    exact, flat = Empirical(points), points.flatten(1)
    at_once = max(1, CHUNK_ELEMENTS // len(points))
    found = []
    for index in chosen.tolist():
        parts = []
        for start in range(0, draws, at_once):
            count = min(at_once, draws - start)
            noise = torch.randn(count, flat.shape[1], generator=generator, dtype=flat.dtype)
            levels = torch.full((count,), sigma, dtype=flat.dtype)
            parts.append(exact.weights(flat[index] + sigma * noise, levels)[:, index])
        found.append(torch.cat(parts))
    kept = torch.stack(found)
    return kept.mean(1), kept.std(1) / math.sqrt(draws)


def leaves_at_most(points: Tensor, chosen: Tensor, sigma: float, radius: float = 0.0) -> Tensor:
    """``A_i(radius)`` (k,): a bound on the probability to leave, for the points ``chosen`` int64 (k,) of ``points``
    (m, d). A radius of a quarter of the smallest distance or more is a ``ValueError``."""
    flat = points.flatten(1)
    distances = torch.cdist(flat[chosen], flat)
    others = torch.ones_like(distances, dtype=torch.bool).scatter(1, chosen[:, None], False)
    nearest = float(distances[others].min())
    if not 0 <= radius < nearest / 4:
        raise ValueError(f"radius={radius:g} is not allowed; use 0 or more, below {nearest / 4:g}")
    terms = torch.exp(-distances * (distances - 4 * radius) / (8 * sigma**2)) * others
    return (terms.sum(1) / 2).clamp(max=1.0)
