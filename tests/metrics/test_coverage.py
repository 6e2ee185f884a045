"""Precision, recall, density and coverage on points whose balls can be drawn by hand."""

import pytest
import torch

from oneblock.metrics import coverage
from oneblock.metrics.coverage import neighbour_radii, prdc


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_radii_skip_the_point_itself_but_not_its_twin() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    assert neighbour_radii(points, 1).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert neighbour_radii(points, 2).tolist() == [3.0, 2.0, 2.0, 2.0]


def test_on_a_line_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # balls [-1, 1], [0, 2], [1, 5], [3, 11]
    fake = torch.tensor([[1.5], [3.0], [21.5]])  # balls [0, 3], [1.5, 4.5], [3, 40]
    result = prdc(real, fake, k=1)
    # 1.5 lies in the balls of 1 and 3; 3 in those of 3 and 7; 21.5 in none
    assert result.precision == pytest.approx(2 / 3)
    assert result.density == pytest.approx((2 + 2 + 0) / 3)
    # reals 0, 1 and 3 lie in the ball of 1.5, and 7 in the wide one of 21.5
    assert result.recall == 1.0
    # the ball of 0 holds no fake
    assert result.coverage == pytest.approx(3 / 4)


def test_in_the_plane_with_two_neighbours() -> None:
    real = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # second radii 4, 5, 5
    fake = torch.tensor([[0.0, 0.5], [4.0, 3.0], [40.0, 30.0]])  # second radii 49.7, 45, 49.7
    result = prdc(real, fake, k=2)
    # balls around (0, .5): all 3; around (4, 3): distances 5, 3.2, 4.1 against 4, 5, 5; the last in none
    assert result.density == pytest.approx((3 + 2) / 3 / 2)
    assert result.precision == pytest.approx(2 / 3)
    assert (result.recall, result.coverage, result.k) == (1.0, 1.0, 2)


def test_fakes_at_one_place_are_precise_without_recall() -> None:
    real = torch.randn(200, 2, generator=seeded())
    fake = 1e-3 * torch.randn(200, 2, generator=seeded(1))
    result = prdc(real, fake)
    assert result.precision == 1.0
    assert result.recall < 0.05
    assert result.coverage < 0.2


def test_far_away_everything_is_zero_and_the_same_set_is_perfect() -> None:
    real = torch.randn(100, 40, generator=seeded())
    far = prdc(real, real + 1e3)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)
    same = prdc(real, real.clone())
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)


def test_the_same_distribution_has_density_one_and_the_expected_coverage() -> None:
    # E[coverage] = 1 - (n - 1) ... (n - k) / ((2n - 1) ... (2n - k)) for n = m (Naeem et al.)
    n, k = 1000, 5
    result = prdc(torch.randn(n, 3, generator=seeded()), torch.randn(n, 3, generator=seeded(1)), k)
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (n - i) / (2 * n - i)
    assert result.coverage == pytest.approx(1 - missed, abs=0.03)
    assert result.density == pytest.approx(1.0, abs=0.1)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = torch.randn(53, 4, generator=seeded()), torch.randn(37, 4, generator=seeded(1))
    whole = prdc(real, fake)
    monkeypatch.setattr(coverage, "_CHUNK_ELEMENTS", 400)
    assert prdc(real, fake) == whole


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k=5 is not in 1\.\.4"):
        prdc(torch.rand(9, 2), torch.rand(5, 2))
    with pytest.raises(ValueError, match=r"k=0 is not in 1\.\.4"):
        prdc(torch.rand(9, 2), torch.rand(5, 2), k=0)
    with pytest.raises(ValueError, match="dimensions 2 and 3 differ"):
        prdc(torch.rand(9, 2), torch.rand(9, 3))
    with pytest.raises(ValueError, match=r"^fake has 1 rows that are not finite"):
        prdc(torch.rand(9, 2), torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]))
