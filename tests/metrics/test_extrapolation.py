"""The distance at infinitely many samples against lines, and against a law whose distance is known."""

from statistics import fmean

import pytest
import torch
from torch import Tensor

from oneblock.metrics.extrapolation import frechet_limit, line_over_inverse
from oneblock.metrics.frechet import Moments, frechet_distance, moments

REAL = Moments(torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64), 10**9)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=seeded(seed), dtype=torch.float64)


def test_a_line_over_one_over_n_is_found() -> None:
    counts = [1000, 500, 333, 250]
    value, slope = line_over_inverse(counts, [2.5 + 40 / count for count in counts])
    assert (value, slope) == (pytest.approx(2.5, rel=1e-12), pytest.approx(40, rel=1e-10))
    # least squares through three points at 1, 2, 3 over 6
    assert line_over_inverse([6, 3, 2], [0.0, 3.0, 3.0])[0] == pytest.approx(-1.0)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_limit_has_lost_the_bias(shift: float) -> None:
    found = [frechet_limit(REAL, normal(480, seed) + shift, seeded(seed)) for seed in range(12)]
    truth = 6 * shift**2
    bias = fmean(one.distances[0] for one in found) - truth
    assert bias > 0.02
    assert abs(fmean(one.value for one in found) - truth) < 0.25 * bias
    assert all(one.slope > 0 for one in found)


def test_counts_are_parts_and_each_sample_counts_once_at_each() -> None:
    fake = normal(100, 0)
    found = frechet_limit(REAL, fake, seeded(1), parts=3)
    shuffled = fake[torch.randperm(100, generator=seeded(1))]
    thirds = [frechet_distance(REAL, moments(shuffled[i : i + 33])) for i in (0, 33, 66)]
    assert found.counts == (100, 50, 33)
    assert found.distances[0] == pytest.approx(frechet_distance(REAL, moments(fake)), rel=1e-9)
    assert found.distances[2] == pytest.approx(fmean(thirds), rel=1e-9)


def test_fewer_samples_than_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="parts=8 of 55 samples have 6 each, but need more than the 6 dimensions"):
        frechet_limit(REAL, normal(55, 0), seeded(0))
    frechet_limit(REAL, normal(56, 0), seeded(0))
    with pytest.raises(ValueError, match="parts=1 is not allowed"):
        frechet_limit(REAL, normal(56, 0), seeded(0), parts=1)
    with pytest.raises(ValueError, match="2 counts with 2 values give no line"):
        line_over_inverse([5, 5], [1.0, 2.0])
