"""Noise: what it is, that pairs cancel, and that its weighted sum is the sum of what members add."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from oneblock.ops.members import LowRank
from oneblock.optim.perturbation import Noise, slot_of

SHAPES = {"matrix": (12, 9), "bias": (12,), "kernel": (6, 2, 3, 3), "thin": (2, 2), "number": (), "places": (1, 8, 9)}


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, shape in SHAPES.items()}


def added(noise: Noise, step: int, members: range) -> dict[str, Tensor]:
    """What each of ``members`` adds to every parameter, (members, ...)."""
    found = noise.offsets(step, members)
    return {
        name: torch.stack(
            [type(found[name])(*(t[i] for t in vars(found[name]).values())).added(zero) for i in range(len(members))]
        )
        for name, zero in parameters().items()
    }


def noise_of(rank: int = 1, sigma: float = 0.5, seed: int = 0) -> Noise:
    return Noise(parameters(), sigma=sigma, rank=rank, seed=seed)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_pair_cancels_bit_for_bit(rank: int) -> None:
    for t in added(noise_of(rank), 0, range(8)).values():
        assert t[0::2].equal(-t[1::2])
        assert not t[0].equal(t[2])


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_members_are_the_same_in_any_chunk(rank: int) -> None:
    whole = added(noise_of(rank), 5, range(12))
    for members in (range(0, 4), range(3, 8), range(11, 12)):
        part = added(noise_of(rank), 5, members)
        assert all(part[name].equal(whole[name][members.start : members.stop]) for name in whole)


def test_steps_and_seeds_differ() -> None:
    first = added(noise_of(), 0, range(2))["matrix"]
    assert not first.equal(added(noise_of(), 1, range(2))["matrix"])
    assert not first.equal(added(noise_of(seed=1), 0, range(2))["matrix"])
    assert first.equal(added(noise_of(), 0, range(2))["matrix"])


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_numbers_have_the_variance_asked_for_and_the_tails_of_their_rank(rank: int) -> None:
    """E[E^2] = 1; E[E^4] = 3 + 6 / r for a sum of r products over sqrt(r)."""
    noise = Noise({"matrix": torch.zeros(12, 9)}, sigma=0.5, rank=rank, seed=3)
    found = noise.offsets(0, range(8000))["matrix"]
    values = (found.a @ found.b.transpose(1, 2) if isinstance(found, LowRank) else found.values)[::2] / 0.5
    assert float(values.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(values.square().mean()) == pytest.approx(1.0, rel=0.02)
    assert float(values.pow(4).mean()) == pytest.approx(3 + (6 / rank if rank else 0), rel=0.06)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_the_sum_is_that_of_what_members_add(rank: int) -> None:
    noise = noise_of(rank, sigma=0.25)
    weights = torch.linspace(-1, 2, 150)  # more pairs than are added up at once
    expected = {name: t[::2] / 0.25 for name, t in added(noise, 2, range(300)).items()}
    for name, total in noise.sum(2, weights).items():
        wanted = torch.tensordot(weights, expected[name], dims=1)
        torch.testing.assert_close(total, wanted, rtol=1e-4, atol=1e-4)


def test_full_rank_where_it_is_not_more() -> None:
    assert [slot_of(torch.zeros(shape), 1).rank for shape in SHAPES.values()] == [1, 0, 1, 0, 0, 1]
    assert slot_of(torch.zeros(6, 6), 3).rank == 0
    assert slot_of(torch.zeros(64, 32), 2).numbers == 2 * (64 + 32)


def test_the_type_is_that_of_the_parameter() -> None:
    noise = Noise(parameters(torch.bfloat16), sigma=0.5, rank=1, seed=0)
    assert {t.dtype for o in noise.offsets(0, range(2)).values() for t in vars(o).values()} == {torch.bfloat16}
    torch.testing.assert_close(noise.sum(0, torch.ones(4)), noise_of().sum(0, torch.ones(4)), rtol=0, atol=0)


def distorted(rank: int) -> float:
    """``E[f(sigma E) E] / sigma`` for f(x) = tanh(2 x + 0.7) + 0.5 sin(3 x), sigma = 0.5, and E the sum of ``rank``
    products of normal numbers over sqrt(rank); 0 stands for a normal number.

    Given A, E is normal with variance v / rank, where v has the chi-square law: two quadratures.
    """
    sigma, x = 0.5, torch.linspace(-10, 10, 801, dtype=torch.float64)
    normal = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])

    def mean(scale: Tensor) -> Tensor:
        e = scale[:, None] * x
        return ((torch.tanh(2 * sigma * e + 0.7) + 0.5 * torch.sin(3 * sigma * e)) * e * normal).sum(-1)

    if rank == 0:
        return float(mean(torch.ones(1, dtype=torch.float64))[0] / sigma)
    log_v = torch.linspace(-25, 6, 501, dtype=torch.float64)
    log_density = rank / 2 * log_v - log_v.exp() / 2 - rank / 2 * math.log(2) - math.lgamma(rank / 2)
    density = log_density.exp() * (log_v[1] - log_v[0])
    return float((density * mean((log_v.exp() / rank).sqrt())).sum() / sigma)


def test_the_error_of_low_rank_falls_as_one_over_the_rank() -> None:
    """Sarkar et al., Theorem 4: what a doubling of the rank divides the error by goes to 2."""
    exact = distorted(0)
    errors = [abs(distorted(r) - exact) for r in (1, 2, 4, 8, 16, 32, 64)]
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert ratios == pytest.approx([1.561, 1.701, 1.817, 1.897, 1.945, 1.972], abs=0.001)


def test_our_noise_has_the_error_of_its_rank() -> None:
    """The estimate of the same slope from members, whose matrix has the number that f looks at in a corner."""
    sigma, count = 0.5, 20_000
    noise = Noise({"w": nn.Parameter(torch.zeros(3, 3))}, sigma=sigma, rank=1, seed=0)
    found = noise.offsets(0, range(count))["w"]
    assert isinstance(found, LowRank)
    moved = (found.a @ found.b.transpose(1, 2))[:, 0, 0]
    f = torch.tanh(2 * moved + 0.7) + 0.5 * torch.sin(3 * moved)
    estimate = float(noise.sum(0, f[::2] - f[1::2])["w"][0, 0]) / (count * sigma)
    assert estimate == pytest.approx(distorted(1), abs=0.03)
    assert estimate != pytest.approx(distorted(0), abs=0.06)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"sigma": 0.0}, "sigma=0.0 is not allowed"),
        ({"rank": -1}, "rank=-1 is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed"),
    ],
)
def test_refusals(words: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Noise(parameters(), **{"sigma": 0.1, "rank": 1, "seed": 0, **words})  # type: ignore[arg-type]
