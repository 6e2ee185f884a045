"""Kernel distance between two sets of features: the unbiased squared maximum mean discrepancy.

With the cubic kernel k(x, y) = (x . y / dim + 1)^3 and n, m samples,

    mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j),

Gretton et al., "A Kernel Two-Sample Test" (2012), eq. 3; kernel and use on network features by Binkowski et
al., "Demystifying MMD GANs", section 4, arXiv 1801.01401. Its mean is 0 for two samples of one distribution,
whatever their size, so single values may be negative.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.metrics.features import check_features, check_same_dim

# kernel values held at once, 32 MiB in float64
_CHUNK_ELEMENTS = 2**22


@dataclass(frozen=True)
class KernelDistance:
    """Unbiased squared distance and its standard error."""

    value: float
    stderr: float


def kernel_distance(
    a: Tensor,
    b: Tensor,
    subsets: int | None = None,
    subset_size: int = 1000,
    generator: torch.Generator | None = None,
) -> KernelDistance:
    """Kernel distance of features a (n, dim) and b (m, dim), over all samples or as a mean over subsets.

    ``subsets`` None uses every pair; the error is the leading term of the variance of the statistic. A number
    draws that many pairs of subsets without replacement inside each, from ``generator``; the error is the
    standard deviation over subsets by the root of their number, too small when subsets overlap much.
    Raises ValueError for features that do not fit, for subsets < 2, for a subset size outside 2..min(n, m)
    and for subsets without a generator.
    """
    a, b = check_features("a", a), check_features("b", b)
    check_same_dim(a, b)
    if subsets is None:
        return _distance(a, b)
    if generator is None:
        raise ValueError("generator=None with subsets; pass a seeded torch.Generator or subsets=None")
    _check_subsets(subsets, subset_size, min(len(a), len(b)))
    values = [_subset_value(a, b, subset_size, generator) for _ in range(subsets)]
    return KernelDistance(statistics.fmean(values), statistics.stdev(values) / math.sqrt(subsets))


def _check_subsets(subsets: int, subset_size: int, available: int) -> None:
    if subsets < 2:
        raise ValueError(f"subsets={subsets} does not give a standard error; use 2 or more, or None for all samples")
    if not 2 <= subset_size <= available:
        raise ValueError(f"subset_size={subset_size} is not in 2..{available}, the smaller set; lower it")


def _subset_value(a: Tensor, b: Tensor, size: int, generator: torch.Generator) -> float:
    chosen = [torch.randperm(len(x), generator=generator, device=generator.device)[:size] for x in (a, b)]
    return _distance(a[chosen[0].to(a.device)], b[chosen[1].to(b.device)]).value


def _distance(a: Tensor, b: Tensor) -> KernelDistance:
    """The statistic on all pairs; row means of the kernel give its value and its first-order variance."""
    within_a, within_b = _mean_kernel(a, a, skip_self=True), _mean_kernel(b, b, skip_self=True)
    across_a, across_b = _mean_kernel(a, b), _mean_kernel(b, a)
    value = within_a.mean() + within_b.mean() - 2.0 * across_a.mean()
    variance = 4.0 * ((within_a - across_a).var() / len(a) + (within_b - across_b).var() / len(b))
    return KernelDistance(value.item(), variance.sqrt().item())


def _mean_kernel(x: Tensor, y: Tensor, *, skip_self: bool = False) -> Tensor:
    """Mean over y of k(x_i, y_j), (len(x),); ``skip_self`` leaves out j = i where y is x."""
    chunks = torch.split(x, max(1, _CHUNK_ELEMENTS // len(y)))
    sums = torch.cat([_cube(rows @ y.T / x.shape[1]).sum(1) for rows in chunks])
    if not skip_self:
        return sums / len(y)
    return (sums - _cube(x.square().sum(1) / x.shape[1])) / (len(y) - 1)


def _cube(product: Tensor) -> Tensor:
    return (product + 1.0) ** 3
