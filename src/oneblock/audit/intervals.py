"""How sure a share is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.checks import check_count, check_number

RESAMPLES = 1000
"""Of the bootstrap."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """A share in [0, 1] with the ends of its interval."""

    mean: float
    low: float
    high: float

    def as_row(self) -> list[float]:
        """Mean, low, high."""
        return [self.mean, self.low, self.high]


def share(hits: Tensor, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE) -> Share:
    """The share of ``hits``, bool (n,), with its bootstrap interval (Efron, "Bootstrap Methods", 1979, percentiles).

    All hits alike leave the bootstrap without spread: then the end that is not theirs is the exact one, ``(1 -
    confidence)^(1/n)`` away from 0 or 1 ("rule of three").
    """
    check_count("resamples", resamples)
    check_number("confidence", confidence, above=0, below=1)
    count, mean = len(hits), float(hits.double().mean())
    if mean in (0.0, 1.0):
        edge = 1 - (1 - confidence) ** (1 / count)
        return Share(mean, 0.0, edge) if mean == 0.0 else Share(mean, 1 - edge, 1.0)
    # hits in a resample are binomial: they need not be drawn one by one
    generator = torch.Generator(device="cpu").manual_seed(seed)
    drawn = torch.binomial(torch.full((resamples,), float(count)), torch.tensor(mean).expand(resamples), generator)
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = (drawn / count).quantile(ends).tolist()
    return Share(mean, low, high)
