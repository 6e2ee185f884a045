"""Bootstrap intervals: how far a score would move if its samples were drawn again.

The samples are drawn again with replacement, as many as there are, and the score theta of each draw gives a replicate
theta*. With q the quantiles of the replicates,

    percentile    [q_low(theta*), q_high(theta*)]
    centred       theta + [q_low(theta*), q_high(theta*)] - mean(theta*).

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3 for percentiles. A draw with replacement
repeats samples, which to a distance between sets looks like fewer samples: replicates of a Frechet or a sliced distance
lie above the distance by about its own bias. The centred interval takes this out and covers the mean of the score at
this number of samples, not the score of infinitely many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.checks import check_count, check_number, check_seed

DRAWS = 1000
"""Replicates, unless told otherwise."""
LEVEL = 0.95
"""Share of the replicates inside the interval, unless told otherwise."""


@dataclass(frozen=True)
class Interval:
    """A score and its interval at ``level``; ``low`` and ``high`` are NaN where no draw has a score."""

    value: float
    low: float
    high: float
    level: float


def percentile_bootstrap(
    score: Callable[[Tensor], float], samples: Tensor, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """For scores without much bias: means, shares, correlations.

    Args:
        score: of samples (n, ...).
        samples: (n, ...), n >= 2; what belongs together, such as the two values of a pair, stands in one row.
        draws: replicates, 2 or more; those that are NaN, such as the correlation of equal values, are left out.
        level: share of the replicates inside, in 0..1 without both ends.
        seed: of the draws.
    """
    return _percentiles(score(samples), replicates(score, samples, draws, seed), level)


def centred_bootstrap(
    score: Callable[[Tensor], float], samples: Tensor, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """For scores that are biased by the number of samples: distances between sets; arguments as above."""
    value, drawn = score(samples), replicates(score, samples, draws, seed)
    return _percentiles(value, drawn - drawn.mean() + value, level)


def replicates(score: Callable[[Tensor], float], samples: Tensor, draws: int, seed: int) -> Tensor:
    """The scores, float64 (at most ``draws``,), of draws with replacement from samples (n, ...); NaN left out."""
    check_count("draws", draws, least=2)
    check_seed("seed", seed)
    if len(samples) < 2:
        raise ValueError(f"samples has {len(samples)} rows; 2 or more are allowed: give more samples")
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randint(len(samples), (len(samples),), generator=generator) for _ in range(draws))
    found = torch.tensor([score(samples[chosen.to(samples.device)]) for chosen in rows], dtype=torch.float64)
    return found[~found.isnan()]


def _percentiles(value: float, drawn: Tensor, level: float) -> Interval:
    check_number("level", level, above=0, below=1)
    if not len(drawn):
        return Interval(value, math.nan, math.nan, level)
    low, high = drawn.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(value, low, high, level)
