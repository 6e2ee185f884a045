"""The arms are what they are called."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oneblock.data import ImageData, TextData
from oneblock.experiment.base import Experiment, usual_arms
from oneblock.experiment.causal import CausalExperiment
from oneblock.experiment.classify import ClassifyExperiment
from oneblock.experiment.grid import Grid, cells
from oneblock.experiment.images import ImageExperiment
from oneblock.experiment.masked import MaskedExperiment
from oneblock.experiment.recurrent import RecurrentExperiment
from oneblock.plan import Plan
from oneblock.presets import ImageFacts, ImageRecipe, gpt_config
from oneblock.presets.base import end_to_end, experts
from oneblock.train.strategy import job_specs, plan_budget

SMALL: dict[str, Any] = {"depth": 4, "width": 16, "heads": 2}


def plans(
    experiment: Experiment[Any, Any],
    data: ImageData | TextData,
    seed: int = 0,
    arms: tuple[str, ...] = (),
    **changes: Any,
) -> dict[str, list[Plan]]:
    """The plans of every arm at a budget of 1000."""
    recipe = replace(experiment.usual, **{**SMALL, "seed": seed, **changes})
    runs = cells(recipe, arms or usual_arms(experiment.arms), ["1k"], 1)
    grid = Grid(experiment=experiment, recipe=recipe, data=data, held_out=None, out=Path("nowhere"), cells=runs)
    return {cell.arm: several for cell, several in grid.check(grid.open()).items()}


def branches(found: dict[str, list[Plan]]) -> dict[str, float]:
    return {arm: plan_budget(several[0]).branch for arm, several in found.items() if plan_budget(several[0]).branch}


def test_images() -> None:
    pytest.importorskip("sklearn")
    found = plans(ImageExperiment(), ImageData(), seed=5, blocks=2, batch_size=8)
    assert {arm: [plan.layers for plan in several] for arm, several in found.items()} == {
        "end-to-end": [(4,)],
        "shallow": [(2,)],
        "ensemble": [(2,), (2,)],
        "experts": [(4, 4)],
        "blockwise": [(2, 2)],
        "branched": [(2, 2)],
    }
    assert branches(found) == {"branched": 0.5}
    assert {plan_budget(plan).hold for several in found.values() for plan in several} == {0.5}
    assert {plan.seed for arm, several in found.items() if arm != "ensemble" for plan in several} == {5}
    assert [plan.seed for plan in found["ensemble"]] == [10, 11]
    spent = {arm: sum(job.evaluations for plan in several for job in job_specs(plan)) for arm, several in found.items()}
    assert all(abs(work - 1000) <= 32 for work in spent.values()), spent
    edges = {arm: {plan.edges for plan in several} for arm, several in found.items()}
    assert edges["experts"] == edges["blockwise"] != edges["ensemble"] == edges["end-to-end"]


def test_images_with_a_state() -> None:
    """At the work of those without, so for three quarters of the steps; to be asked for by name."""
    pytest.importorskip("sklearn")
    named = tuple(arm for arm in ImageExperiment().arms if "carry" in arm)
    twins = ("shallow", "end-to-end", "blockwise", "branched")
    assert named == (*(f"{arm}-carry" for arm in twins), "branched-carry-same")
    assert not set(named) & set(usual_arms(ImageExperiment().arms))
    found = plans(ImageExperiment(), ImageData(), arms=(*twins, *named), blocks=2, batch_size=8)
    for arm in twins:
        (with_state,), (without,) = found[f"{arm}-carry"], found[arm]
        assert with_state.recipe["carry"] == 0.9
        assert replace(with_state, recipe=without.recipe) == without
        work, plain = (sum(job.evaluations for job in job_specs(plan)) for plan in (with_state, without))
        assert abs(work - plain) <= 43, "a step of every job"
        steps, more = (job_specs(plan)[-1].last_step for plan in (with_state, without))
        assert steps == pytest.approx(0.75 * more, abs=1.1)
    assert found["branched-carry-same"][0].recipe["carry_from"] == "same"
    (asked,) = plans(ImageExperiment(), ImageData(), arms=("shallow-carry",), blocks=2, carry=0.5)["shallow-carry"]
    assert asked.recipe["carry"] == 0.5


def test_experts_spend_the_same_work_on_more_parameters() -> None:
    """Three experts of 6 layers, each with a third of the batch: as many steps as the whole network makes."""
    recipe = ImageRecipe(size="nano", budget="60k", blocks=3, batch_size=48)
    facts = ImageFacts(shape=(1, 8, 8), num_classes=10)
    whole, expert = (job_specs(arm(recipe).plan(facts)) for arm in (end_to_end, experts))
    assert [(job.name, len(job.layers), job.batch_size) for job in expert] == [(f"block-{b}", 6, 16) for b in range(3)]
    assert {job.last_step for job in expert} == {whole[0].last_step}
    assert sum(job.evaluations for job in expert) == whole[0].evaluations
    of_blocks = experts(replace(recipe, depth=4, layers=(1, 3), branch=0.5))
    assert (of_blocks.layer_split, of_blocks.dimensions[0], of_blocks.branch) == ((4, 4), 8, 0.0)
    assert experts(replace(recipe, blocks=1)).plan(facts) == replace(recipe, blocks=1).plan(facts)


def test_a_rate_that_is_held_by_hand_stays() -> None:
    pytest.importorskip("sklearn")
    found = plans(ImageExperiment(), ImageData(), blocks=2, batch_size=8, hold=0.25)
    assert {plan_budget(plan).hold for several in found.values() for plan in several} == {0.25}


def test_uneven_blocks_have_a_rival_as_deep_as_the_deepest() -> None:
    pytest.importorskip("sklearn")
    recipe = replace(ImageExperiment().usual, **{**SMALL, "layers": (1, 3), "branch": 0.0, "batch_size": 8})
    grid = Grid(
        experiment=ImageExperiment(),
        recipe=recipe,
        data=None,
        held_out=None,
        out=Path("nowhere"),
        cells=cells(recipe, ("shallow", "end-to-end"), ["1k"], 1),
    )
    assert [several[0].layers for several in grid.check(grid.open()).values()] == [(3,), (4,)]


def test_classifiers() -> None:
    pytest.importorskip("sklearn")
    found = plans(ClassifyExperiment(), ImageData(), blocks=2, batch_size=8, block_batch_size=8)
    networks = {arm: (plan.layers, plan.architecture["name"]) for arm, (plan,) in found.items()}
    assert networks == {
        **dict.fromkeys(("ensemble", "blockwise", "branched", "paper"), ((2, 2), "vit")),
        **dict.fromkeys(("greedy", "contrastive-ff", "noprop-dt", "noprop-ct", "cnn"), ((2, 2), "vit")),
        "end-to-end": ((4,), "vit"),
        "shallow": ((2,), "vit"),
        "noprop-blocks": ((1, 1), "noprop-cnn"),
    }
    told = {arm for arm, (plan,) in found.items() if plan.architecture.get("noisy_token", "separate") != "none"}
    assert told == {"blockwise", "branched", "paper", "noprop-blocks"}
    assert {arm for arm, (plan,) in found.items() if plan.recipe["weighting"] == "edm"} == {"paper"}
    assert branches(found) == {"branched": 0.5}
    assert {plan.architecture["patch"] for (plan,) in found.values() if "patch" in plan.architecture} == {2}


def test_rivals_of_classifiers_are_called_like_their_arms() -> None:
    pytest.importorskip("sklearn")
    experiment = ClassifyExperiment(noprop_steps=7)
    found = plans(experiment, ImageData(), blocks=2, batch_size=8, block_batch_size=8)
    rivals = {arm: one.rival(experiment, found[arm][0]) for arm, one in experiment.arms.items() if one.rival}
    assert {arm: contender.rival.name for arm, contender in rivals.items()} == {arm: arm for arm in rivals}
    layers = {arm: contender.rival.evaluation_layers for arm, contender in rivals.items()}
    assert layers == {"greedy": 4, "contrastive-ff": 4, "noprop-dt": 10, "noprop-ct": 7, "cnn": 1}


@pytest.fixture
def four(text: str) -> dict[str, list[Plan]]:
    return masked_plans(text, 3)


def masked_plans(text: str, seed: int) -> dict[str, list[Plan]]:
    return plans(MaskedExperiment(), TextData(data=text), seed, blocks=4, length=16, batch_size=8)


def test_masked_text(four: dict[str, list[Plan]]) -> None:
    assert {arm: [plan.layers for plan in several] for arm, several in four.items()} == {
        "mdlm": [(4,)],
        "end-to-end": [(4,)],
        "shallow": [(1,)],
        "ensemble": [(1,)] * 4,
        "blockwise": [(1, 1, 1, 1)],
        "two-blocks": [(2, 2)],
        "branched": [(1, 1, 1, 1)],
    }
    budgets = {arm: [plan_budget(plan) for plan in several] for arm, several in four.items()}
    work = {arm: sum(one.layer_evaluations for one in several) for arm, several in budgets.items()}
    assert work == dict.fromkeys(four, 1000)
    assert branches(four) == {"branched": 0.5}
    weightings = {arm: {plan.recipe.get("weighting") for plan in several} for arm, several in four.items()}
    assert weightings == {arm: {None if arm == "mdlm" else "even"} for arm in four}
    assert {arm: {one.batch_size for one in several} for arm, several in budgets.items()} == {
        **{arm: {8} for arm in ("mdlm", "end-to-end", "ensemble", "blockwise", "two-blocks")},
        **{arm: {32} for arm in ("shallow", "branched")},
    }
    assert {one.block_batch_size for several in budgets.values() for one in several} == {4}
    assert {one.hold for several in budgets.values() for one in several} == {0.5}
    assert {plan.seed for arm, several in four.items() if arm != "ensemble" for plan in several} == {3}


def test_masked_text_with_states_over_borders(text: str) -> None:
    """To be asked for by name, with the budget of its twin, whatever the recipe says of borders."""
    assert "blockwise-relay-across" not in usual_arms(MaskedExperiment().arms)
    arms, data = ("blockwise-relay", "blockwise-relay-across", "relay"), TextData(data=text)
    words: dict[str, Any] = {"arms": arms, "blocks": 2, "length": 16, "batch_size": 8}
    found = plans(MaskedExperiment(), data, **words)
    assert found == plans(MaskedExperiment(), data, relay="relay", relay_across=True, **words)
    (private,), (across,), (whole,) = (found[arm] for arm in arms)
    assert across == replace(private, recipe={**private.recipe, "relay_across": True})
    assert not (private.in_order or whole.in_order)
    steps, more = (job_specs(plan)[-1].last_step for plan in (across, private))
    assert steps == pytest.approx(6 / 7 * more, abs=1)


def test_ensembles_of_different_runs_share_no_network(text: str) -> None:
    seeds = [plan.seed for seed in range(3) for plan in masked_plans(text, seed)["ensemble"]]
    assert len(set(seeds)) == 12


def test_autoregressive_text(text: str) -> None:
    several = plans(CausalExperiment(), TextData(data=text), seed=3, blocks=2, length=16, branch=0.5)
    found = {arm: plan for arm, (plan,) in several.items()}
    assert {arm: (plan.layers, gpt_config(plan).streams) for arm, plan in found.items()} == {
        "end-to-end": ((4,), "none"),
        "shallow": ((2,), "none"),
        "ensemble": ((2, 2), "none"),
        "branched-ensemble": ((2, 2), "none"),
        "blockwise": ((2, 2), "one"),
        "branched": ((2, 2), "one"),
        "two-streams": ((2, 2), "two"),
        "n-gram": ((2, 2), "none"),
    }
    assert branches(several) == {"branched": 0.5, "branched-ensemble": 0.5}
    shown = {arm for arm, plan in found.items() if plan.recipe["inputs"] == "bayes"}
    assert shown == {"blockwise", "branched", "two-streams"}
    assert {plan_budget(plan).hold for plan in found.values()} == {0.5}
    spent = {arm: sum(job.evaluations for job in job_specs(plan)) for arm, plan in found.items()}
    assert all(abs(work - 1000) <= 32 for work in spent.values()), spent


def test_recurrent_text(text: str) -> None:
    experiment = RecurrentExperiment(iterations=4, back=2)
    several = plans(experiment, TextData(data=text), depth=2, length=16)
    found = {arm: gpt_config(plan) for arm, (plan,) in several.items()}
    assert {arm: (one.streams, one.depth, one.prelude, one.coda) for arm, one in found.items()} == {
        "single-pass": ("one", 2, 1, 1),
        "feed-forward": ("none", 2, 1, 1),
        "truncated-bptt": ("none", 2, 1, 1),
    }
