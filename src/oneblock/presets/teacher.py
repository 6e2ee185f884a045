"""A trained model as the teacher of another run."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from oneblock.blockwise import Denoiser, DenoiserLike
from oneblock.plan import Plan
from oneblock.presets.image import image_shape, image_task
from oneblock.presets.relay import carry_images
from oneblock.tasks.base import Task
from oneblock.tasks.carry import WithState
from oneblock.tasks.distilled import Distilled
from oneblock.tasks.image import ImageGeneration

TEACHER = "teacher"
"""The key of a plan's recipe: the hash of the teacher's plan. A plan without it learns from its data alone."""


class Teacher(Protocol):
    """What is asked of a teacher; a ``Model`` is one."""

    @property
    def plan(self) -> Plan: ...

    @property
    def denoiser(self) -> Denoiser: ...


def taught(plan: Plan, teacher: Teacher | None) -> Plan:
    """``plan`` with its teacher; refuses one that cannot teach it with a ``ValueError``."""
    if teacher is None:
        return plan
    theirs = teacher.plan
    if plan.task != "image" or theirs.task != "image":
        raise ValueError(f"a teacher of task {theirs.task!r} cannot teach task {plan.task!r}; both must be 'image'")
    ours = image_shape(plan), image_task(plan).num_classes
    known = image_shape(theirs), image_task(theirs).num_classes
    if ours != known:
        raise ValueError(
            f"the teacher knows images {known[0]} of {known[1]} classes, but the run has {ours[0]} of {ours[1]}"
        )
    low, high = theirs.partition.law.low, theirs.partition.law.high
    if plan.partition.law.low < low or plan.partition.law.high > high:
        raise ValueError(f"the teacher knows noise levels from {low} to {high}, and the run has others; use its law")
    return replace(plan, recipe={**plan.recipe, TEACHER: theirs.hash})


def taught_task(plan: Plan, task: Task, teacher: Teacher | None, device: torch.device) -> Task:
    """The task of a plan, with its teacher where it has one.

    Raises:
        ValueError: the plan has a teacher that is not given, has another, or has none; the teacher is elsewhere.
    """
    wanted = plan.recipe.get(TEACHER)
    if teacher is None and wanted is None:
        return task
    if teacher is None or teacher.plan.hash != wanted:
        given = "none is given" if teacher is None else f"that of plan {teacher.plan.hash} is given"
        needed = "has no teacher" if wanted is None else f"has the teacher of plan {wanted}"
        raise ValueError(
            f"the run {needed}, but {given}; give the same as when it was planned (teacher=Model.open(...))"
        )
    where = next(teacher.denoiser.block(0).parameters()).device
    if where.type != device.type:
        raise ValueError(
            f"the teacher is on {where}, but the run trains on {device}; open it with device={str(device)!r}"
        )
    alone = task.task if isinstance(task, WithState) else task
    assert isinstance(alone, ImageGeneration), "only images are taught"
    # a single block needs no look at the levels, for which the device would be waited for
    asked: DenoiserLike = teacher.denoiser.block(0) if teacher.plan.num_blocks == 1 else teacher.denoiser
    return carry_images(plan, Distilled(alone, asked))
