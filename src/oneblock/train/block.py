"""One block in training: what its learner is, and one step of it."""

from __future__ import annotations

from functools import partial

import torch

from oneblock.blockwise import BlockDenoiser
from oneblock.tasks.base import Batch, Loss, Task
from oneblock.train.evolve import EvolutionUpdate
from oneblock.train.learner import Learned, Learner, Losses, learn
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.step import JobSpec, OptimizerSettings, StepReport

BlockLearner = Learner[BlockDenoiser]
SHAPES = 64
"""Shapes of its input for which a layer is compiled, before it is run as it is."""


def block_learner(
    spec: JobSpec,
    denoiser: BlockDenoiser,
    settings: OptimizerSettings,
    ranks: Ranks = ALONE,
    device: torch.device | None = None,
    compile: bool = False,
    update: EvolutionUpdate | None = None,
) -> BlockLearner:
    """The learner of a block; its weights are those of the backbone.

    Args:
        ranks: the processes that train the block together; with ``"fsdp"`` this one keeps its shards on ``device``
            (None: where ``denoiser`` is).
        compile: see ``Learner``.
        update: finds the gradients in the place of backpropagation; its processes share the members of a population,
            and not the batch.

    Raises:
        ValueError: the batch cannot be cut for so many processes, or the moments cannot be cut at all.
    """
    ranks = ALONE if update is not None else ranks
    pieces = ranks.size * settings.accumulate
    if spec.batch_size < pieces:
        raise ValueError(
            f"{spec.name}: a batch of {spec.batch_size} cannot be cut for {ranks.size} processes x "
            f"accumulate={settings.accumulate}; use a batch of {pieces} or more, or fewer parts"
        )
    if ranks.kind == "fsdp" and settings.optimizer == "adamw8bit":
        raise ValueError(
            f"{spec.name}: optimizer='adamw8bit' cannot be sharded (parallel='fsdp'): values that share a scale "
            "may lie in two shards; use parallel='ddp' or optimizer='adamw'"
        )
    network = ranks.wrap(denoiser, device or next(denoiser.parameters()).device, settings.precision)
    return Learner(
        spec,
        denoiser,
        settings,
        trained=denoiser.backbone,
        network=network,
        update=update,
        ranks=ranks,
        compile=compile,
    )


def train_step(spec: JobSpec, learner: BlockLearner, task: Task, batch: Batch) -> StepReport:
    """Train a block on one batch, or on this process's part of one.

    Raises:
        NonFiniteError: before the update.
    """
    return report_of(spec, learn([learner], block_losses(learner, task, batch), spec.batch_size))


def report_of(spec: JobSpec, learned: Learned, latest: bool = True) -> StepReport:
    """What a step of the job did; ``latest``: no later step has been taken yet."""
    return StepReport(
        job=spec.name,
        block=spec.block,
        first_step=spec.first_step,
        step=learned.step,
        num_steps=spec.last_step,
        loss=learned.loss,
        plain=learned.plain,
        grad_norm=learned.norms[0],
        learning_rate=learned.learning_rate,
        layer_evaluations=spec.step_evaluations,
        work=spec.work(learned.step - spec.first_step),
        latest=latest,
    )


def compile_layers(denoiser: BlockDenoiser) -> None:
    """Pass each layer through ``torch.compile``. Layers that are alike share what is compiled, those of later blocks
    too. A layer that cannot be compiled is run as it is, and torch says why."""
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)
    dynamo.suppress_errors = True
    for layer in denoiser.layers.values():
        layer.compile(dynamic=False)


def block_losses(learner: BlockLearner, task: Task, batch: Batch) -> list[Losses]:
    """The losses of each micro-batch of ``batch``."""
    return [partial(_losses, learner, task, part) for part in batch.split(learner.settings.accumulate)]


def _losses(learner: BlockLearner, task: Task, batch: Batch) -> Loss:
    with learner.autocast():
        return task.loss(learner.network, batch.noised, batch.targets, batch.condition)
