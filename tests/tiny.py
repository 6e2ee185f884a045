"""Tiny plans and what their jobs need."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from oneblock.data import Characters, ImageSet, MemorySource, Samples, synthetic_images
from oneblock.plan import Plan, write_plan
from oneblock.presets import (
    ClassifyRecipe,
    ImageFacts,
    ImageRecipe,
    MaskedRecipe,
    TextFacts,
    blockwise,
    plan_augment,
    plan_task,
)
from oneblock.train.checkpoint import checkpoints
from oneblock.train.loop import Idle, Run
from oneblock.train.step import OptimizerSettings
from oneblock.train.strategy import Turns, plan_optimizer

IMAGES: ImageSet = synthetic_images(48, 8, 1, 3, seed=0)


# 4 layers of width 16 in 2 blocks on 8 x 8 images; a budget of 6 end-to-end steps of 8 images
FACTS = ImageFacts(
    shape=IMAGES.shape, num_classes=IMAGES.num_classes, data="synthetic", fingerprint=IMAGES.fingerprint()
)
TINY: dict[str, Any] = {
    "learning_rate": 1e-3,
    "depth": 4,
    "width": 16,
    "heads": 2,
    "patch": 4,
    "blocks": 2,
    "budget": 6 * 8 * 4,
    "batch_size": 8,
    "block_batch_size": 8,
}


def tiny_plan(optimizer: OptimizerSettings | None = None, facts: ImageFacts = FACTS, **changes: Any) -> Plan:
    settings = {} if optimizer is None else asdict(optimizer)
    return ImageRecipe(**TINY | settings | changes).plan(facts)


def tiny_classify_recipe(**changes: Any) -> ClassifyRecipe:
    return ClassifyRecipe(**TINY | changes)


def tiny_classify_plan(prototypes: tuple[float, ...] = (), facts: ImageFacts = FACTS, **changes: Any) -> Plan:
    return tiny_classify_recipe(**changes).plan(replace(facts, rows=prototypes))


class Texts:
    """Windows of 16 random characters."""

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        generator = torch.Generator().manual_seed(seed % 1000 + step)
        return Samples(torch.randint(27, (batch_size, 16), generator=generator), None)


def relay_plan(relay: str = "relay", **changes: Any) -> Plan:
    """Masked text of two layers in two blocks, learned as ``relay`` says; three steps of 8 texts for each block."""
    settings = {name: value for name, value in TINY.items() if name != "patch"}
    settings |= {"depth": 2, "budget": 6 * 8 * 2 * 2, "length": 16, "relay": relay, "relay_slots": 1}
    return MaskedRecipe(**settings | changes).plan(TextFacts(vocabulary=Characters()))


def relay_run(directory: Path, plan: Plan, **changes: Any) -> Run:
    return tiny_run(directory, plan, source=Texts(), **changes)


def last_files(directory: Path) -> dict[str, bytes]:
    """The newest checkpoint of every job of a run; each must have one."""
    return {job.name: checkpoints(job)[-1].read_bytes() for job in sorted(directory.iterdir()) if job.is_dir()}


def tiny_run(directory: Path, plan: Plan | None = None, **changes: Any) -> Run:
    """Everything that training ``plan`` in ``directory`` needs."""
    plan = plan or tiny_plan()
    write_plan(plan, directory)
    return Run(
        plan=plan,
        directory=directory,
        blockwise=blockwise(plan),
        task=plan_task(plan),
        settings=plan_optimizer(plan),
        **{"source": MemorySource(IMAGES), "augment": plan_augment(plan), **changes},
    )


def turns(steps: int, idle: Idle = "host") -> Turns:
    """Turns of so many steps: their clock ticks at every step."""
    return Turns(seconds=steps, idle=idle, clock=itertools.count().__next__)


def metrics_line(**known: float) -> str:
    """A line of a file of metrics, of which ``known`` matters."""
    row = {"step": 1, "num_steps": 50, "learning_rate": 0.1, "loss": 1.0, "plain": 0.5, "grad_norm": 1.0}
    return json.dumps({"job": "block-0", "layer_evaluations": 10, **row, **known}) + "\n"
