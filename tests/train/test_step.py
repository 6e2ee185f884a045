import math
from typing import Any

import pytest
import torch
from tiny import IMAGES, tiny_plan
from torch import Tensor

from oneblock.condition import ClassIds
from oneblock.data import Samples, to_float
from oneblock.optim.adamw import AdamWKind
from oneblock.plan import Plan
from oneblock.presets import blockwise, image_task
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.image import ImageGeneration
from oneblock.train.block import BlockLearner, block_learner, block_losses, train_step
from oneblock.train.learner import NonFiniteError, gradients
from oneblock.train.parallel import Ranks
from oneblock.train.step import JobSpec, OptimizerSettings, StepReport
from oneblock.train.strategy import job_specs, plan_optimizer

PIXELS, LABELS = to_float(IMAGES.images[:8]), IMAGES.labels[:8]
SIGMA = torch.logspace(1, -2, 8)


def learner_of(plan: Plan, block: int = 0, dtype: torch.dtype = torch.float32) -> BlockLearner:
    spec = job_specs(plan)[block]
    return block_learner(spec, blockwise(plan).denoiser(block).to(dtype), plan_optimizer(plan))


def plan_with(**settings: Any) -> Plan:
    return tiny_plan(optimizer=OptimizerSettings(**settings))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spec_of(learner: BlockLearner) -> JobSpec:
    assert isinstance(learner.course, JobSpec)
    return learner.course


def batch_of(learner: BlockLearner, pixels: Tensor, sigma: Tensor, seed: int = 0) -> Batch:
    return image_task(tiny_plan()).draw(Samples(pixels, LABELS), sigma, spec_of(learner).block, seeded(seed))


def step_of(learner: BlockLearner, pixels: Tensor = PIXELS, sigma: Tensor = SIGMA, seed: int = 0) -> StepReport:
    return train_step(spec_of(learner), learner, image_task(tiny_plan()), batch_of(learner, pixels, sigma, seed))


def test_one_block_is_ordinary_training_of_the_same_denoiser() -> None:
    """Six steps against a plain loop with its own formulas: noise, label dropout, loss, clip, AdamW, schedule, EMA."""
    optimizer = OptimizerSettings(learning_rate=0.01, clip=0.5, ema_gamma=2.0)
    plan = tiny_plan(blocks=1, warmup=0.3, hold=0.6, optimizer=optimizer)
    pixels, sigma = PIXELS.double(), SIGMA.double()  # in float64, so that rounding cannot hide a difference
    learner, network = learner_of(plan, dtype=torch.float64), blockwise(plan).denoiser(0).double()
    decay = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99))
    average: dict[str, Tensor] = {}
    for step in range(6):
        generator = seeded(step)
        noise = torch.randn(PIXELS.shape, generator=generator).double()
        labels = torch.where(torch.rand(8, generator=generator) < 0.1, 3, LABELS)
        error = network(pixels + sigma.view(-1, 1, 1, 1) * noise, sigma, ClassIds(labels)) - pixels
        loss = ((4 + 1 / sigma**2) * error.square().mean((1, 2, 3))).mean()
        adamw.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters()))
        for p in network.parameters():
            p.grad *= min(1.0, 0.5 / (norm + 1e-6))
        rate = 0.01 * (0.5, 1.0, 1.0, 1.0, 1.0, 0.5)[step]  # warm-up to step 2, constant to step 4, half a cosine
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
        beta = (1 - 1 / (step + 1)) ** 3
        for name, p in network.backbone.named_parameters():
            average[name] = p.detach().clone() if step == 0 else beta * average[name] + (1 - beta) * p.detach()
        report = step_of(learner, pixels, sigma, seed=step)
        assert report.loss == pytest.approx(loss.item())
        assert report.plain == pytest.approx(error.square().mean().item())
        assert report.grad_norm == pytest.approx(norm)
        assert report.learning_rate == pytest.approx(rate)
        assert (report.step, report.num_steps) == (step + 1, 6)
        assert (report.layer_evaluations, report.work) == (32, 32 * (step + 1))
    for name, p in network.backbone.named_parameters():
        torch.testing.assert_close(learner.weights[name], p, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(learner.averages[name], average[name], rtol=1e-7, atol=1e-9)


class Shifted(ImageGeneration):
    """Shifts images by their level instead of adding noise, and drops no label: nothing depends on the draws."""

    def noised(self, images: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        return Noised(images + sigma.view(-1, 1, 1, 1), sigma, block)

    def drop_labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        return labels


def test_micro_batches_add_up_to_the_batch() -> None:
    grads = []
    for accumulate in (1, 4):
        plan = plan_with(accumulate=accumulate, clip=1e9)
        learner = learner_of(plan, dtype=torch.float64)
        with torch.no_grad():
            for p in learner.weights.values():
                p.add_(0.1)
        task = Shifted(plan.precondition, num_classes=3)
        batch = task.draw(Samples(PIXELS.double(), LABELS), SIGMA.double(), 0, seeded())
        loss, _ = gradients([learner], block_losses(learner, task, batch), 8)
        assert loss.weighted.shape == (8,)
        grads.append({name: p.grad.clone() for name, p in learner.weights.items()})
    for name, gradient in grads[0].items():
        torch.testing.assert_close(grads[1][name], gradient, msg=name)


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_gradients_are_clipped_to_the_norm(clip: float) -> None:
    plan = plan_with(clip=clip)
    learner = learner_of(plan)
    _, norms = gradients([learner], block_losses(learner, image_task(plan), batch_of(learner, PIXELS, SIGMA)), 8)
    after = math.sqrt(sum(float(p.grad.square().sum()) for p in learner.weights.values()))
    assert after == pytest.approx(min(clip, float(norms)), rel=1e-3)


def test_only_matrices_decay() -> None:
    plan = plan_with(weight_decay=0.5, learning_rate=0.1)
    learner = learner_of(plan)
    before = {name: p.detach().clone().fill_(1.0) for name, p in learner.weights.items()}
    with torch.no_grad():
        for p in learner.weights.values():
            p.fill_(1.0)
    for p in learner.weights.values():
        p.grad = torch.zeros_like(p)
    learner.optimizer.step()
    for name, p in learner.weights.items():
        shrunk = before[name] * (1 - 0.1 * 0.5) if p.ndim > 1 else before[name]
        torch.testing.assert_close(p.detach(), shrunk, msg=name)


@pytest.mark.parametrize("poison", ["weights", "data"])
def test_what_is_not_finite_stops_before_the_update(poison: str) -> None:
    plan = tiny_plan()
    learner = learner_of(plan, 1)
    step_of(learner)
    pixels = PIXELS.clone()
    if poison == "data":
        pixels[3] = float("nan")
    else:
        learner.weights["head.out.bias"].data.fill_(float("inf"))
    before = {name: t.clone() for name, t in learner.tensors().items()}
    with pytest.raises(NonFiniteError, match=r"block-1: loss .* at step 1, noise band \[0.002, .*lower the learning"):
        step_of(learner, pixels)
    assert learner.step == 1
    assert all(t.equal(before[name]) for name, t in learner.tensors().items())


def test_bf16_is_close_and_weights_stay_in_fp32() -> None:
    learners = {precision: learner_of(plan_with(precision=precision)) for precision in ("fp32", "bf16")}
    losses = {}
    for precision, learner in learners.items():
        with torch.no_grad():
            for p in learner.weights.values():
                p.add_(0.02)
        losses[precision] = step_of(learner).loss
        assert {p.dtype for p in learner.weights.values()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1.0 is not allowed; use a number, above 0"),
        ({"learning_rate": math.nan}, "learning_rate=nan is not allowed"),
        ({"learning_rate": math.inf}, "learning_rate=inf is not allowed"),
        ({"clip": 0.0}, "clip=0.0 is not allowed; use a number, above 0"),
        ({"clip": -1.0}, "clip=-1.0 is not allowed"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 is not allowed; use a number, 0 or more"),
        ({"beta1": 1.0}, "beta1=1.0 is not allowed; use a number, 0 or more and below 1"),
        ({"beta2": -0.1}, "beta2=-0.1 is not allowed"),
        ({"accumulate": 0}, "accumulate=0 is not allowed; use a whole number, 1 or more"),
        ({"ema_gamma": -1.0}, "ema_gamma=-1.0 is not allowed; use a number, 0 or more"),
        ({"precision": "fp16"}, "precision='fp16' is not allowed in OptimizerSettings; use one of fp32, bf16"),
        ({"optimizer": "lion"}, "optimizer='lion' is not allowed"),
    ],
)
def test_settings_that_cannot_train_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**settings)


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_a_learner_is_restored_bit_for_bit(kind: AdamWKind) -> None:
    if kind == "adamw8bit":
        pytest.importorskip("torchao")
    plan = tiny_plan(width=32, optimizer=OptimizerSettings(optimizer=kind))
    learner, copy = learner_of(plan), learner_of(plan)
    for step in range(2):
        step_of(learner, seed=step)
    copy.load(learner.tensors(), learner.step)
    for one in (learner, copy):
        step_of(one, seed=9)
    assert all(t.equal(copy.tensors()[name]) for name, t in learner.tensors().items())
    stored = {name for name, p in learner.weights.items() if kind == "adamw8bit" and p.numel() >= 4096}
    names = {f"{part}/{name}" for name in learner.weights for part in ("weights", "ema", *moments(name in stored))}
    assert learner.tensors().keys() == names
    assert bool(stored) == (kind == "adamw8bit")


def moments(in_eight_bits: bool) -> list[str]:
    parts = (".codes", ".scale", ".qmap") if in_eight_bits else ("",)
    return [f"{moment}{part}" for moment in ("exp_avg", "exp_avg_sq") for part in parts]


def test_shards_keep_moments_of_32_bits() -> None:
    plan = plan_with(optimizer="adamw8bit")
    spec = job_specs(plan)[1]
    with pytest.raises(ValueError, match=r"block-1: optimizer='adamw8bit' cannot be sharded .* use parallel='ddp' or"):
        block_learner(spec, blockwise(plan).denoiser(1), plan_optimizer(plan), Ranks("fsdp"))
