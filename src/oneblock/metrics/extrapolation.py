"""The Frechet distance at infinitely many generated samples.

At n samples its mean is close to FID_inf + c / n, and c is another number for every model, so that a distance at one n
may prefer the model with the smaller bias. A line through distances at several n, over 1 / n, gives FID_inf at 0.
Chong and Forsyth, "Effectively Unbiased FID and Inception Score and where to find them", section 3, arXiv 1911.07023.
They draw a random subset for each of 15 counts; here count n // k takes all k disjoint parts of the samples, whose mean
has about the same variance for every k. The bias of the reference set stays in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from oneblock.checks import check_count
from oneblock.metrics.features import check_features, check_same_dim
from oneblock.metrics.frechet import Moments, frechet_distance, moments

PARTS = 8
"""Into so many parts the samples are cut at most, unless told otherwise."""


@dataclass(frozen=True)
class FrechetLimit:
    """``value`` at infinitely many samples, which may fall below 0 by noise; ``slope``, what 1 / n is multiplied with;
    and the mean ``distances`` at each of the ``counts`` that the line goes through, most samples first."""

    value: float
    slope: float
    counts: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_limit(reference: Moments, fake: Tensor, generator: torch.Generator, parts: int = PARTS) -> FrechetLimit:
    """The limit for features fake (n, dim) against the moments of a reference set.

    Args:
        generator: shuffles the samples before they are cut, on the CPU.
        parts: the samples are cut into 1, 2, ... ``parts`` parts; 2 or more.

    Raises:
        ValueError: features that do not fit, or a part with no more samples than dimensions, where 1 / n is no law.
    """
    check_count("parts", parts, least=2)
    fake = check_features("fake", fake)
    check_same_dim(reference.mean, fake)
    smallest, dim = len(fake) // parts, fake.shape[1]
    if smallest <= dim:
        raise ValueError(
            f"parts={parts} of {len(fake)} samples have {smallest} each, but need more than the {dim} dimensions; "
            f"give {parts * (dim + 1)} samples or more, or fewer parts"
        )
    shuffled = fake[torch.randperm(len(fake), generator=generator).to(fake.device)]
    counts = [len(fake) // k for k in range(1, parts + 1)]
    distances = [_mean_distance(reference, shuffled, count) for count in counts]
    value, slope = line_over_inverse(counts, distances)
    return FrechetLimit(value, slope, tuple(counts), tuple(distances))


def line_over_inverse(counts: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """The limit a and the slope c of the line a + c / n closest to ``values`` at ``counts`` in least squares."""
    if len(counts) != len(values) or len(set(counts)) < 2:
        raise ValueError(
            f"{len(counts)} counts with {len(values)} values give no line; use one value for each of 2 or more counts"
        )
    inverse = [1 / count for count in counts]
    x, y = fmean(inverse), fmean(values)
    spread = sum((one - x) ** 2 for one in inverse)
    slope = sum((one - x) * (value - y) for one, value in zip(inverse, values, strict=True)) / spread
    return y - slope * x, slope


def _mean_distance(reference: Moments, samples: Tensor, count: int) -> float:
    """Of all disjoint parts of ``count`` samples."""
    parts = samples[: len(samples) // count * count].split(count)
    return fmean(frechet_distance(reference, moments(part)) for part in parts)
