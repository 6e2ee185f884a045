"""Intervals against the normal law of a mean, and of a biased distance against what it covers."""

import math

import pytest
import torch
from torch import Tensor

from oneblock.metrics.bootstrap import centred_bootstrap, percentile_bootstrap, replicates
from oneblock.metrics.frechet import Moments, frechet_distance, moments


def normal(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean(samples: Tensor) -> float:
    return float(samples.mean())


@pytest.mark.parametrize(("level", "reach"), [(0.95, 1.960), (0.5, 0.6745)])
def test_the_interval_of_a_mean_is_that_of_the_normal_law(level: float, reach: float) -> None:
    x = normal(400, 1, 0) * 3
    error = float(x.std()) / math.sqrt(400)
    for found in (percentile_bootstrap(mean, x, level=level), centred_bootstrap(mean, x, level=level)):
        assert (found.value, found.level) == (mean(x), level)
        assert (found.low - found.value) / error == pytest.approx(-reach, abs=0.15)
        assert (found.high - found.value) / error == pytest.approx(reach, abs=0.15)


def test_the_centred_interval_of_a_frechet_distance_covers_its_mean_and_the_percentiles_do_not() -> None:
    dim, count, sets = 6, 40, 20
    real = Moments(torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64), 10**6)

    def distance(samples: Tensor) -> float:
        return frechet_distance(real, moments(samples))

    at_this_count = sum(distance(normal(count, dim, 1000 + seed)) for seed in range(200)) / 200
    found = [
        [method(distance, normal(count, dim, seed), draws=60, level=0.9) for method in both]
        for seed in range(sets)
        for both in [(centred_bootstrap, percentile_bootstrap)]
    ]
    covered = [sum(pair[i].low <= at_this_count <= pair[i].high for pair in found) for i in (0, 1)]
    assert covered[0] >= 0.7 * sets > 0.2 * sets >= covered[1]


def test_draws_follow_from_the_seed_and_keep_rows_together() -> None:
    pairs = torch.stack([torch.arange(9.0), torch.arange(9.0)], 1)
    assert replicates(lambda x: float((x[:, 0] - x[:, 1]).abs().sum()), pairs, 20, 0).sum() == 0
    first = replicates(mean, pairs, 20, 5)
    assert first.equal(replicates(mean, pairs, 20, 5)) and not first.equal(replicates(mean, pairs, 20, 6))
    assert len(first.unique()) > 10


def test_draws_without_a_score_are_left_out() -> None:
    x = torch.tensor([[0.0], [1.0]])

    def score(samples: Tensor) -> float:
        return math.nan if samples.min() == samples.max() else 2.0

    found = percentile_bootstrap(score, x, draws=50)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    nothing = percentile_bootstrap(lambda samples: math.nan, x, draws=50)
    assert math.isnan(nothing.low) and math.isnan(nothing.high)


def test_what_gives_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="samples has 1 rows; 2 or more"):
        percentile_bootstrap(mean, torch.zeros(1, 1))
    with pytest.raises(ValueError, match="draws=1 is not allowed"):
        percentile_bootstrap(mean, torch.zeros(3, 1), draws=1)
    with pytest.raises(ValueError, match="level=1 is not allowed"):
        percentile_bootstrap(mean, torch.zeros(3, 1), level=1)
