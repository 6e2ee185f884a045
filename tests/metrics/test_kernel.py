"""Kernel distance: values by hand, unbiasedness, standard errors."""

import math

import pytest
import torch

from oneblock.metrics import kernel
from oneblock.metrics.kernel import kernel_distance


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_dimension_by_hand() -> None:
    # k(x, y) = (x y + 1)^3: within a 1, within b 3^3, across (1 + 1 + 2^3 + 3^3) / 4
    result = kernel_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]]))
    assert result.value == pytest.approx(1 + 27 - 2 * 37 / 4)
    # row means within less across: a 1 - 1, 1 - 35/2; b 27 - 9/2, 27 - 28/2; variances 16.5^2/2, 9.5^2/2
    assert result.stderr == pytest.approx(math.sqrt(4 * (16.5**2 / 4 + 9.5**2 / 4)))


def test_the_product_is_divided_by_the_dimension() -> None:
    a, b = torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    # products over 2: within a 1; within b 0, 0, 0; across 1, 0, 1 and 0, 0, 2
    assert kernel_distance(a, b).value == pytest.approx(8 + 1 - 2 * (8 + 1 + 8 + 1 + 1 + 27) / 6)


def test_each_side_weighs_in_the_error_by_its_own_size() -> None:
    a, b = torch.tensor([[0.0], [0.0], [0.0], [1.0]]), torch.tensor([[0.0], [0.0]])
    # k is 1 but for 8 of the point 1 with itself, which is left out, so no row differs
    assert kernel_distance(a, b).stderr == 0.0
    # against b at 1 and 1: rows of a are 1 - 1 (thrice) and 1 - 8, rows of b both 8 - 11 / 4
    assert kernel_distance(a, b + 1).stderr == pytest.approx(math.sqrt(4 * (49 / 4) / 4))


def test_same_distribution_averages_to_zero_with_the_stated_error() -> None:
    draw = seeded()
    pairs = ((torch.randn(40, 3, generator=draw), torch.randn(30, 3, generator=draw)) for _ in range(300))
    results = [kernel_distance(a, b) for a, b in pairs]
    values = torch.tensor([result.value for result in results])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert 0.5 < torch.tensor([result.stderr for result in results]).mean() / values.std() < 2.5


def test_a_shift_is_many_standard_errors_away_from_zero() -> None:
    result = kernel_distance(torch.randn(300, 4, generator=seeded()), torch.randn(300, 4, generator=seeded(1)) + 1)
    assert result.value > 5 * result.stderr > 0


def test_chunks_do_not_change_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(23, 4, generator=seeded()), torch.randn(31, 4, generator=seeded(1))
    whole = kernel_distance(a, b)
    monkeypatch.setattr(kernel, "_CHUNK_ELEMENTS", 70)
    assert kernel_distance(a, b).value == pytest.approx(whole.value, rel=1e-12)


def test_subsets_are_seeded_and_agree_with_all_samples() -> None:
    a, b = torch.randn(400, 4, generator=seeded()), torch.randn(500, 4, generator=seeded(1)) + 0.5
    first, again = (kernel_distance(a, b, subsets=20, subset_size=100, generator=seeded(2)) for _ in range(2))
    assert first == again
    assert first != kernel_distance(a, b, subsets=20, subset_size=100, generator=seeded(3))
    assert first.value == pytest.approx(kernel_distance(a, b).value, abs=5 * first.stderr)


def test_a_subset_of_everything_is_everything() -> None:
    a, b = torch.randn(20, 3, generator=seeded()), torch.randn(20, 3, generator=seeded(1))
    result = kernel_distance(a, b, subsets=3, subset_size=20, generator=seeded())
    assert result.value == pytest.approx(kernel_distance(a, b).value)
    assert result.stderr == pytest.approx(0.0, abs=1e-12)


def test_arguments_that_do_not_fit_are_refused() -> None:
    a = torch.rand(10, 2)
    with pytest.raises(ValueError, match=r"^b has shape \(10,\)"):
        kernel_distance(a, torch.rand(10))
    with pytest.raises(ValueError, match="dimensions 2 and 3 differ"):
        kernel_distance(a, torch.rand(10, 3))
    with pytest.raises(ValueError, match="generator=None with subsets"):
        kernel_distance(a, a, subsets=3, subset_size=5)
    with pytest.raises(ValueError, match="subsets=1 does not give a standard error"):
        kernel_distance(a, a, subsets=1, subset_size=5, generator=seeded())
    with pytest.raises(ValueError, match=r"subset_size=11 is not in 2\.\.10"):
        kernel_distance(a, a, subsets=3, subset_size=11, generator=seeded())
