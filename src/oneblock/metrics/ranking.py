"""Whether two scores rank the same methods alike: correlations over methods, with intervals.

For scores x and y of n methods, with means X and Y,

    Pearson     sum_i (x_i - X) (y_i - Y) / ( sum_i (x_i - X)^2 sum_i (y_i - Y)^2 )^(1/2)
    Spearman    the same of their ranks, equal scores sharing the mean of their ranks.

The sign needs care. Where lower is better in one score and higher in the other, as in FID against GenEval, rankings
that agree give a *negative* correlation. ``Agreement.sign`` is -1 there: its product with a correlation is positive
where the rankings agree.

Over methods of several groups the correlation of all together also holds the difference between the groups, and mostly
exceeds those within them; so both are given. "DiffusionBench: On Holistic Evaluation of Diffusion Transformers", arXiv
2606.24888, compares FID with three scores of text-to-image generation so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from oneblock.checks import check_choice
from oneblock.metrics.bootstrap import DRAWS, LEVEL, Interval, percentile_bootstrap

FEWEST = 3
"""Methods between which a correlation says something: of two it is always -1 or 1."""
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Score:
    """One number for each method: the ``name`` of the score, which end is ``better``, and method -> value."""

    name: str
    better: Better
    values: Mapping[str, float]

    def __post_init__(self) -> None:
        check_choice("better", self.better, ("higher", "lower"))
        wrong = [method for method, value in self.values.items() if not math.isfinite(value)]
        if wrong:
            raise ValueError(f"{self.name} of {wrong[0]!r} is {self.values[wrong[0]]}; give finite numbers alone")


@dataclass(frozen=True)
class Correlation:
    """Of two scores over ``num_methods``: both coefficients with bootstrap intervals over the methods, in -1..1.

    ``without`` holds for each method (Pearson, Spearman) of all the others: a correlation that one method makes is
    seen there. NaN where a score is the same for every method.
    """

    num_methods: int
    pearson: Interval
    spearman: Interval
    without: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Agreement:
    """How far two scores agree on methods.

    Args:
        scores: their names.
        sign: what a correlation is multiplied with so that positive means agreement: 1 where the same end of both
            scores is better, else -1.
        pooled: over all methods.
        groups: of each group with ``FEWEST`` methods or more.
        small: the groups with fewer, which count in ``pooled`` alone.
    """

    scores: tuple[str, str]
    sign: Literal[-1, 1]
    pooled: Correlation
    groups: Mapping[str, Correlation]
    small: tuple[str, ...]

    @property
    def explanation(self) -> str:
        """What the sign of the correlations means, a sentence."""
        first, second = self.scores
        if self.sign > 0:
            return f"{first} and {second} are better at the same end: a positive correlation means that they agree."
        return f"{first} and {second} are better at opposite ends: a negative correlation means that they agree."


def agreement(
    first: Score,
    second: Score,
    groups: Mapping[str, str] | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Agreement:
    """How far two scores of the same methods agree.

    Args:
        groups: method -> its group; None for a single one.
        draws, level, seed: of the intervals (``bootstrap.percentile_bootstrap``). They are over methods; what other
            training seeds would give, the seeds of each method must tell.

    Raises:
        ValueError: the scores are of different methods, of fewer than ``FEWEST``, or a method has no group.
    """
    _check_methods(first, second, groups)
    members: dict[str, list[str]] = {}
    for method, group in (groups or {}).items():
        if method in first.values:
            members.setdefault(group, []).append(method)
    large = {group: found for group, found in members.items() if len(found) >= FEWEST}

    def correlation(chosen: Sequence[str]) -> Correlation:
        return _correlation(first, second, chosen, draws, level, seed)

    return Agreement(
        scores=(first.name, second.name),
        sign=1 if first.better == second.better else -1,
        pooled=correlation(list(first.values)),
        groups={group: correlation(found) for group, found in large.items()},
        small=tuple(group for group in members if group not in large),
    )


def pearson(x: Tensor, y: Tensor) -> float:
    """The correlation of x (n,) and y (n,), -1..1; NaN where one of them is constant."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    spread = (x.square().sum() * y.square().sum()).sqrt()
    # of equal values nothing but the rounding of their mean is left
    constant = bool((x == x[0]).all() or (y == y[0]).all())
    return math.nan if constant else float((x @ y / spread).clamp(-1.0, 1.0))


def spearman(x: Tensor, y: Tensor) -> float:
    """The correlation of the ranks of x (n,) and y (n,), -1..1; NaN where one of them is constant."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Tensor) -> Tensor:
    """The ranks 1..n of values (n,), float64, smallest first; equal values have the mean of their ranks."""
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return below.double() + (equal.double() + 1) / 2


def _correlation(
    first: Score, second: Score, methods: Sequence[str], draws: int, level: float, seed: int
) -> Correlation:
    both = torch.tensor([[first.values[m], second.values[m]] for m in methods], dtype=torch.float64)
    without = {}
    for i, method in enumerate(methods):
        rest = torch.cat([both[:i], both[i + 1 :]])
        without[method] = (_pearson_of(rest), _spearman_of(rest))
    return Correlation(
        num_methods=len(methods),
        pearson=percentile_bootstrap(_pearson_of, both, draws, level, seed),
        spearman=percentile_bootstrap(_spearman_of, both, draws, level, seed),
        without=without,
    )


def _pearson_of(pairs: Tensor) -> float:
    return pearson(pairs[:, 0], pairs[:, 1])


def _spearman_of(pairs: Tensor) -> float:
    return spearman(pairs[:, 0], pairs[:, 1])


def _check_methods(first: Score, second: Score, groups: Mapping[str, str] | None) -> None:
    methods = set(first.values)
    apart = sorted(methods.symmetric_difference(second.values))
    if apart:
        raise ValueError(
            f"method {apart[0]!r} has only one of {first.name} and {second.name}; give both scores of every method"
        )
    if len(methods) < FEWEST:
        raise ValueError(f"{len(methods)} methods have no ranking to compare; give {FEWEST} or more")
    alone = sorted(methods - set(methods if groups is None else groups))
    if alone:
        raise ValueError(f"method {alone[0]!r} has no group; give one for every method, or groups=None")
