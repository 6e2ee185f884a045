"""MeanFlow against normal data, whose flow is known: x_r = x_t g(r) / g(t), g(t)^2 = (1 - t)^2 S^2 + t^2."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.condition import ClassIds, Condition, Nothing, Until
from oneblock.data import Samples
from oneblock.noise import LogNormal
from oneblock.sample import SAMPLERS
from oneblock.schedule import FlowMatching
from oneblock.tasks.base import Noised
from oneblock.tasks.image import ImageGeneration
from oneblock.tasks.meanflow import SOFTENED, MeanFlow

S = 0.7
LAW = LogNormal(0.0, 1.0, 0.001, 999.0)
TASK = MeanFlow(ImageGeneration(FlowMatching(), 0), LAW, {None: LAW.low, 0: 1.0, 1: LAW.low})
SIGMA = torch.tensor([0.05, 0.4, 1.0, 3.0, 20.0], dtype=torch.float64)
ENDS = torch.tensor([0.05, 0.1, 0.0, 2.0, 0.001], dtype=torch.float64)


def exact(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """``D = x_t - t u(x_t, r, t)`` of normal data (n, d)."""
    ends = condition.level if isinstance(condition, Until) else sigma
    t, r = (sigma / (1 + sigma))[:, None], (ends / (1 + ends))[:, None]

    def spread(time: Tensor) -> Tensor:
        return ((1 - time) ** 2 * S**2 + time**2).sqrt()

    x = (1 - t) * z
    velocity = ((t - (1 - t) * S**2) / spread(t) ** 2) * x
    apart = torch.where(t > r, t - r, torch.ones_like(t))
    mean = torch.where(t > r, x * (1 - spread(r) / spread(t)) / apart, velocity)
    return x - t * mean


def noisy(seed: int = 0) -> Tensor:
    z = torch.randn(len(SIGMA), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z * (S**2 + SIGMA[:, None] ** 2).sqrt()


def test_the_exact_mean_velocity_is_its_own_target() -> None:
    """With the mean of y given z for y, ``eps - y`` is the velocity at z itself."""
    z = noisy()
    y = z * S**2 / (S**2 + SIGMA[:, None] ** 2)
    told = Until(Nothing(len(z)), ENDS)
    target = TASK.target(exact, Noised(z, SIGMA, None), y, told)
    torch.testing.assert_close(target, exact(z, SIGMA, told), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(target[0], y[0], rtol=1e-8, atol=1e-8)
    wrong = TASK.target(lambda *call: 0.9 * exact(*call), Noised(z, SIGMA, None), y, told)
    apart = (wrong - 0.9 * exact(z, SIGMA, told)).abs().amin(1)
    assert apart[[1, 3]].min() > 1e-3
    assert apart[2] < 1e-8  # to the end of the path any constant along it is consistent, and r = t says which


@pytest.mark.parametrize("grid", [[20.0, 0.0], [20.0, 1.5, 0.0], [20.0, 6.0, 2.0, 0.3]])
def test_jumps_of_any_length_are_exact(grid: list[float]) -> None:
    z = noisy()[:, :1] * 3
    found = SAMPLERS["jump"].run(exact, z, torch.tensor(grid, dtype=torch.float64), Nothing(len(z)), None)
    expected = z * ((S**2 + grid[-1] ** 2) / (S**2 + grid[0] ** 2)) ** 0.5
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_the_loss_by_hand_and_its_gradient() -> None:
    z, y = noisy(), noisy(1)
    told, scale = Until(Nothing(len(z)), ENDS), torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def denoiser(*call: Any) -> Tensor:
        return scale * exact(*call)

    noised = Noised(z, SIGMA, None)
    target = TASK.target(denoiser, noised, y, told)
    assert not target.requires_grad
    loss = TASK.loss(denoiser, noised, y, told)
    t = SIGMA / (1 + SIGMA)
    error = ((denoiser(z, SIGMA, told) - target) / t[:, None]).square().sum(1)
    torch.testing.assert_close(loss.weighted, error / (error.detach() + SOFTENED))
    torch.testing.assert_close(loss.plain, (error * t**2 / 3))
    (found,) = torch.autograd.grad(loss.weighted.sum(), scale)
    by_hand = [torch.autograd.grad(e, scale, retain_graph=True)[0] / (e.detach() + SOFTENED) for e in error]
    torch.testing.assert_close(found, torch.stack(by_hand).sum())


@pytest.mark.parametrize(("block", "lower"), [(None, LAW.low), (0, 1.0), (1, LAW.low)])
def test_steps_end_in_the_band_and_some_at_once(block: int | None, lower: float) -> None:
    sigma = torch.full((40_000,), 4.0)
    ends = TASK.ends(Noised(torch.zeros(40_000, 1), sigma, block), torch.Generator().manual_seed(0))
    jumps = ends < sigma
    assert jumps.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert ends.min() >= lower * (1 - 1e-5) and ends[~jumps].eq(4.0).all()
    low, high = LAW.cdf(torch.tensor([lower, 4.0]))
    mass = ((LAW.cdf(ends[jumps]) - low) / (high - low)).sort().values
    torch.testing.assert_close(mass, torch.linspace(0, 1, len(mass), dtype=torch.float64), rtol=0, atol=0.02)


def test_a_batch_says_where_its_steps_end_and_drops_labels_as_ever() -> None:
    task = replace(TASK, task=ImageGeneration(FlowMatching(), 3, 0.5))
    samples = Samples(torch.randn(8, 2), torch.arange(8) % 3)
    sigma = torch.linspace(0.1, 5.0, 8)
    batch = task.draw(samples, sigma, 1, torch.Generator().manual_seed(0))
    plain = task.task.draw(samples, sigma, 1, torch.Generator().manual_seed(0))
    assert batch.noised.z.equal(plain.noised.z) and isinstance(batch.condition, Until)
    assert isinstance(batch.condition.condition, ClassIds) and isinstance(plain.condition, ClassIds)
    assert batch.condition.condition.ids.equal(plain.condition.ids)
    assert len(batch.tensors()) == 5 and batch.split(2)[1].condition.tensors()[1].equal(batch.condition.level[4:])


def test_a_condition_with_an_end_is_a_condition() -> None:
    told = Until(ClassIds(torch.tensor([0, 1, 2]), 3), torch.tensor([0.1, 0.2, 0.3]))
    assert len(told) == 3 and told.take(slice(1, 3)).level.tolist() == pytest.approx([0.2, 0.3])
    assert told.to("cpu").tensors()[0].tolist() == [0, 1, 2]
    nothing = told.null()
    assert isinstance(nothing.condition, ClassIds) and nothing.condition.ids.tolist() == [3, 3, 3]
    assert nothing.level.equal(told.level)
    both = told.join(told.take(torch.tensor([2])))
    assert both.level.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.3]) and len(both) == 4
    with pytest.raises(ValueError, match="Until and ClassIds cannot be joined"):
        told.join(told.condition)
    with pytest.raises(ValueError, match=r"level is torch\.int64"):
        Until(Nothing(2), torch.tensor([1, 2]))
