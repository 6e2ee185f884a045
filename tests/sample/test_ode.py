"""Samplers against exact denoisers of one and of two Gaussians, in float64."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from oneblock.condition import Condition, Nothing
from oneblock.sample import SAMPLERS, churn, euler, heun, karras_grid
from oneblock.sample.ode import Churn, Noise, ancestral

S = 0.7  # standard deviation of each Gaussian
NONE = Nothing(9)


def gaussian(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """E[y | z] for y ~ N(0.3, S^2)."""
    v = sigma.view(-1, 1) ** 2
    return (S**2 * z + v * 0.3) / (S**2 + v)


def mixture(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """E[y | z] for equal parts of N(-1, S^2) and N(2, S^2)."""
    v = sigma.view(-1, 1) ** 2
    means = torch.tensor([-1.0, 2.0], dtype=z.dtype)
    share = torch.softmax(-0.5 * (z[..., None] - means) ** 2 / (S**2 + v[..., None]), -1)
    return (share * (S**2 * z[..., None] + v[..., None] * means) / (S**2 + v[..., None])).sum(-1)


def path(z: Tensor, start: float, end: float) -> Tensor:
    """The probability-flow path of ``gaussian`` in closed form."""
    return 0.3 + (z - 0.3) * math.sqrt((S**2 + end**2) / (S**2 + start**2))


def grid(steps: int, end: float = 0.1) -> Tensor:
    """Levels whose seventh roots are equally far apart, down to ``end`` above 0, where the order shows."""
    return karras_grid(end, 5.0, steps + 1)[:-1]


START = torch.linspace(-6, 6, 9, dtype=torch.float64).view(-1, 1)


def drawn(generator: torch.Generator) -> Noise:
    return lambda z: torch.randn(z.shape, generator=generator, dtype=z.dtype)


def geometric(steps: int) -> Tensor:
    """Levels with one ratio between neighbours, from 5 to 0.1."""
    return torch.logspace(math.log10(5.0), -1.0, steps + 1, dtype=torch.float64)


def uneven(steps: int) -> Tensor:
    """Levels from 5 to 0.1 whose logarithms lie 1, 2 and 3 parts apart, in turn."""
    parts = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).repeat(steps)[:steps].cumsum(0)
    return 5.0 * 0.02 ** torch.cat([torch.zeros(1, dtype=torch.float64), parts / parts[-1]])


@pytest.mark.parametrize("levels", [grid, geometric, uneven])
@pytest.mark.parametrize("denoiser", [gaussian, mixture])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_measured_order_is_the_declared_one(
    name: str, denoiser: Callable[..., Tensor], levels: Callable[[int], Tensor]
) -> None:
    run = Churn(s_churn=0.0) if name == "churn" else SAMPLERS[name].run
    exact = heun(denoiser, START, geometric(4000), NONE)
    if denoiser is gaussian:
        torch.testing.assert_close(exact, path(START, 5.0, 0.1), rtol=0, atol=1e-6)
    errors = [float((run(denoiser, START, levels(n), NONE, None) - exact).abs().max()) for n in (80, 160, 320)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(SAMPLERS[name].order, abs=0.2)


def test_one_euler_step_by_hand() -> None:
    z = torch.tensor([[2.0]], dtype=torch.float64)
    out = euler(lambda z, sigma, condition: torch.full_like(z, 0.5), z, torch.tensor([4.0, 1.0]), NONE)
    assert out.item() == pytest.approx(0.25 * 2.0 + 0.75 * 0.5)


def test_dpm_solver_extrapolates_to_the_middle_of_a_step_of_any_length() -> None:
    """A denoiser that is linear in ``lambda = -ln sigma`` is met exactly, whatever step came before."""

    def linear(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return (0.3 - 0.8 * sigma.log()).view(-1, 1).expand_as(z)

    z, levels = torch.tensor([[2.0]], dtype=torch.float64), [4.0, 3.0, 0.5]
    out = SAMPLERS["dpm++2m"].run(linear, z, torch.tensor(levels, dtype=torch.float64), NONE, None)
    first = 0.75 * 2.0 + 0.25 * (0.3 - 0.8 * math.log(4.0))
    middle = 0.3 - 0.8 * (math.log(3.0) + math.log(0.5)) / 2
    assert out.item() == pytest.approx(first / 6 + middle * 5 / 6)


def test_a_perfect_denoiser_leaves_exactly_the_next_level_of_noise() -> None:
    y, eps = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[-1.3]], dtype=torch.float64)
    for run in (euler, heun, SAMPLERS["dpm++2m"].run):
        out = run(lambda z, sigma, condition: y, y + 5 * eps, grid(7), NONE, None)
        torch.testing.assert_close(out, y + 0.1 * eps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_are_counted_and_levels_stay_on_the_grid(name: str) -> None:
    levels: list[float] = []

    def spy(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        assert sigma.shape == (len(z),)
        levels.append(float(sigma[0]))
        return mixture(z, sigma, condition)

    steps = karras_grid(0.01, 5.0, 6)
    out = SAMPLERS[name].run(spy, START, steps, NONE, drawn(torch.Generator().manual_seed(0)))
    assert len(levels) == SAMPLERS[name].calls(6)
    assert max(levels) <= 5.0
    if name != "churn":
        assert set(levels) == set(steps.tolist()[:-1])
    assert bool(torch.isfinite(out).all())


def test_the_last_step_gives_the_denoiser_itself() -> None:
    steps = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    for name, sampler in SAMPLERS.items():
        if name != "churn":
            out = sampler.run(lambda z, sigma, condition: sigma.view(-1, 1).expand_as(z), START, steps, NONE, None)
            torch.testing.assert_close(out, torch.full_like(START, 0.5), msg=name)


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_churn_keeps_the_distribution(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = 0.3 + math.sqrt(S**2 + 25.0) * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    out = replace(churn, s_churn=noise)(gaussian, z, karras_grid(0.005, 5.0, 60), NONE, drawn(generator))
    assert out.mean().item() == pytest.approx(0.3, abs=0.02)
    assert out.std().item() == pytest.approx(S, rel=0.02)
    ordinary = heun(gaussian, z, karras_grid(0.005, 5.0, 60), NONE)
    assert out.equal(ordinary) == (noise == 0.0)


@pytest.mark.parametrize(
    ("settings", "gamma"), [({"s_churn": 2.0}, 2 / 8), ({"s_churn": 40.0}, math.sqrt(2) - 1), ({"s_max": 0.9}, 0.0)]
)
def test_churn_raises_the_level_by_its_share_of_the_steps(settings: dict[str, float], gamma: float) -> None:
    """``gamma = min(s_churn / steps, sqrt(2) - 1)`` within [s_min, s_max], and noise of ``s_noise`` times the gap."""
    seen: list[tuple[float, float]] = []

    def spy(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        seen.append((z.item(), sigma.item()))
        return torch.zeros_like(z)

    levels = torch.tensor([9.0, 2.0, 1.5, 1.0, 0.8, 0.7, 0.6, 0.5, 0.0], dtype=torch.float64)  # 8 steps
    start = torch.tensor([[3.0]], dtype=torch.float64)
    Churn(**{"s_noise": 1.01, **settings})(spy, start, levels, Nothing(1), torch.ones_like)
    assert seen[0] == (3.0, 9.0)  # levels never exceed the first one
    before, raised = 3.0 * 2.0 / 9.0, 2.0 * (1 + gamma)
    noised = before + math.sqrt(raised**2 - 4.0) * 1.01
    assert seen[2] == pytest.approx((noised, raised))


def test_churn_is_reproducible() -> None:
    once, again = (churn(mixture, START, grid(9), NONE, drawn(torch.Generator().manual_seed(3))) for _ in range(2))
    assert once.equal(again)


def test_one_ancestral_step_by_hand() -> None:
    """``N(a z + (1 - a) D, s'^2 (1 - a))`` with ``a = (s' / s)^2``: Bayes' rule for z' given z and y = D."""
    z = torch.tensor([[2.0]], dtype=torch.float64)
    levels = torch.tensor([4.0, 1.0], dtype=torch.float64)
    out = ancestral(lambda z, sigma, condition: torch.full_like(z, 0.5), z, levels, Nothing(1), torch.ones_like)
    assert out.item() == pytest.approx(2.0 / 16 + 0.5 * 15 / 16 + 1.0 * math.sqrt(15 / 16))
    known = 1 / (1 / 1.0**2 + 1 / (4.0**2 - 1.0**2))  # variance of z' from its prior around y and from z
    assert (out.item() - 2.0 / 16 - 0.5 * 15 / 16) ** 2 == pytest.approx(known)


@pytest.mark.parametrize("levels", [[1.0], [1.0, 1.0], [0.5, 1.0], [1.0, -0.1], [1.0, float("nan")]])
def test_grids_that_do_not_descend_are_refused(levels: list[float]) -> None:
    for sampler in SAMPLERS.values():
        with pytest.raises(ValueError, match="does not descend to 0 or above; give at least two strictly"):
            sampler.run(gaussian, START, torch.tensor(levels), NONE, None)
