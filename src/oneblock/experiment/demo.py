"""A small comparison from start to end: handwritten digits by a whole network, and by three blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from oneblock.evaluate.images import Sampling, sample_images
from oneblock.experiment.base import Cell
from oneblock.experiment.compare import compare
from oneblock.experiment.grid import Comparison
from oneblock.experiment.images import ImageExperiment
from oneblock.presets.door import open_plan
from oneblock.presets.image import ImageRecipe
from oneblock.presets.tasks import blockwise
from oneblock.train.drive import Watch
from oneblock.train.machine import Machine
from oneblock.train.shards import merge, open_denoiser
from oneblock.train.strategy import job_specs

BUDGET = "200k"
"""Work of each of the two, in layer evaluations."""
NUM_SAMPLES = 1000
"""Generated images that the scores are taken on."""
PER_CLASS = 10
GUIDED = Sampling(guidance=2.0)
"""How the pictures are made, to be readable; the scores are taken without guidance."""
# One thread: the tensors are too small for two to help, and on a busy machine two wait for each other.
ONE_THREAD = Machine(threads=1)


@dataclass(frozen=True)
class Demo:
    """What the demo has made.

    Args:
        comparison: of ``end-to-end`` and ``branched``, one run each.
        model: directory of the merged blocks.
        images: uint8 (n, 1, 8, 8), ``PER_CLASS`` of every class, generated with one block in memory.
    """

    comparison: Comparison
    model: Path
    images: Tensor


def demo(
    out: str | Path,
    *,
    budget: int | str = BUDGET,
    num_samples: int = NUM_SAMPLES,
    machine: Machine = ONE_THREAD,
    told: Callable[[str], None] | None = None,
) -> Demo:
    """Train a small image generator on handwritten digits twice with the same work, whole and in three blocks from a
    common trunk; merge the blocks, and generate with them. The same call goes on where it was stopped.

    Args:
        out: directory of the runs and the model.
        budget: work of each of the two, in layer evaluations.
        num_samples: generated images that the scores are taken on.
        told: called with a line about every run that is finished.
    """
    comparison = compare(
        ImageExperiment(num_samples=num_samples),
        out=out,
        data="digits",
        recipe=ImageRecipe(size="nano", budget=budget, batch_size=64, branch=0.5),
        arms=("end-to-end", "branched"),
        seeds=1,
        workers=2,
        machine=machine,
        watch=Watch(bars=False),
        told=told,
    )
    run, model = Path(out) / Cell(arm="branched", budget=str(budget), seed=0).name, Path(out) / "model"
    plan = open_plan(run)
    merge(run, model, job_specs(plan)[-1].last_step)
    denoiser = open_denoiser(model, blockwise(plan), machine.torch_device(), resident=1)
    labels = torch.arange(10).repeat_interleave(PER_CLASS)
    images = sample_images(denoiser, plan, labels, GUIDED, batch_size=len(labels))
    return Demo(comparison, model, images)
