import itertools
import math

import pytest
import torch
from torch import Tensor

from oneblock.table import (
    cooccurrence,
    normalised,
    open_variance,
    orthonormal,
    posterior,
    posterior_entropy,
    prototypes,
    random_unit,
    simplex,
)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_corners_of_a_simplex_are_equally_far_apart_around_zero(k: int) -> None:
    table = simplex(k)
    expected = torch.full((k, k), -1 / (k - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(table @ table.mT, expected)
    torch.testing.assert_close(table.mean(0), torch.zeros(k))
    assert table.argmax(-1).tolist() == list(range(k))


@pytest.mark.parametrize("width", [4, 7])
def test_orthonormal_rows_are_gram_schmidt_of_random_ones(width: int) -> None:
    table = orthonormal(4, width, seed=3)
    torch.testing.assert_close(table @ table.mT, torch.eye(4))
    vectors = torch.randn(width, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64).mT
    rows: list[Tensor] = []
    for vector in vectors[:4]:  # each row keeps the sign of what it was made of: no direction is preferred
        rest = vector - sum((vector @ row) * row for row in rows)
        rows.append(rest / rest.norm())
    torch.testing.assert_close(table, torch.stack(rows).float())


def test_random_rows_are_uniform_on_the_sphere() -> None:
    table = random_unit(4000, 3, seed=0)
    torch.testing.assert_close(table.norm(dim=-1), torch.ones(4000))
    torch.testing.assert_close(table.mean(0), torch.zeros(3), rtol=0, atol=0.03)
    torch.testing.assert_close(table.mT @ table / 4000, torch.eye(3) / 3, rtol=0, atol=0.03)


def test_tables_follow_from_the_seed() -> None:
    for make in (orthonormal, random_unit):
        assert make(3, 5, 1).equal(make(3, 5, 1))
        assert not make(3, 5, 1).equal(make(3, 5, 2))


def test_prototypes_by_hand() -> None:
    # means (2, 0), (0, 4), (4, 5), whatever the number of samples; their mean (2, 3)
    features = torch.tensor([[1.0, 0.0], [0.0, 4.0], [3.0, 0.0], [4.0, 5.0], [2.0, 0.0]])
    table = prototypes(features, torch.tensor([0, 1, 0, 2, 0]), 3)
    expected = torch.tensor([[0.0, -3.0], [-2.0, 1.0], [2.0, 2.0]])
    torch.testing.assert_close(table, expected / torch.tensor([3.0, math.sqrt(5), math.sqrt(8)])[:, None])


def test_posterior_against_gaussian_densities() -> None:
    table, sigma = random_unit(3, 4, seed=0).double(), double(0.3, 0.7, 2.0, 9.0, 0.05)
    z = table[[0, 2, 1, 1, 0]] + sigma[:, None] * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for i in range(5):
        normal = torch.distributions.Normal(table, sigma[i])
        density = normal.log_prob(z[i]).sum(-1).exp()
        torch.testing.assert_close(posterior(z, sigma, table)[i], density / density.sum())


def exact_entropy(half: float, sigma: float) -> float:
    """Of two classes at distance ``2 half``: E[H(sigmoid(2 m (m + sigma eps) / sigma^2))], by the trapezoidal rule."""
    eps = torch.linspace(-10.0, 10.0, 40_001, dtype=torch.float64)
    p = torch.sigmoid(2 * half * (half + sigma * eps) / sigma**2)
    density = torch.exp(-0.5 * eps**2) / math.sqrt(2 * math.pi)
    return torch.trapezoid(density * (torch.special.entr(p) + torch.special.entr(1 - p)), eps).item()


@pytest.mark.parametrize("table", [simplex(2), random_unit(2, 5, seed=1), 0.5 * orthonormal(2, 3, seed=0)])
def test_entropy_of_two_classes_is_an_integral(table: Tensor) -> None:
    half = float((table[0] - table[1]).norm()) / 2
    levels = half * double(0.3, 0.5, 0.8, 1.5, 4.0)
    expected = [exact_entropy(half, level) for level in levels.tolist()]
    assert 0.001 < expected[0] < 0.1 * expected[-1], "the levels span the way from knowing to not knowing"
    found = posterior_entropy(table, levels, num_samples=20_000)
    assert found.tolist() == pytest.approx(expected, abs=2 * 0.5 / math.sqrt(20_000))


@pytest.mark.parametrize("table", [simplex(2), simplex(10), random_unit(5, 3, seed=0)])
def test_entropy_rises_from_nothing_to_that_of_a_guess(table: Tensor) -> None:
    levels = torch.logspace(-2, 3, 21, dtype=torch.float64)
    entropy = posterior_entropy(table, levels, num_samples=1024)
    assert entropy.dtype == torch.float64
    assert entropy[0].item() == pytest.approx(0.0, abs=1e-9)
    assert entropy[-1].item() == pytest.approx(math.log(len(table)), abs=1e-5)
    assert bool((entropy.diff() >= 0).all())


def test_entropy_follows_from_the_seed() -> None:
    one, again, other = (posterior_entropy(simplex(3), double(0.5), 256, seed) for seed in (0, 0, 1))
    assert one.equal(again)
    assert not one.equal(other)


def test_classes_closer_together_are_harder_to_tell_apart() -> None:
    tables = (simplex(4), orthonormal(4, 8, seed=0), 0.5 * simplex(4))
    entropies = [posterior_entropy(table, double(0.6), 2048).item() for table in tables]
    assert all(a + 0.05 < b for a, b in itertools.pairwise(entropies))


def test_symbols_with_the_same_neighbours_lie_close_together() -> None:
    """0 and 1 stand between 2 and 3 alike; 4 and 5 keep to themselves."""
    choice = torch.randint(2, (2000, 2), generator=torch.Generator().manual_seed(0))
    words = torch.stack([torch.full((2000,), 2), choice[:, 0], torch.full((2000,), 3)], 1)
    others = torch.tensor([[4, 5, 5]]).expand(2000, 3)
    tokens = torch.cat([words.flatten(), others.flatten()])
    table = cooccurrence(tokens, 6, 6, reach=1)
    torch.testing.assert_close(table.norm(dim=-1), torch.ones(6))
    alike = table @ table.mT
    assert float(alike[0, 1]) > 0.99
    assert float(alike[:4, 4:].abs().max()) < 0.1 and float(alike[0, 2:4].max()) < 0.7
    narrow = cooccurrence(tokens, 6, 3, reach=1)
    assert narrow.shape == (6, 3) and float(narrow[0] @ narrow[1]) > 0.99
    assert torch.equal(cooccurrence(tokens, 6, 3, reach=1), narrow)


@pytest.mark.parametrize("piece", [1, 2, 7, 599])
def test_neighbours_are_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    tokens = torch.randint(5, (600,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    whole = cooccurrence(tokens, 5, 4, reach=3)
    monkeypatch.setattr("oneblock.table.PIECE", piece)
    assert torch.equal(cooccurrence(tokens, 5, 4, reach=3), whole)


def test_information_of_a_pair_by_hand() -> None:
    """Two symbols in turn: with nearly all pairs (0, 1), PMI is ln 2 off the diagonal and 0 on it."""
    tokens = torch.arange(4000) % 2
    table = cooccurrence(tokens, 2, 1, reach=1)
    torch.testing.assert_close(table.abs(), torch.ones(2, 1))
    pairs = cooccurrence(tokens, 2, 2, reach=1)
    torch.testing.assert_close(pairs.abs(), torch.full((2, 2), 0.5**0.5), rtol=1e-3, atol=1e-3)
    assert float(pairs[0] @ pairs[1]) == pytest.approx(0.0, abs=1e-3)


def test_wrong_tables_are_refused() -> None:
    for make in (lambda: simplex(1), lambda: orthonormal(1, 4, 0), lambda: random_unit(1, 4, 0)):
        with pytest.raises(ValueError, match="num_classes=1 leaves nothing to tell apart; use 2 or more"):
            make()
    with pytest.raises(
        ValueError, match="width=3 is too small for 4 orthonormal rows; use 4 or more, or a random table"
    ):
        orthonormal(4, 3, 0)
    with pytest.raises(
        ValueError, match=r"no sample has the classes \[0, 3\]; a table of prototypes needs one of each"
    ):
        prototypes(torch.ones(2, 3), torch.tensor([1, 2]), 4)
    with pytest.raises(ValueError, match=r"rows \[0, 2\] of the table are 0; every class needs a direction"):
        normalised(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"rows \[0, 1\] of the table are 0"):
        prototypes(torch.ones(2, 3), torch.tensor([0, 1]), 2)
    with pytest.raises(
        ValueError, match="width=5 does not fit co-occurrence vectors; use 1 to the number of symbols, 4"
    ):
        cooccurrence(torch.arange(4), 4, 5)


def test_open_variance_runs_from_all_to_none() -> None:
    table = simplex(10)
    assert open_variance(table, torch.full((2000,), 1e4)) == pytest.approx(1.0, abs=1e-6)
    assert open_variance(table, torch.full((2000,), 1e-2)) == pytest.approx(0.0, abs=1e-6)


def test_open_variance_of_two_classes_is_that_of_a_logistic() -> None:
    """``4 E[s (1 - s)]`` with s the posterior of the first class, its log-odds normal: mean ``d^2 / (2 sigma^2)``,
    variance twice that, and d = 2 the distance of the two rows."""
    sigma, x = 0.9, torch.linspace(-12, 12, 20001, dtype=torch.float64)
    mean = 2.0**2 / (2 * sigma**2)
    odds = mean + (2 * mean) ** 0.5 * x
    density = torch.exp(-(x**2) / 2) / (2 * torch.pi) ** 0.5
    exact = torch.trapezoid(4 * odds.sigmoid() * (-odds).sigmoid() * density, x)
    assert open_variance(simplex(2), torch.full((200_000,), sigma)) == pytest.approx(float(exact), abs=3e-3)
