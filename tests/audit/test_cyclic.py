"""Cycles against the exact denoiser of a finite set and against closed forms."""

import math

import pytest
import torch
from oracles import gaussian
from torch import Tensor

from oneblock.audit.cyclic import REVERSES, amplitude, cycle, cycle_grid, cycle_text
from oneblock.audit.exact import Empirical, comes_back, leaves_at_most
from oneblock.condition import ClassIds, Condition, Nothing
from oneblock.noise import CosineMask, LinearMask, LogNormal
from oneblock.sample import karras_grid
from oneblock.schedule import DiscreteBetas, FlowMatching

POINTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DISTANCES = torch.cdist(POINTS, POINTS).fill_diagonal_(math.inf).amin(1)
CYCLES, REPEATS = 4, 300


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sigma", [0.2, 0.3, 0.4, 0.5])
def test_chains_stay_as_long_as_theorem_1_says(sigma: float) -> None:
    """The share that is at its point after each of M cycles is ``h_i^M`` within the Monte-Carlo error, and above the
    bound."""
    chosen = DISTANCES.argsort(descending=True)[:8]
    back, error = comes_back(POINTS, chosen, sigma, 20_000, seeded(1))
    expected, bound = back**CYCLES, (1 - leaves_at_most(POINTS, chosen, sigma)) ** CYCLES
    home = chosen.repeat(REPEATS)
    inside = torch.ones(len(home), dtype=torch.bool)
    for state in cycle(Empirical(POINTS), POINTS[home], karras_grid(0.01, sigma, 60), CYCLES, seeded(2)):
        inside &= torch.cdist(state, POINTS).argmin(1) == home
    stayed = inside.double().mean()
    spread = (expected * (1 - expected)).mean() / len(home) + (CYCLES * back ** (CYCLES - 1) * error).square().mean()
    assert abs(stayed - expected.mean()) < 3 * spread.sqrt()
    assert bool((expected > bound).all())
    assert 0.2 < expected.mean() < 0.999, "an amplitude at which a mistake would show"


def test_small_amplitudes_stay_and_large_ones_mix_over_all_points() -> None:
    exact = Empirical(POINTS)
    (near,) = cycle(exact, POINTS, karras_grid(0.01, 0.03, 20), 1, seeded())
    torch.testing.assert_close(near, POINTS, rtol=0, atol=1e-6)
    start = POINTS[:1].repeat(1600, 1)
    (far,) = cycle(exact, start, karras_grid(0.01, 40.0, 150), 1, seeded())
    counts = torch.cdist(far, POINTS).argmin(1).bincount(minlength=64).double()
    assert float((counts - 25).square().sum() / 25) < 110, "chi-square of 63 degrees of freedom, 99.99 %"


def test_the_bound_by_hand() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    found = leaves_at_most(points, torch.tensor([0, 2]), sigma=0.5, radius=0.1)
    by_hand = [
        0.5 * (math.exp(-1 * 0.6 / 2) + math.exp(-3 * 2.6 / 2)),
        0.5 * (math.exp(-3 * 2.6 / 2) + math.exp(-2 * 1.6 / 2)),
    ]
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"radius=0.25 is not allowed; use 0 or more, below 0.25"):
        leaves_at_most(points, torch.tensor([0]), 0.5, 0.25)


def test_a_point_that_stands_twice_is_drawn_twice_as_often() -> None:
    doubled = Empirical(torch.tensor([[-1.0], [1.0], [1.0]]))
    weights = doubled.weights(torch.zeros(1, 1), torch.ones(1))
    torch.testing.assert_close(weights[0, 1:].sum(), torch.tensor(2 / 3))


@pytest.mark.parametrize("name", ["ancestral", "churn"])
def test_a_cycle_with_noise_on_the_way_keeps_the_law_of_the_data(name: str) -> None:
    """Data N(0, 0.7^2), of which the chain must be a stationary process with ``corr = s^2 / (s^2 + sigma^2)``."""
    x = 0.7 * torch.randn(20_000, 1, generator=seeded(), dtype=torch.float64)
    *_, before, after = cycle(gaussian(0.7), x, karras_grid(0.005, 0.5, 200), 3, seeded(1), reverse=name)
    assert after.mean().item() == pytest.approx(0.0, abs=0.02)
    assert after.std().item() == pytest.approx(0.7, rel=0.02)
    if name == "ancestral":
        correlation = torch.corrcoef(torch.cat([before, after], dim=1).T)[0, 1].item()
        assert correlation == pytest.approx(0.49 / 0.74, abs=0.02)


def test_every_reverse_counts_its_calls_and_stays_on_its_levels() -> None:
    for name, sampler in REVERSES.items():
        levels: list[float] = []

        def spy(z: Tensor, sigma: Tensor, condition: Condition, seen: list[float] = levels) -> Tensor:
            seen.append(float(sigma[0]))
            return 0.5 * z

        list(cycle(spy, torch.zeros(2, 3), karras_grid(0.01, 0.4, 5), 3, seeded(), reverse=name))
        assert len(levels) == 3 * sampler.calls(5)
        assert max(levels) == pytest.approx(0.4)


def test_states_stream_and_follow_from_the_generator_alone() -> None:
    asked: list[int] = []

    def spy(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        asked.append(len(condition))
        return 0.5 * z

    states = cycle(spy, torch.zeros(2, 3), karras_grid(0.01, 0.4, 5), 10**6, seeded(4))
    first, second = next(states), next(states)
    assert len(asked) == 10, "two cycles of five calls: nothing is done ahead"
    again = cycle(spy, torch.zeros(2, 3), karras_grid(0.01, 0.4, 5), 2, seeded(4))
    assert all(torch.equal(a, b) for a, b in zip((first, second), again, strict=True))


def test_the_condition_reaches_the_denoiser() -> None:
    told: list[Condition] = []

    def spy(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        told.append(condition)
        return z

    classes = ClassIds(torch.tensor([1, 0]), null_id=2)
    for condition in (classes, classes.null(), None):
        list(cycle(spy, torch.zeros(2, 3), karras_grid(0.01, 0.4, 2), 1, seeded(), condition))
    assert [c.ids.tolist() for c in told if isinstance(c, ClassIds)] == [[1, 0]] * 2 + [[2, 2]] * 2
    assert isinstance(told[-1], Nothing) and len(told[-1]) == 2


def test_amplitudes_in_other_units() -> None:
    assert amplitude(0.3) == 0.3
    assert amplitude(0.09, "q") == pytest.approx(0.3)
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    for gamma, step in ((0.05, 50), (0.001, 1), (1.0, 999)):
        assert amplitude(gamma, "gamma") == pytest.approx(float((1 / kept[step] - 1).sqrt()))
    cosine = DiscreteBetas("squaredcos_cap_v2")
    assert amplitude(0.05, "gamma", cosine) != pytest.approx(amplitude(0.05, "gamma"), rel=0.2)
    assert amplitude(0.2, "gamma", FlowMatching()) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [
        (0.0, "sigma", r"amplitude=0.0 is not allowed; use a number, above 0$"),
        (1.5, "gamma", r"amplitude=1.5 is not allowed; use a number, above 0 and up to 1"),
        (0.5, "percent", r"unit='percent' is not allowed; use one of sigma, q, gamma"),
    ],
)
def test_what_is_no_amplitude(value: float, unit: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        amplitude(value, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("sigma", [0.002, 81.0])
def test_an_amplitude_outside_the_law_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"was not trained on; use sigma above 0.002, up to 80"):
        cycle_grid(LogNormal(), sigma, 10)
    assert cycle_grid(LogNormal(), 0.5, 10)[0] == 0.5


@pytest.mark.parametrize("law", [LinearMask(), CosineMask()])
def test_text_is_masked_and_filled_in_again(law: LinearMask | CosineMask) -> None:
    """A denoiser that knows one text restores it; it is told the time at which so many places are masked."""
    text, mask, share = torch.arange(6), 6, 0.4
    times, hidden = [], []

    def knows(z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        times.append(float(t[0]))
        hidden.append(float((z == mask).double().mean()))
        return torch.nn.functional.one_hot(text, 6).float().expand(len(z), -1, -1) * 50

    start = text.flip(0).repeat(500, 1)
    states = list(cycle_text(knows, law, start, mask, share, 12, 4, seeded()))
    assert times[0] == times[4] == pytest.approx(float(law.quantile(torch.tensor(share))))
    assert hidden[0] == pytest.approx(share, abs=0.03)
    assert not any((state == mask).any() for state in states)
    kept = float((states[0] == start).double().mean())
    assert kept == pytest.approx(1 - share, abs=0.03), "places that were not masked stay"
    assert float((states[-1] == text).double().mean()) > 0.99
