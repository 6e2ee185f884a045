"""Converted networks in the planner: what is counted without content is what real tensors need."""

from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("diffusers")
pytest.importorskip("torch.distributed._tools.mem_tracker")

from convert.networks import NETWORKS
from convert.test_converted import RECIPES, converted

import oneblock as ob
from oneblock.convert.kinds import kind_of
from oneblock.memory import peak_bytes, step_flops
from oneblock.plan import Plan
from oneblock.presets import ImageFacts, Recipe
from oneblock.presets.cost import dry_run, job_peaks, training_flops
from oneblock.presets.counted import counted_plan
from oneblock.presets.own import sized
from oneblock.train.strategy import job_specs

IMAGES = ImageFacts(shape=(1, 8, 8), num_classes=10)


def recipe_of(made: torch.nn.Module, **changes: Any) -> Recipe:
    kind = kind_of(made).name
    length = {"length": 16} if kind in ("text", "masked-text") else {}
    return RECIPES[kind](**{"blocks": 3, "batch_size": 12, "budget": "10k", **length, **changes})


def planned(name: str) -> tuple[Any, Plan]:
    made, builder = converted(name)
    return builder, counted_plan(sized(recipe_of(made), builder), IMAGES, builder)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_planner_counts_what_a_real_step_needs(name: str) -> None:
    builder, plan = planned(name)
    job = job_specs(plan)[1]
    counted, real = (peak_bytes(partial(dry_run, plan, job, backbone=builder), real) for real in (False, True))
    assert counted == real
    weights = sum(p.numel() * p.element_size() for p in builder(job.layers).parameters())
    assert counted.by_kind["Parameter"] == weights


def test_jobs_of_other_layers_are_counted_apart() -> None:
    """A DiT whose middle layer is wider inside than the others."""
    made, _ = converted("DiT")
    wide: Any = made.transformer_blocks[2].ff.net
    wide[0].proj, wide[2] = torch.nn.Linear(32, 256), torch.nn.Linear(256, 32)
    builder = ob.convert(made, outputs=1)
    picked = builder.pick((0, 2, 0))
    plan = counted_plan(sized(recipe_of(made), picked), IMAGES, picked)
    first, middle, last = job_peaks(plan, backbone=picked).values()
    assert first == last
    assert middle.total > first.total


@pytest.mark.parametrize("name", ["DiT", "GPT-2"])
def test_operations_are_those_of_the_blocks(name: str) -> None:
    builder, plan = planned(name)
    job = job_specs(plan)[1]
    direct = step_flops(partial(dry_run, plan, job, backbone=builder))
    assert training_flops(plan, backbone=builder).step(job) == direct


def test_what_training_costs_is_told_of_a_converted_network() -> None:
    made, whole = converted("DiT")
    builder, recipe = whole.pick((0, 0)), recipe_of(made, layers=(1, 1))
    found = ob.cost(recipe, image_size=8, channels=1, backbone=builder)
    peaks = {row.name: row.peak for row in found.rows}
    plan = counted_plan(sized(recipe, builder), IMAGES, builder)
    assert peaks["own block, 2 blocks"].total == max(p.total for p in job_peaks(plan, backbone=builder).values())
    assert peaks["own block, 2 blocks"].total < peaks["end-to-end"].total
    assert found.rivals == ()
    with pytest.raises(ValueError, match=r"cannot be called on what the plan says, samples of \(3, 8, 8\)"):
        ob.cost(recipe, image_size=8, channels=3, backbone=builder)


def test_library_code_is_left_as_it_was() -> None:
    from transformers import masking_utils

    before = masking_utils.find_packed_sequence_indices
    builder, plan = planned("Llama")
    job_peaks(plan, backbone=builder)
    assert masking_utils.find_packed_sequence_indices is before
