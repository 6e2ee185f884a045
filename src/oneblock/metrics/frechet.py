"""Frechet distance between two sets of features, each summarised by its mean and covariance.

For Gaussians N(mu_a, A) and N(mu_b, B) the squared 2-Wasserstein distance is

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)),

Dowson and Landau, "The Frechet distance between multivariate normal distributions" (1982), used on
network features by Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", eq. 6, arXiv 1706.08500.
It is biased upwards by about 1 / count, so read it beside the distance between two real sets of that size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.metrics.features import check_features, check_same_dim


@dataclass(frozen=True)
class Moments:
    """Mean float64 (dim,) and unbiased covariance float64 (dim, dim) of ``count`` feature vectors."""

    mean: Tensor
    covariance: Tensor
    count: int

    def __post_init__(self) -> None:
        dim = self.mean.numel()
        if self.mean.ndim != 1 or self.covariance.shape != (dim, dim):
            raise ValueError(
                f"mean {tuple(self.mean.shape)} and covariance {tuple(self.covariance.shape)} do not fit; "
                "allowed are (dim,) and (dim, dim): build them with moments(features)"
            )
        if self.count < 2:
            raise ValueError(f"count={self.count} samples do not give a covariance; pass 2 or more")

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together, as if computed at once."""
        merged = MomentAccumulator()
        for part in (self, other):
            merged.add(part.mean, part.covariance * (part.count - 1), part.count)
        return merged.result()


class MomentAccumulator:
    """Collects moments batch by batch: ``update`` as often as needed, then ``result``.

    Keeps the running mean and the scatter sum (x - mean)(x - mean)^T and merges them pairwise, which does
    not cancel as a difference of raw second moments would. Chan, Golub and LeVeque, "Updating Formulae and
    a Pairwise Algorithm for Computing Sample Variances" (1979).
    """

    def __init__(self) -> None:
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None
        self._count = 0

    def update(self, features: Tensor) -> None:
        """Add features (n, dim), n >= 1; ValueError if not finite or of another dimension."""
        values = check_features("features", features, minimum=1)
        mean = values.mean(0)
        centred = values - mean
        self.add(mean, centred.T @ centred, len(values))

    def add(self, mean: Tensor, scatter: Tensor, count: int) -> None:
        """Add a set of ``count`` vectors given by its mean (dim,) and scatter (dim, dim)."""
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter, self._count = mean, scatter, count
            return
        check_same_dim(self._mean, mean)
        total = self._count + count
        step = mean - self._mean
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self._count * count / total)
        self._mean = self._mean + step * (count / total)
        self._count = total

    def result(self) -> Moments:
        """Moments of everything added; ValueError for fewer than 2 samples."""
        if self._mean is None or self._scatter is None or self._count < 2:
            raise ValueError(f"count={self._count} samples do not give a covariance; update with 2 or more")
        return Moments(self._mean, self._scatter / (self._count - 1), self._count)


def moments(features: Tensor) -> Moments:
    """Moments of features (n, dim), n >= 2, any floating dtype, computed in float64.

    Raises ValueError for fewer than 2 samples, another number of dimensions or values that are not finite.
    """
    accumulator = MomentAccumulator()
    accumulator.update(check_features("features", features))
    return accumulator.result()


def frechet_distance(a: Moments, b: Moments) -> float:
    """Frechet distance of two Gaussians, >= 0; ValueError if their dimensions differ.

    The eigenvalues of A^(1/2) B A^(1/2) are those of A B and never complex or negative. Their roots are
    taken as singular values of A^(1/2) B^(1/2), which keeps full precision for rank-deficient covariances.
    """
    check_same_dim(a.mean, b.mean)
    root = torch.linalg.svdvals(_square_root(a.covariance) @ _square_root(b.covariance))
    spread = a.covariance.trace() + b.covariance.trace() - 2.0 * root.sum()
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))


def _square_root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite float64 (dim, dim) matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    return root
