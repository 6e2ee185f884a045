"""Sliced Wasserstein distance between two sets of features, and MIND, which is this distance on a scale of its own.

On a line the optimal transport between two samples is known: sort both. With u uniform on the sphere of ``dim``
dimensions, A and B the two sets and W2 the 2-Wasserstein distance of what they are on the line along u,

    SW2^2 = E_u W2^2(u . A, u . B)        MIND = 3 dim SW2^2.

Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures" (2015); Berthet et al., "MIND: Monge Inception
Distance for Generative Models Evaluation", arXiv 2605.06797. Two sets that differ by a shift s have dim SW2^2 =
|s|^2, as their Frechet distance is. Unlike the Frechet distance it needs no covariance and sees more than mean and
covariance; like it, it is biased upwards for finite samples, so read it beside the distance between two real sets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oneblock.checks import check_count, check_seed
from oneblock.metrics.features import check_features, check_same_dim

DIRECTIONS = 1000
"""Lines that features are projected on, as many as in the evaluation of DiffusionBench."""
SEED = 2020
"""Of the directions; the same one."""
_SCALE = 3
_CHUNK_ELEMENTS = 2**22
"""Projections held at once, 32 MiB in float64."""


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = DIRECTIONS, seed: int = SEED) -> float:
    """SW2^2 of features a (n, dim) and b (m, dim), >= 0: the mean over so many random directions, in float64.

    Exact on every line, for n and m that differ too. In one dimension this is W2^2 itself. Raises ValueError for
    features that do not fit, and for directions < 1.
    """
    a, b = check_features("a", a), check_features("b", b)
    check_same_dim(a, b)
    lines = unit_directions(a.shape[1], directions, seed).to(a)
    chunks = torch.split(lines, max(1, _CHUNK_ELEMENTS // (len(a) + len(b))))
    total = sum(_squared_wasserstein(chunk @ a.T, chunk @ b.T).sum() for chunk in chunks)
    return float(total) / directions


def mind(a: Tensor, b: Tensor, directions: int = DIRECTIONS, seed: int = SEED) -> float:
    """The Monge Inception Distance, with the features of any extractor in the place of Inception's.

    Where n and m differ, the published evaluation drops samples of the larger set; here all of them count. Arguments
    and errors as of ``sliced_wasserstein``.
    """
    return _SCALE * a.shape[-1] * sliced_wasserstein(a, b, directions, seed)


def unit_directions(dim: int, count: int, seed: int) -> Tensor:
    """Directions (count, dim), float64, independent and uniform on the sphere; they follow from the seed alone."""
    check_count("directions", count)
    check_seed("seed", seed)
    draws = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).double()
    return draws / draws.norm(dim=1, keepdim=True)


def _squared_wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """W2^2 of each pair of rows of a (k, n) and b (k, m): (k,).

    Both quantile functions are constant between the levels i / n and j / m; the integral is a sum over these pieces.
    """
    n, m = a.shape[1], b.shape[1]
    a, b = a.sort(dim=1).values, b.sort(dim=1).values
    if n == m:
        return (a - b).square().mean(1)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # levels times n m
    mass = ends.diff(prepend=ends.new_zeros(1)).to(a) / (n * m)
    of_a, of_b = ((ends - 1) // each for each in (m, n))
    return (a[:, of_a.to(a.device)] - b[:, of_b.to(b.device)]).square() @ mass
