"""Each part of many images has noise of its own, and what is classified must fit the plan."""

import pytest
import torch
from tiny import IMAGES, tiny_classify_plan

from oneblock.blockwise import Denoiser
from oneblock.data import synthetic_images
from oneblock.evaluate import labels
from oneblock.evaluate.labels import classify_images, evaluate_labels
from oneblock.plan import nth_seed
from oneblock.presets import blockwise
from oneblock.sample.calls import Answers

PLAN = tiny_classify_plan()


def denoiser() -> Denoiser:
    blocks = blockwise(PLAN)
    return Denoiser(PLAN.partition, lambda block: blocks.denoiser(block).eval(), None)


def test_every_part_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "BATCH", 3)
    images = IMAGES.images[:1].expand(6, -1, -1, -1)
    first, second = classify_images(denoiser(), PLAN, images, Answers(path="redraw")).probabilities.split(3, 1)
    assert not first.equal(second)
    third = classify_images(denoiser(), PLAN, images[:3], Answers(path="redraw", noise_seed=1)).probabilities
    assert not second.equal(third)  # nor is it that of the next seed
    derived = Answers(path="redraw", noise_seed=nth_seed(0, 1, "part"))
    assert second.equal(classify_images(denoiser(), PLAN, images[:3], derived).probabilities)


def test_images_that_do_not_fit_the_plan() -> None:
    with pytest.raises(ValueError, match=r"the data have shape \(3, 8, 8\), but the plan was made for \(1, 8, 8\)"):
        evaluate_labels(denoiser(), PLAN, synthetic_images(6, 8, 3, 3, seed=0))
    with pytest.raises(ValueError, match="the data have 2 classes, but the plan has 3; use the same data"):
        evaluate_labels(denoiser(), PLAN, synthetic_images(6, 8, 1, 2, seed=0))
    assert not len(classify_images(denoiser(), PLAN, torch.zeros(0, 1, 8, 8)).calls)
