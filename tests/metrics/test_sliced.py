"""The sliced Wasserstein distance and MIND against sorting by hand, transport by scipy, and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from oneblock.metrics import sliced
from oneblock.metrics.frechet import frechet_distance, moments
from oneblock.metrics.sliced import mind, sliced_wasserstein, unit_directions


def normal(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_on_a_line_it_is_the_wasserstein_distance_by_hand() -> None:
    # sorted pairs 0-1, 1-1, 3-5
    assert sliced_wasserstein(column(3, 0, 1), column(1, 5, 1)) == pytest.approx(5 / 3, rel=1e-12)
    assert mind(column(3, 0, 1), column(1, 5, 1)) == pytest.approx(5.0, rel=1e-12)


def test_sets_of_different_size_by_hand() -> None:
    # quantiles: 0 and 0 up to 1/2, 1 and 0 up to 2/3, 1 and 3 up to 1
    a, b = column(0, 1), column(3, 0, 0)
    assert sliced_wasserstein(a, b) == pytest.approx(1 / 6 + 4 / 3, rel=1e-12)
    assert sliced_wasserstein(b, a) == pytest.approx(1 / 6 + 4 / 3, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (12, 18), (7, 5)])
def test_on_a_line_it_is_the_best_assignment(n: int, m: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    x, y = normal(n, 1, 0), normal(m, 1, 1) * 2 + 1
    whole = math.lcm(n, m)
    cost = torch.cdist(x.repeat_interleave(whole // n, 0), y.repeat_interleave(whole // m, 0)).square().numpy()
    rows, columns = optimize.linear_sum_assignment(cost)
    assert sliced_wasserstein(x, y) == pytest.approx(cost[rows, columns].mean(), rel=1e-10)


def test_a_shift_costs_the_square_of_its_part_along_each_line() -> None:
    x, shift = normal(60, 5, 0), torch.tensor([1.0, -2.0, 0.0, 0.5, 2.0], dtype=torch.float64)
    along = (unit_directions(5, 1000, 2020) @ shift).square().mean()
    assert mind(x, x + shift) == pytest.approx(3 * 5 * float(along), rel=1e-10)
    # 15 (u . s)^2 has mean 3 |s|^2 and deviation 3 |s|^2 (2 (d - 1) / (d + 2))^(1/2)
    assert mind(x, x + shift) == pytest.approx(3 * float(shift.square().sum()), rel=4 * math.sqrt(8 / 7 / 1000))


def test_round_gaussians_of_two_widths() -> None:
    assert mind(normal(9000, 3, 0), 2.5 * normal(9000, 3, 1), 50) == pytest.approx(3 * 3 * 1.5**2, rel=0.03)


def test_the_published_formula_at_equal_counts() -> None:
    x, y = normal(50, 8, 0).float(), normal(50, 8, 1).float().exp()
    u = torch.randn(1000, 8, generator=torch.Generator().manual_seed(2020))
    u /= u.norm(dim=1, keepdim=True)
    gaps = (x @ u.T).sort(dim=0).values - (y @ u.T).sort(dim=0).values
    assert mind(x, y) == pytest.approx(3 * 8 * float((gaps**2).mean()), rel=1e-5)


def test_it_sees_more_than_mean_and_covariance() -> None:
    gaussian = normal(4000, 2, 0)
    corners = normal(4000, 2, 1).sign()  # mean 0, covariance the identity
    assert frechet_distance(moments(gaussian), moments(corners)) < 0.01
    assert mind(gaussian, corners, 50) > 0.3 > 20 * mind(gaussian, normal(4000, 2, 2), 50)


def test_a_set_is_at_distance_zero_from_itself_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(30, 4, 0), normal(20, 4, 1)
    assert mind(x, x) == 0.0
    whole = mind(x, y)
    monkeypatch.setattr(sliced, "_CHUNK_ELEMENTS", 120)
    assert mind(x, y) == pytest.approx(whole, rel=1e-12)


def test_directions_follow_from_the_seed_and_have_norm_one() -> None:
    first = unit_directions(6, 9, seed=3)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(9, dtype=torch.float64))
    assert first.equal(unit_directions(6, 9, seed=3)) and not first.equal(unit_directions(6, 9, seed=4))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="dimensions 2 and 3 differ"):
        mind(normal(4, 2, 0), normal(4, 3, 0))
    with pytest.raises(ValueError, match="directions=0 is not allowed"):
        mind(normal(4, 2, 0), normal(4, 2, 0), directions=0)
