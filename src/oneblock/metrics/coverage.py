"""Fidelity and diversity, measured apart: precision, recall, density and coverage from nearest neighbours.

B(x) is the ball around a sample x that reaches its k-th nearest neighbour in its own set. Then

    precision  share of fakes inside the ball of some real
    recall     share of reals inside the ball of some fake
    density    mean number of real balls around a fake, divided by k
    coverage   share of real balls that hold a fake

Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", eqs. 1-2, arXiv
1904.06991; Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", section 3, arXiv
2002.09797. Balls are closed. Density may exceed 1; the other three lie in 0..1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.metrics.features import check_features, check_same_dim

# distances held at once, 64 MiB in float64
_CHUNK_ELEMENTS = 2**23

NEIGHBOURS = 5
"""Whose distances say how far a sample reaches, unless told otherwise."""


@dataclass(frozen=True)
class Coverage:
    """Precision, recall and coverage in 0..1, density >= 0, and the number of neighbours ``k``."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def prdc(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> Coverage:
    """The four shares for features real (n, dim) and fake (m, dim).

    Distances are taken in float64, a chunk of rows at a time. Raises ValueError for features that do not fit
    and for k outside 1..min(n, m) - 1.
    """
    real, fake = check_features("real", real), check_features("fake", fake)
    check_same_dim(real, fake)
    most = min(len(real), len(fake)) - 1
    if not 1 <= k <= most:
        raise ValueError(f"k={k} is not in 1..{most}, the other points of the smaller set; lower it")
    real_radii, fake_radii = neighbour_radii(real, k), neighbour_radii(fake, k)
    balls = torch.cat([(distances <= real_radii).sum(1) for _, distances in _distances(fake, real)])
    recalled = covered = 0
    for start, distances in _distances(real, fake):
        radii = real_radii[start : start + len(distances), None]
        recalled += int((distances <= fake_radii).any(1).sum())
        covered += int((distances <= radii).any(1).sum())
    return Coverage(
        precision=(balls > 0).double().mean().item(),
        recall=recalled / len(real),
        density=balls.double().mean().item() / k,
        coverage=covered / len(real),
        k=k,
    )


def neighbour_radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point (n, dim) to its k-th nearest other point, (n,)."""
    radii = []
    for start, distances in _distances(points, points):
        # the point itself is no neighbour, whatever rounding makes of its distance
        distances.diagonal(start).fill_(torch.inf)
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Chunks of rows of the distance matrix (len(x), len(y)) with the index of their first row."""
    rows = max(1, _CHUNK_ELEMENTS // len(y))
    for start in range(0, len(x), rows):
        yield start, torch.cdist(x[start : start + rows], y)
