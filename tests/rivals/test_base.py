import pytest
import torch
from rivalry import SOURCE, VIT, settings_of
from torch import nn

from oneblock.data import MemorySource, random_flip, synthetic_images
from oneblock.models.vit import ViT
from oneblock.rivals import Greedy, RivalSettings, train_rival, training_peak
from oneblock.rivals.base import affordable_steps, draw
from oneblock.rivals.blocks import logits
from oneblock.train.step import OptimizerSettings
from oneblock.train.strategy import Budget


def test_the_schedule_is_stretched_over_the_part() -> None:
    """Warm-up and hold are fractions of a part's steps; the rest is the engine of the library."""
    learner = settings_of(1, warmup=0.25, hold=0.5, clip=0.3).learner("part", nn.Linear(3, 2), 8)
    assert (learner.course.first_step, learner.course.last_step) == (0, 8)
    assert (learner.course.warmup, learner.course.hold) == (2, 4)
    assert learner.settings == settings_of(1, clip=0.3).optimizer
    assert settings_of(1, warmup=0.01).learner("part", nn.Linear(3, 2), 8).course.warmup == 1


def test_defaults_are_those_of_plans() -> None:
    settings = RivalSettings(budget=1, batch_size=1)
    assert settings.optimizer == OptimizerSettings()
    assert (settings.warmup, settings.hold) == (Budget.warmup, Budget.hold)


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


def test_bf16_is_autocast() -> None:
    block, x = ViT(VIT), torch.randn(2, 1, 8, 8)
    nn.init.normal_(block.head.out.weight)
    with settings_of(1, precision="bf16").learner("part", block, 1).autocast():
        half = logits(block, x)
    assert half.dtype is torch.float32
    assert not torch.equal(half, logits(block, x))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"warmup=1.0 is not a fraction; use 0"):
        settings_of(1, warmup=1.0)
    with pytest.raises(ValueError, match=r"batch_size=0 is not a batch size; use 1 or more"):
        settings_of(1, batch_size=0)
    with pytest.raises(ValueError, match=r"accumulate=2: rivals take their batches whole; use 1"):
        settings_of(1, accumulate=2)
    with pytest.raises(ValueError, match=r"budget=10 does not pay for one step of every part; use 64 or more"):
        affordable_steps(10, 64)
    with pytest.raises(ValueError, match=r"images of synthetic have shape \(3, 8, 8\); the network takes \(1, 8, 8\)"):
        next(train_rival(Greedy(VIT, 2), MemorySource(synthetic_images(8, 8, 3, 3, seed=0)), settings_of(1000)))
    with pytest.raises(ValueError, match=r"num_classes=3 is too small; synthetic has 4 classes"):
        next(train_rival(Greedy(VIT, 2), MemorySource(synthetic_images(8, 8, 1, 4, seed=0)), settings_of(1000)))


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
