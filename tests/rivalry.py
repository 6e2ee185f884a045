"""What the tests of all rivals share: a tiny set of images and a way to train on it."""

from typing import Any

import torch
from torch import Tensor, nn

from oneblock.data import ImageSet, MemorySource, synthetic_images, to_float
from oneblock.models.vit import ViTConfig
from oneblock.rivals import Classifier, RivalSettings, train_rival
from oneblock.train.step import OptimizerSettings, StepReport

IMAGES: ImageSet = synthetic_images(96, 8, 1, 3, seed=0)
SOURCE = MemorySource(IMAGES)
FRESH: ImageSet = synthetic_images(90, 8, 1, 3, seed=1)
VIT = ViTConfig(
    image_size=8,
    channels=1,
    num_classes=3,
    label_width=3,
    depth=4,
    width=16,
    heads=2,
    patch=2,
    noisy_token="none",
)


def settings_of(budget: int, **changes: Any) -> RivalSettings:
    """``changes`` are of the settings, or of those of the optimizer in them."""
    names = OptimizerSettings.__dataclass_fields__
    optimizer = {"learning_rate": 0.01, "ema_gamma": 4.0, **{n: v for n, v in changes.items() if n in names}}
    others = {"batch_size": 16, **{n: v for n, v in changes.items() if n not in names}}
    return RivalSettings(budget=budget, optimizer=OptimizerSettings(**optimizer), **others)


def train(rival: Classifier, settings: RivalSettings) -> list[StepReport]:
    return list(train_rival(rival, SOURCE, settings))


def accuracies(rival: Classifier) -> list[float]:
    """Of every stage, on images that were not trained on; chance is 1/3."""
    found = rival.probabilities(to_float(FRESH.images))
    assert found.shape[1:] == (90, 3)
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:2]))
    return [float((stage.argmax(-1) == FRESH.labels).float().mean()) for stage in found]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
