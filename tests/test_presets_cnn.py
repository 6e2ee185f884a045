from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rivalry import FRESH, IMAGES, SOURCE

from oneblock.blockwise import Denoiser
from oneblock.condition import Frames
from oneblock.data import to_float
from oneblock.models.cnn import NoisyCNN
from oneblock.plan import Plan, read_plan, write_plan
from oneblock.presets import (
    ClassifyRecipe,
    ImageFacts,
    blockwise,
    cnn_plan,
    label_table,
    plan_task,
    training_flops,
    training_peak,
)
from oneblock.sample.calls import Calls
from oneblock.sample.labels import classify
from oneblock.train.checkpoint import latest
from oneblock.train.loop import BlockJob, Run
from oneblock.train.strategy import all_blocks, job_specs, plan_optimizer

FACTS = ImageFacts(shape=IMAGES.shape, num_classes=3, data="synthetic", fingerprint=IMAGES.fingerprint())
RECIPE = ClassifyRecipe(
    depth=3,
    width=16,
    heads=2,
    blocks=3,
    batch_size=48,
    budget=48 * 3 * 16,
    learning_rate=0.01,
    ema_gamma=4.0,
)


def plan_of(**changes: Any) -> Plan:
    return cnn_plan(replace(RECIPE, **changes), FACTS, filters=4)


def test_a_plan_survives_its_file_and_builds_its_blocks(tmp_path: Path) -> None:
    plan = plan_of(table="random", inputs="scaled", law="log-normal", overlap=0.1)
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan
    assert plan.architecture["name"] == "noprop-cnn"
    backbone = blockwise(plan).denoiser(1).backbone
    assert isinstance(backbone, NoisyCNN)
    assert list(backbone.layers) == ["1"]
    assert backbone.config.label_width == label_table(plan).shape[1] == 16


def test_blocks_learn_apart_and_answer_together(tmp_path: Path) -> None:
    plan = plan_of()
    write_plan(plan, tmp_path)
    run = Run(
        plan=plan,
        directory=tmp_path,
        blockwise=blockwise(plan),
        task=plan_task(plan),
        source=SOURCE,
        settings=plan_optimizer(plan),
    )
    reports = list(all_blocks(run))
    assert sum(report.layer_evaluations for report in reports) == RECIPE.budget
    assert {report.layer_evaluations for report in reports} == {16}  # a layer is a whole network
    specs = job_specs(plan)

    def load(block: int) -> Any:
        job = BlockJob(run, specs[block])
        job.restore()
        with torch.no_grad():
            for name, p in job.learner.weights.items():
                p.copy_(job.learner.averages[name])
        return job.learner.module.eval()

    assert all(latest(tmp_path / spec.name, plan.hash) for spec in specs)
    levels = [plan.partition.band(block)[1] for block in range(3)]
    denoiser = Denoiser(plan.partition, load)
    answer = classify(denoiser, label_table(plan), Frames(to_float(FRESH.images)), Calls(levels=tuple(levels)))
    found = (answer.probabilities[-1].argmax(-1) == FRESH.labels).float().mean()
    assert float(found) > 0.6


def test_costs_are_counted() -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    plan = plan_of()
    third = training_peak(plan)
    assert third == training_peak(plan, real=True)
    assert third.total < 0.6 * training_peak(plan_of(blocks=1)).total
    flops = training_flops(plan)
    assert flops.layer > flops.ends > 0


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"modulated=True is a setting of the ViT; with a CNN use False"):
        plan_of(modulated=True)
    with pytest.raises(ValueError, match=r"architecture 'lstm' is unknown; .* dit, vit, noprop-cnn"):
        blockwise(replace(plan_of(), architecture={**plan_of().architecture, "name": "lstm"}))
