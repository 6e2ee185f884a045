from typing import Any

import pytest
import torch
from oracles import gaussian
from tiny import FACTS, tiny_plan
from torch import Tensor

from oneblock.condition import ClassIds, Condition
from oneblock.data import to_uint8
from oneblock.evaluate.levels import passage
from oneblock.presets import ImageFacts


class Spy:
    """Answers with its level, so that pictures tell which call they are of."""

    def __init__(self) -> None:
        self.labels: list[list[int]] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        assert isinstance(condition, ClassIds)
        self.labels.append(condition.ids.tolist())
        return sigma.view(-1, 1, 1, 1).expand_as(z).clamp(max=1.0) - 1.0


def test_every_band_has_as_many_levels_in_order() -> None:
    spy: Any = Spy()
    plan = tiny_plan(blocks=2)
    found = passage(spy, plan, count=4, levels_per_block=3)
    assert found.blocks == (0, 0, 0, 1, 1, 1)
    assert list(found.sigmas) == sorted(found.sigmas, reverse=True)
    assert (found.sigmas[0], found.sigmas[3]) == pytest.approx(plan.edges[:2])
    assert found.answers.shape == (6, 4, 1, 8, 8)
    shown = to_uint8(torch.tensor(found.sigmas).clamp(max=1.0) - 1.0)
    assert found.answers[:, 0, 0, 0, 0].tolist() == shown.tolist(), "each answer at its level"


def test_all_classes_come_in_turn() -> None:
    spy: Any = Spy()
    found = passage(spy, tiny_plan(), count=4, levels_per_block=1)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 0] and spy.labels[0] == [0, 1, 2, 0]


def test_the_last_answer_is_the_sample() -> None:
    denoiser: Any = gaussian(0.5)
    plan = tiny_plan()
    few, many = (passage(denoiser, plan, count=2, levels_per_block=n).answers[-1].float() for n in (2, 40))
    assert (few - many).abs().mean() < (few - few.mean()).abs().mean(), "the same noise, the same sample"


def test_without_classes_there_are_no_labels() -> None:
    denoiser: Any = gaussian(0.5)
    facts = ImageFacts(shape=FACTS.shape, num_classes=0, data="synthetic", fingerprint=FACTS.fingerprint)
    assert passage(denoiser, tiny_plan(facts=facts, conditional=False), count=2, levels_per_block=1).labels is None


def test_what_cannot_be_looked_at_is_refused() -> None:
    facts = ImageFacts(shape=(4, 8, 8), num_classes=3, data="synthetic", fingerprint=FACTS.fingerprint)
    denoiser: Any = gaussian(0.5)
    with pytest.raises(ValueError, match="the targets are not images"):
        passage(denoiser, tiny_plan(facts=facts), count=2, levels_per_block=1)
