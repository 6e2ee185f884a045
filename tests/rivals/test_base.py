import math

import pytest
import torch
from rivalry import SOURCE, VIT, same, settings_of, weights_of
from torch import Tensor, nn

from oneblock.data import MemorySource, random_flip, synthetic_images
from oneblock.models.vit import ViT
from oneblock.rivals import Greedy, Learner, training_peak
from oneblock.rivals.base import affordable_steps, draw, seeded, train_on
from oneblock.rivals.blocks import logits
from oneblock.train.learner import NonFiniteError
from oneblock.train.step import OptimizerSettings


def test_the_update_is_that_of_the_library() -> None:
    """Clip, AdamW, schedule and average against a plain loop with its own formulas."""
    settings = settings_of(1, warmup=0.3, clip=0.05, ema_gamma=2.0, weight_decay=0.1)
    learner, plain = (seeded(lambda: nn.Linear(3, 2).double(), 0) for _ in range(2))
    trained = Learner("part", learner, settings, 6)
    groups = [{"params": [plain.weight], "weight_decay": 0.1}, {"params": [plain.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99))
    average: dict[str, Tensor] = {}
    for step in range(6):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step)).double()
        loss = train_on(learner(x).square().sum(-1), trained)
        expected = plain(x).square().sum(-1).mean()
        assert loss == pytest.approx(expected.item())
        optimizer.zero_grad()
        expected.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in plain.parameters() if p.grad is not None))
        for p in plain.parameters():
            assert p.grad is not None
            p.grad *= min(1.0, 0.05 / (norm + 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * ((step + 1) / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 4)))
        optimizer.step()
        beta = (1 - 1 / (step + 1)) ** 3
        for name, p in plain.named_parameters():
            average[name] = p.detach().clone() if step == 0 else beta * average[name] + (1 - beta) * p.detach()
    for name, p in plain.named_parameters():
        torch.testing.assert_close(trained.weights[name], p, rtol=1e-7, atol=1e-9)
    trained.freeze()
    for name, p in learner.named_parameters():
        torch.testing.assert_close(p.data, average[name], rtol=1e-7, atol=1e-9)
        assert not p.requires_grad


def test_defaults_are_those_of_plans() -> None:
    settings, usual = settings_of(1, learning_rate=OptimizerSettings().learning_rate), OptimizerSettings()
    for name in ("learning_rate", "weight_decay", "beta1", "beta2", "clip", "precision"):
        assert getattr(settings, name) == getattr(usual, name)


def test_batches_follow_from_seed_part_and_step() -> None:
    settings = settings_of(1)
    one, again = (draw(SOURCE, settings, "block-1", 3, random_flip) for _ in range(2))
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.labels, again.labels)
    assert torch.equal(torch.randn(4, generator=one.generator), torch.randn(4, generator=again.generator))
    plain = draw(SOURCE, settings, "block-1", 3, None)
    assert torch.equal(one.labels, plain.labels)
    assert not torch.equal(one.images, plain.images)
    for other in (
        draw(SOURCE, settings, "block-1", 4, None),
        draw(SOURCE, settings, "block-2", 3, None),
        draw(SOURCE, settings_of(1, seed=1), "block-1", 3, None),
    ):
        assert not torch.equal(plain.images, other.images)


def test_nan_stops_before_the_update() -> None:
    learner = Learner("block-1", nn.Linear(3, 2), settings_of(1), 6)
    before = weights_of(learner.module)
    with pytest.raises(NonFiniteError, match=r"block-1: loss nan, gradient norms \[nan\] at step 0; lower"):
        train_on(learner.module(torch.full((4, 3), math.nan)).sum(-1), learner)
    assert same(before, weights_of(learner.module))


def test_bf16_is_autocast() -> None:
    block, x = ViT(VIT), torch.randn(2, 1, 8, 8)
    nn.init.normal_(block.head.out.weight)
    with settings_of(1, precision="bf16").autocast():
        half = logits(block, x)
    assert half.dtype is torch.float32
    assert not torch.equal(half, logits(block, x))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"warmup=1.0 is not a fraction; use 0"):
        settings_of(1, warmup=1.0)
    with pytest.raises(ValueError, match=r"batch_size=0 is no batch; use 1 or more"):
        settings_of(1, batch_size=0)
    with pytest.raises(ValueError, match=r"budget=10 does not pay for one step of every part; use 64 or more"):
        affordable_steps(10, 64)
    with pytest.raises(ValueError, match=r"images of synthetic have shape \(3, 8, 8\); the network takes \(1, 8, 8\)"):
        next(Greedy(VIT, 2).steps(MemorySource(synthetic_images(8, 8, 3, 3, seed=0)), settings_of(1000)))
    with pytest.raises(ValueError, match=r"num_classes=3 is too small; synthetic has 4 classes"):
        next(Greedy(VIT, 2).steps(MemorySource(synthetic_images(8, 8, 1, 4, seed=0)), settings_of(1000)))


def test_peak_is_that_of_the_costliest_step() -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    settings = settings_of(1, device="cuda")  # counted without one
    whole, halves = training_peak(Greedy(VIT, 1), settings), training_peak(Greedy(VIT, 2), settings)
    assert halves == training_peak(Greedy(VIT, 2), settings)
    assert halves == training_peak(Greedy(VIT, 2), settings_of(1), real=True)
    frozen = sum(p.numel() for p in ViT(VIT, range(4)).layers.parameters())
    heads = 2 * sum(p.numel() for p in ViT(VIT).head.parameters())
    stem = sum(p.numel() for p in ViT(VIT).stem.parameters())
    assert halves.by_kind["Parameter"] == 4 * (frozen + heads + stem)
    assert halves.by_kind["Optstate"] < 0.6 * whole.by_kind["Optstate"]
    assert halves.by_kind["Activation"] < whole.by_kind["Activation"]
