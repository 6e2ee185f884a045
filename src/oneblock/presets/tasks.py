"""The tasks and the networks that a plan may name: one entry each, and all that is asked of a plan by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import nn

from oneblock.backbone import BuildBackbone
from oneblock.data import Augment
from oneblock.models.cnn import NoisyCNN
from oneblock.models.dit import DiT
from oneblock.models.encoder import Encoder
from oneblock.models.gpt import GPT
from oneblock.models.vit import ViT
from oneblock.plan import Plan
from oneblock.precondition import Frame, MaskedTokens
from oneblock.presets.causal import (
    causal_task,
    empty_causal,
    empty_causal_task,
    empty_token_table,
    gpt_config,
    token_table,
)
from oneblock.presets.classify import (
    classify_task,
    empty_labels,
    empty_table,
    empty_task,
    label_augment,
    label_frame,
    label_table,
    vit_config,
)
from oneblock.presets.cnn import CNN_NAME, cnn_config
from oneblock.presets.image import dit_config, empty_images, image_augment, image_task
from oneblock.presets.masked import empty_masked, empty_masked_task, encoder_config, masked_task
from oneblock.tasks.base import Batch, Task

Config = TypeVar("Config")


def _as_it_is(plan: Plan) -> None:
    """Training samples are not changed."""


@dataclass(frozen=True, kw_only=True)
class TaskParts:
    """What a plan of one task is asked for.

    Args:
        task: what is noised and predicted, with which loss.
        frame: what the blocks are shown of noisy targets.
        empty_task, empty_frame: the same without content, for counting; must not look at the values of tensors.
        empty_batch: so many samples without content, for a block or (None) the seed block.
        augment: how training samples are changed at random; None for not at all.
    """

    task: Callable[[Plan], Task]
    frame: Callable[[Plan], Frame]
    empty_task: Callable[[Plan], Task]
    empty_frame: Callable[[Plan], Frame]
    empty_batch: Callable[[Plan, int, int | None], Batch]
    augment: Callable[[Plan], Augment | None] = _as_it_is


TASKS: dict[str, TaskParts] = {
    "image": TaskParts(
        task=image_task,
        frame=lambda plan: plan.precondition,
        empty_task=image_task,
        empty_frame=lambda plan: plan.precondition,
        empty_batch=empty_images,
        augment=image_augment,
    ),
    "classify": TaskParts(
        task=classify_task,
        frame=lambda plan: label_frame(plan, label_table(plan)),
        empty_task=empty_task,
        empty_frame=lambda plan: label_frame(plan, empty_table(plan)),
        empty_batch=empty_labels,
        augment=label_augment,
    ),
    "masked-text": TaskParts(
        task=masked_task,
        frame=lambda plan: MaskedTokens(),
        empty_task=empty_masked_task,
        empty_frame=lambda plan: MaskedTokens(),
        empty_batch=empty_masked,
    ),
    "text": TaskParts(
        task=causal_task,
        frame=lambda plan: label_frame(plan, token_table(plan)),
        empty_task=empty_causal_task,
        empty_frame=lambda plan: label_frame(plan, empty_token_table(plan)),
        empty_batch=empty_causal,
    ),
}


def _network(
    config: Callable[[Plan], Config], network: Callable[[Config, range], nn.Module]
) -> Callable[[Plan], BuildBackbone]:
    return lambda plan: partial(network, config(plan))


NETWORKS: dict[str, Callable[[Plan], BuildBackbone]] = {
    "dit": _network(dit_config, DiT),
    "vit": _network(vit_config, ViT),
    CNN_NAME: _network(cnn_config, NoisyCNN),
    "encoder": _network(encoder_config, Encoder),
    "gpt": _network(gpt_config, GPT),
}


def task_parts(plan: Plan) -> TaskParts:
    """What there is for the task of a plan; an unknown task is a ``ValueError``."""
    if plan.task not in TASKS:
        raise ValueError(f"task={plan.task!r} is unknown; this version of oneblock trains: {', '.join(TASKS)}")
    return TASKS[plan.task]


def build_backbone(plan: Plan) -> BuildBackbone:
    """The builder of a plan's backbone: give it a range of layers. An unknown architecture is a ``ValueError``."""
    name = plan.architecture.get("name")
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"architecture {name!r} is unknown; this version of oneblock builds: {', '.join(NETWORKS)}")
    return NETWORKS[name](plan)


def plan_task(plan: Plan) -> Task:
    """The task of a plan."""
    return task_parts(plan).task(plan)


def plan_augment(plan: Plan) -> Augment | None:
    """How the training samples of a plan are changed at random."""
    return task_parts(plan).augment(plan)
