"""The engine on networks of a few numbers; whole blocks are in ``test_step``, whole jobs in ``test_loop``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneblock.tasks.base import Loss
from oneblock.train.learner import Backpropagation, Learner, Losses, NonFiniteError, gradients, learn, rehearse
from oneblock.train.step import Course, OptimizerSettings

SETTINGS = OptimizerSettings(learning_rate=0.1, weight_decay=0.0, beta1=0.5, beta2=0.5, clip=1e9, ema_gamma=1.0)


def learner_of(
    settings: OptimizerSettings = SETTINGS, steps: int = 4, warmup: int = 1, hold: int = 0, **words: Any
) -> Learner[nn.Linear]:
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    course = Course(name="part", first_step=0, last_step=steps, warmup=warmup, hold=hold)
    return Learner(course, module, settings, **words)


def squares(learner: Learner[nn.Linear], x: Tensor) -> Loss:
    out = learner.network(x).square().sum(-1)
    return Loss(out, out)


def step_of(learner: Learner[nn.Linear], x: Tensor) -> Any:
    return learn([learner], [partial(squares, learner, x)], len(x))


def inputs(step: int = 0) -> Tensor:
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(step))


def test_the_learning_rate_warms_up_holds_and_falls() -> None:
    learner = learner_of(steps=8, warmup=2, hold=4)
    rates = [step_of(learner, inputs()).learning_rate for _ in range(8)]
    falling = [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert rates == pytest.approx([0.1 * factor for factor in (0.5, 1.0, 1.0, 1.0, *falling)])


def test_the_rate_of_the_step_moves_the_weights() -> None:
    """Adam's first step has the size of the learning rate, here a quarter of its peak."""
    learner = learner_of(warmup=4)
    before = learner.module.weight.detach().clone()
    step_of(learner, inputs())
    torch.testing.assert_close((learner.module.weight - before).abs(), torch.full((1, 2), 0.025), rtol=1e-4, atol=0)


def test_gradients_are_clipped_before_they_reach_the_moments() -> None:
    learner = learner_of(OptimizerSettings(learning_rate=0.1, beta1=0.5, clip=0.25))
    x = inputs()
    (gradient,) = torch.autograd.grad(squares(learner, x).weighted.mean(), learner.module.weight)
    assert float(gradient.norm()) > 1.0
    found = step_of(learner, x)
    assert found.norms == pytest.approx((float(gradient.norm()),)), "the norm before clipping is reported"
    moment = learner.optimizer.state[learner.module.weight]["exp_avg"]
    torch.testing.assert_close(moment, 0.5 * 0.25 * gradient / gradient.norm())


def test_the_average_follows_the_weights_after_they_moved() -> None:
    """``(1 - 1/t)^2`` of the old average at step t: a copy of the weights after the first step."""
    learner = learner_of()
    average = torch.zeros(1, 2)
    for step in (1, 2, 3):
        step_of(learner, inputs(step))
        beta = (1 - 1 / step) ** 2
        average = beta * average + (1 - beta) * learner.module.weight.detach()
        torch.testing.assert_close(learner.averages["weight"], average)
    weight = learner.module.weight.detach().clone()
    module = learner.freeze()
    torch.testing.assert_close(module.weight.data, average)
    assert not module.weight.equal(weight)
    assert not module.weight.requires_grad
    assert not module.training


def test_micro_batches_make_the_gradient_of_the_batch() -> None:
    whole, parts = learner_of(), learner_of()
    x = inputs()
    losses = [partial(squares, parts, part) for part in x.split([3, 1])]
    one, _ = gradients([whole], [partial(squares, whole, x)], 4)
    many, _ = gradients([parts], losses, 4)
    torch.testing.assert_close(many.weighted, one.weighted)
    torch.testing.assert_close(parts.module.weight.grad, whole.module.weight.grad)


@dataclass(frozen=True)
class Differences:
    """An update without a backward pass: central differences of the mean loss, one weight after the other."""

    size: float = 1e-3
    steps: list[int] = field(default_factory=list)

    @torch.no_grad()
    def __call__(self, networks: Sequence[nn.Module], losses: Sequence[Losses], samples: int, step: int) -> Loss:
        self.steps.append(step)
        for network in networks:
            for p in network.parameters():
                p.grad = torch.zeros_like(p)
                for i in range(p.numel()):
                    ends = [self._moved(p.view(-1), i, sign * self.size, losses) for sign in (1, -1)]
                    p.grad.view(-1)[i] = (ends[0] - ends[1]) / (2 * self.size * samples)
        found = [part() for part in losses]
        return Loss(torch.cat([one.weighted for one in found]), torch.cat([one.plain for one in found]))

    def _moved(self, weights: Tensor, i: int, by: float, losses: Sequence[Losses]) -> float:
        kept = weights[i].clone()
        weights[i] += by
        total = sum(float(part().weighted.sum()) for part in losses)
        weights[i] = kept
        return total


def test_an_update_without_a_backward_pass_takes_the_place_of_backpropagation() -> None:
    """Everything else stays: clipping, AdamW, schedule, average, report."""
    settings = OptimizerSettings(learning_rate=0.01, clip=0.5, ema_gamma=1.0)
    update = Differences()
    ours, usual = learner_of(settings, update=update), learner_of(settings)
    assert usual.update == Backpropagation()
    for step in range(3):
        x = inputs(step)
        found = learn([ours], [partial(squares, ours, part) for part in x.split(2)], 4)
        expected = step_of(usual, x)
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)
        assert found.norms == pytest.approx(expected.norms, rel=1e-2)
        assert found.learning_rate == expected.learning_rate
    assert update.steps == [0, 1, 2]
    torch.testing.assert_close(ours.module.weight, usual.module.weight, rtol=0, atol=2e-4)
    torch.testing.assert_close(ours.averages["weight"], usual.averages["weight"], rtol=0, atol=2e-4)
    assert ours.module.weight.grad is None


def test_learners_that_share_a_loss_are_clipped_each_for_itself() -> None:
    one, two = learner_of(OptimizerSettings(clip=0.1)), learner_of(OptimizerSettings(clip=0.2))
    x = inputs()

    def both() -> Loss:
        out = (3.0 * one.module(x) + two.module(x)).square().sum(-1)
        return Loss(out, out)

    _, norms = gradients([one, two], [both], 4)
    assert float(norms[0]) == pytest.approx(3 * float(norms[1]), rel=1e-5)
    for learner, clip in ((one, 0.1), (two, 0.2)):
        assert learner.module.weight.grad is not None
        assert float(learner.module.weight.grad.norm()) == pytest.approx(clip, rel=1e-4)
    rehearse([one, two], [both], 4)
    assert (one.step, two.step) == (1, 1)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nothing_moves_when_a_number_is_not_finite(what: str) -> None:
    one, two = learner_of(), learner_of()
    step_of(one, inputs())

    def bad() -> Loss:
        out = one.module(inputs()).sum(-1) + two.module(inputs()).sum(-1)
        out = out + math.inf if what == "loss" else (out - out.detach()).abs().sqrt()  # whose slope at 0 is not finite
        return Loss(out, out)

    before = [{name: t.clone() for name, t in learner.tensors().items()} for learner in (one, two)]
    with pytest.raises(NonFiniteError, match=r"part, part: loss .*, gradient norm .* at step 1; what was saved before"):
        learn([one, two], [bad], 4)
    for learner, tensors in zip((one, two), before, strict=True):
        assert all(t.equal(tensors[name]) for name, t in learner.tensors().items())
    assert (one.step, two.step) == (1, 0)


def test_a_learner_goes_on_where_it_was_saved() -> None:
    whole, part = learner_of(), learner_of()
    for step in range(4):
        step_of(whole, inputs(step))
        if step < 2:
            step_of(part, inputs(step))
    again = learner_of()
    again.load(part.tensors(), part.step)
    for step in (2, 3):
        step_of(again, inputs(step))
    assert again.step == whole.step == 4
    assert all(t.equal(again.tensors()[name]) for name, t in whole.tensors().items())
