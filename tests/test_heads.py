"""Image generators whose head is a decoder: recipe, plan and work."""

from dataclasses import replace
from typing import Any

import pytest
from tiny import FACTS, tiny_plan

from oneblock.evaluate.curves import layer_evaluations
from oneblock.evaluate.images import Sampling
from oneblock.presets import ImageRecipe, training_peak
from oneblock.presets.base import OwnBackbone
from oneblock.presets.door import check_plan
from oneblock.presets.image import dit_config
from oneblock.train.strategy import job_specs


def test_a_decoder_is_in_the_plan_and_its_work_is_counted() -> None:
    plan = tiny_plan(head="ddt", head_layers=1, head_width=24)
    check_plan(plan)
    assert (dit_config(plan).head_layers, dit_config(plan).head_width) == (1, 24)
    assert plan.recipe["end_layers"] == 3
    assert [job.sample_evaluations for job in job_specs(plan)] == [2 + 3, 2 + 3]
    sampling = Sampling(steps=4, sampler="euler")
    assert sampling.layer_evaluations(plan) == layer_evaluations([plan], sampling) == 4 * (2 + 3)
    assert (
        tiny_plan(head="ddt").architecture["head_layers"] == 2
        and "head_width" not in tiny_plan(head="ddt").architecture
    )


def test_plans_with_the_usual_head_say_nothing_of_it() -> None:
    assert {"head_layers", "head_width"}.isdisjoint(tiny_plan().architecture) and "end_layers" not in tiny_plan().recipe


def test_planned_bytes_are_counted_bytes() -> None:
    plan = tiny_plan(head="ddt", head_width=32)
    assert training_peak(plan).total == training_peak(plan, real=True).total > training_peak(tiny_plan()).total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_layers": 3}, "head_layers=3 goes with head='ddt'; leave it out"),
        ({"head_width": 8}, "head_width=8 goes with head='ddt'; leave it out"),
        ({"head": "ddt", "head_layers": 0}, "head_layers=0 is not allowed; use a whole number, 1 or more"),
        ({"head": "mlp"}, "head='mlp' is not allowed in ImageRecipe; use one of linear, ddt"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageRecipe(**changes)


def test_a_network_of_ones_own_keeps_its_head() -> None:
    with pytest.raises(ValueError, match="head='ddt' is for the usual network; leave it out beside a backbone"):
        ImageRecipe(head="ddt").plan(FACTS, OwnBackbone("mine:Mixer"))


def test_a_plan_that_counts_the_head_wrongly_is_refused() -> None:
    plan = tiny_plan(head="ddt")
    with pytest.raises(ValueError, match=r"recipe\.end_layers=1 does not count the work of the head, which is 2"):
        check_plan(replace(plan, recipe={**plan.recipe, "end_layers": 1}))
