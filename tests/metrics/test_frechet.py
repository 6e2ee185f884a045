"""Frechet distance against closed forms and scipy's general matrix square root."""

import math

import pytest
import torch
from torch import Tensor

from oneblock.metrics.frechet import MomentAccumulator, Moments, frechet_distance, moments


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(mean: list[float], variances: list[float], rotation: Tensor | None = None) -> Moments:
    turn = torch.eye(len(mean), dtype=torch.float64) if rotation is None else rotation
    covariance = turn @ torch.diag(torch.tensor(variances, dtype=torch.float64)) @ turn.T
    return Moments(torch.tensor(mean, dtype=torch.float64), covariance, count=100)


def rotation(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def test_diagonal_covariances_give_the_difference_of_deviations() -> None:
    a, b = gaussian([0.0, 1.0], [4.0, 9.0]), gaussian([3.0, 1.0], [1.0, 25.0])
    assert frechet_distance(a, b) == pytest.approx(9.0 + (2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-12)


def test_a_common_rotation_changes_nothing() -> None:
    turn = rotation(0.7)
    a, b = gaussian([0.0, 0.0], [4.0, 9.0], turn), gaussian([0.0, 0.0], [1.0, 25.0], turn)
    assert frechet_distance(a, b) == pytest.approx(1.0 + 4.0, rel=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, math.pi / 2])
def test_two_dimensional_covariances_that_do_not_commute(angle: float) -> None:
    a, b = gaussian([0.0, 0.0], [4.0, 1.0]), gaussian([0.0, 0.0], [4.0, 1.0], rotation(angle))
    # in two dimensions tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)); here det AB = 16
    root = math.sqrt(17 * math.cos(angle) ** 2 + 8 * math.sin(angle) ** 2 + 8)
    assert frechet_distance(a, b) == pytest.approx(10 - 2 * root, abs=1e-12)


def test_finite_samples_against_a_general_matrix_square_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x = torch.randn(300, 6, generator=seeded(), dtype=torch.float64) @ torch.randn(6, 6, generator=seeded(1)).double()
    y = torch.randn(200, 6, generator=seeded(2), dtype=torch.float64).square() + 0.5
    a, b = moments(x), moments(y)
    root = linalg.sqrtm((a.covariance @ b.covariance).numpy()).real.trace()
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.T.cov().trace() + y.T.cov().trace() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


@pytest.mark.parametrize("samples", [5, 200])
def test_identical_sets_have_distance_zero_at_any_rank(samples: int) -> None:
    a = moments(torch.randn(samples, 50, generator=seeded()) * 10)
    assert 0.0 <= frechet_distance(a, a) < 1e-9


def test_rank_deficient_covariances_in_orthogonal_directions() -> None:
    a, b = gaussian([0.0, 0.0, 0.0], [4.0, 0.0, 0.0]), gaussian([0.0, 0.0, 0.0], [0.0, 9.0, 0.0])
    assert frechet_distance(a, b) == pytest.approx(13.0, rel=1e-12)


def test_moments_are_the_mean_and_the_unbiased_covariance() -> None:
    summary = moments(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    assert summary.mean.tolist() == [1.0, 2.0]
    assert summary.covariance.tolist() == [[2.0, 4.0], [4.0, 8.0]]
    assert (summary.count, summary.mean.dtype) == (2, torch.float64)


def test_batches_and_merges_equal_one_pass_even_far_from_the_origin() -> None:
    x = torch.randn(101, 4, generator=seeded(), dtype=torch.float64) + 1e6
    whole, accumulator = moments(x), MomentAccumulator()
    for batch in torch.split(x, 25):  # the last batch is a single row
        accumulator.update(batch)
    for parts in (accumulator.result(), moments(x[:30]).merge(moments(x[30:]))):
        assert parts.count == 101
        torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(parts.covariance, whole.covariance, rtol=1e-9, atol=1e-9)


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 3\); allowed is \(n, dim\) with n >= 2"):
        moments(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="2 rows that are not finite"):
        moments(torch.tensor([[0.0], [math.nan], [math.inf]]))
    with pytest.raises(ValueError, match="dimensions 2 and 3 differ"):
        frechet_distance(moments(torch.rand(4, 2)), moments(torch.rand(4, 3)))


def test_moments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mean \(2,\) and covariance \(3, 3\) do not fit"):
        Moments(torch.zeros(2), torch.zeros(3, 3), count=5)
    with pytest.raises(ValueError, match="count=1 samples do not give a covariance; pass"):
        Moments(torch.zeros(2), torch.zeros(2, 2), count=1)
    accumulator = MomentAccumulator()
    accumulator.update(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="count=1 samples do not give a covariance; update"):
        accumulator.result()
