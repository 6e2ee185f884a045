from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from tiny import tiny_plan

from oneblock.presets import (
    SIZES,
    Size,
    build_backbone,
    image_shape,
    image_task,
    plan_budget,
    plan_optimizer,
    usual_learning_rate,
)
from oneblock.train.step import OptimizerSettings


def test_every_size_builds() -> None:
    assert set(get_args(Size)) == set(SIZES)
    for size, (depth, width, _) in SIZES.items():
        plan = tiny_plan(size=size, depth=0, width=0, heads=0)
        with torch.device("meta"):
            block = build_backbone(plan)(plan.layer_range(1))
        assert len(block.get_submodule("layers")._modules) == depth // 2
        assert block.get_submodule("stem.embed").out_features == width


def test_what_goes_into_a_plan_comes_out() -> None:
    settings = OptimizerSettings(learning_rate=0.2, accumulate=2, precision="bf16")
    plan = tiny_plan(optimizer=settings, branch=0.25, warmup=0.1, budget=999, sigma_data=0.7, label_dropout=0.2)
    assert plan_optimizer(plan) == settings
    budget = plan_budget(plan)
    assert (budget.layer_evaluations, budget.branch, budget.warmup, budget.batch_size) == (999, 0.25, 0.1, 8)
    assert image_shape(plan) == (1, 8, 8)
    assert (image_task(plan).num_classes, image_task(plan).label_dropout) == (3, 0.2)
    assert image_task(plan).precondition.sigma_data == 0.7


def test_a_narrower_network_learns_faster() -> None:
    assert usual_learning_rate(64) == 2 * usual_learning_rate(128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (1, 8, 6)}, "images are 8 x 6; use square images"),
        ({"layers": (1, 2)}, r"layers=\(1, 2\) adds up to 3, the depth is 4"),
        ({"blocks": 3}, "num_blocks=3 does not divide depth=4; use 1, 2 or 4"),
        ({"size": "huge"}, "size='huge' is unknown; use one of nano, micro"),
        ({"warmup": 1.0}, "warmup=1.0 is not a fraction"),
    ],
)
def test_wrong_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_plan(**changes)


def test_plans_for_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="architecture 'mamba' is unknown; this version of oneblock builds: dit"):
        build_backbone(replace(tiny_plan(), architecture={"name": "mamba"}))
    with pytest.raises(ValueError, match="task='text': this plan is not for images"):
        image_task(replace(tiny_plan(), task="text"))
    with pytest.raises(ValueError, match="the plan's recipe lacks layer_evaluations, batch_size"):
        plan_budget(replace(tiny_plan(), recipe={"data": "x"}))
