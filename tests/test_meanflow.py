"""MeanFlow from a recipe to samples in as many steps as there are blocks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FACTS, IMAGES, TINY, tiny_plan
from torch import Tensor
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.condition import Until
from oneblock.data import Samples, to_float
from oneblock.evaluate.images import Sampling
from oneblock.model import ImageModel
from oneblock.presets import ImageRecipe, blockwise, image_task, plan_task, training_peak
from oneblock.presets.base import OwnBackbone
from oneblock.presets.door import check_plan
from oneblock.schedule import FlowMatching
from oneblock.tasks.meanflow import MeanFlow
from oneblock.train.strategy import job_specs

DATA = TensorDataset(IMAGES.images, IMAGES.labels)


def test_the_plan_of_long_steps() -> None:
    plan = tiny_plan(objective="meanflow", time_mean=-0.4, shift=2.0)
    check_plan(ob.Plan.from_json(plan.to_json()))
    assert plan.architecture["jumps"] is True and "jumps" not in tiny_plan().architecture
    task = plan_task(plan)
    assert isinstance(task, MeanFlow) and image_task(plan).frame == FlowMatching(2.0)
    partition = plan.partition
    lowers = {None: partition.law.low, **{b: partition.training_band(b)[0] for b in (0, 1)}}
    assert task.lowers == lowers and task.law == partition.law


def test_a_step_is_five_thirds_of_the_usual_work() -> None:
    usual, plan = tiny_plan(objective="flow"), tiny_plan(objective="meanflow")
    assert [job.thirds for job in job_specs(plan)] == [5, 5]
    assert job_specs(plan)[0].step_evaluations == job_specs(usual)[0].step_evaluations * 5 // 3


def test_planned_bytes_are_counted_bytes() -> None:
    plan = tiny_plan(objective="meanflow")
    assert training_peak(plan).total == training_peak(plan, real=True).total


def test_the_network_is_told_how_long_the_step_is() -> None:
    plan = tiny_plan(objective="meanflow")
    block, told = blockwise(plan).denoiser(0), image_task(plan).condition(torch.tensor([0, 1]))
    spans: list[Tensor] = []
    block.backbone.get_submodule("stem.span").register_forward_hook(lambda _, inputs, out: spans.append(inputs[0]))
    z, sigma = torch.zeros(2, 1, 8, 8), torch.tensor([1.0, 3.0])
    block(z, sigma, Until(told, torch.tensor([0.0, 1.0])))
    block(z, sigma, told)
    torch.testing.assert_close(spans[0], 4 * torch.tensor([0.5, 0.25]))
    assert spans[1].abs().max() == 0


def test_the_derivative_passes_through_the_network() -> None:
    """Against differences of the network's answers along the path."""
    plan = tiny_plan(objective="meanflow")
    task, block = plan_task(plan), blockwise(plan).denoiser(1).double()
    assert isinstance(task, MeanFlow)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in block.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    samples = Samples(to_float(IMAGES.images[:4]).double(), IMAGES.labels[:4])
    sigma = torch.tensor([0.2, 0.3, 0.5, 0.8], dtype=torch.float64)
    batch = replace(task, share=1.0).draw(samples, sigma, 1, torch.Generator().manual_seed(1))
    z, y, told = batch.noised.z, batch.targets, batch.condition
    assert isinstance(told, Until) and bool((told.level < sigma).all())
    t, r = sigma / (1 + sigma), told.level / (1 + told.level)
    answers, step = [], 1e-3  # the noise embedding is in float32
    for sign in (-1, 1):
        time = t + sign * step
        level = time / (1 - time)
        at = y + level.view(-1, 1, 1, 1) * (z - y) / sigma.view(-1, 1, 1, 1)
        answers.append(block(at, level, told).detach())
    slope = (answers[1] - answers[0]) / (2 * step)
    kept = (1 - r / t).view(-1, 1, 1, 1) * (block(z, sigma, told).detach() - y)
    expected = y + kept - (t - r).view(-1, 1, 1, 1) * slope
    found = task.target(block, batch.noised, y, told)
    assert (found - y - kept).abs().max() > 0.02
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=5e-4)


def test_blocks_make_samples_in_as_many_steps(tmp_path: Path) -> None:
    recipe = ImageRecipe(**TINY | {"objective": "meanflow", "branch": 0.5, "budget": 4 * 8 * 4})
    ob.train(recipe, data=DATA, out=tmp_path / "run")
    model = ImageModel.open(tmp_path / "run")
    images = model.sample([0, 1], sampler="jump", steps=2, grid="equal-mass")
    assert images.shape == (2, 1, 8, 8) and model.sample([0, 1], steps=3).shape == images.shape
    assert model.evaluate(DATA, num_samples=0)["loss"] > 0
    ob.train(recipe, data=DATA, out=tmp_path / "jobs", strategy="plan-only")
    for block in ("trunk", 1):
        ob.run_job(tmp_path / "jobs", block, data=DATA)
    for path in (tmp_path / "run").glob("block-1/*.safetensors"):
        assert path.read_bytes() == (tmp_path / "jobs" / path.relative_to(tmp_path / "run")).read_bytes()


def test_one_block_makes_samples_in_one_step() -> None:
    plan = tiny_plan(objective="meanflow", blocks=1)
    assert Sampling(sampler="jump", steps=1, grid="equal-mass").levels(plan).tolist() == [999.0, 0.0]
    assert Sampling(sampler="jump", steps=2, grid="flow").levels(plan).tolist() == [999.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "sampling", "message"),
    [
        ({"objective": "flow"}, {}, "this one was trained without --objective meanflow"),
        ({}, {"guidance": 2.0}, "guidance=2.0 mixes velocities of a moment; with sampler='jump' use 1"),
        ({}, {"grid": "flow"}, "no step may cross the border of a band; use equal-mass, with 2 steps or a multiple"),
        ({}, {"steps": 1}, "steps=1 is not a multiple of the 2 blocks; use 2"),
    ],
)
def test_steps_that_a_model_does_not_know_are_refused(
    changes: dict[str, Any], sampling: dict[str, Any], message: str
) -> None:
    plan = tiny_plan(**{"objective": "meanflow"} | changes)
    asked = Sampling(**{"sampler": "jump", "grid": "equal-mass", "steps": 2} | sampling)
    with pytest.raises(ValueError, match=message):
        asked.levels(plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"carry": 0.5}, "objective='meanflow' does not go with carry; leave it out, or use flow"),
        ({"align": 0.5, "align_features": "digits-cnn", "patch": 2}, "does not go with align"),
        ({"update": "evolution", "population": 4}, "does not go with update='evolution'"),
    ],
)
def test_what_has_another_target_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_plan(tiny_plan(objective="meanflow", **changes))


def test_networks_and_plans_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="objective='meanflow' is for the usual network; leave it out beside a"):
        ImageRecipe(objective="meanflow").plan(FACTS, OwnBackbone("mine:Mixer"))
    plan = tiny_plan(objective="meanflow")
    with pytest.raises(ValueError, match=r"architecture\.jumps=True does not go with recipe\.objective='flow'"):
        check_plan(replace(plan, recipe={**plan.recipe, "objective": "flow"}))
