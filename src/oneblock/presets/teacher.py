"""A trained model as the teacher of another run."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from oneblock.blockwise import Denoiser, DenoiserLike
from oneblock.noise import LogNormal, law_to_dict
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets.bands import cuts
from oneblock.presets.base import Recipe
from oneblock.presets.frames import cut_law
from oneblock.presets.image import ImageRecipe, image_shape, image_task
from oneblock.tasks.base import Task
from oneblock.tasks.distilled import Distilled
from oneblock.tasks.image import ImageGeneration
from oneblock.train.visiting import Visiting

TEACHER = "teacher"
"""The key of a plan's recipe: the hash of the teacher's plan. A plan without it learns from its data alone."""


class Teacher(Protocol):
    """What is asked of a teacher; a ``Model`` is one."""

    @property
    def plan(self) -> Plan: ...

    @property
    def denoiser(self) -> Denoiser: ...


def taught(plan: Plan, recipe: Recipe, teacher: Teacher | None) -> Plan:
    """The ``plan`` of a recipe with its teacher: its noise law is cut to the levels that the teacher knows. One that
    cannot teach it is a ``ValueError``."""
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
    return replace(_known(plan, recipe, theirs), recipe={**plan.recipe, TEACHER: theirs.hash})


def _known(plan: Plan, recipe: Recipe, teacher: Plan) -> Plan:
    """``plan`` at the noise levels that its teacher knows."""
    law, known = plan.partition.law, teacher.partition.law
    assert isinstance(recipe, ImageRecipe) and isinstance(law, LogNormal), "images have this law"
    cut = cut_law(law, known.low, known.high, "the teacher")
    if cut == law:
        return plan
    partition = make_partition(cut, plan.num_blocks, plan.overlap, cuts(recipe.bands))
    return replace(plan, noise=law_to_dict(cut), edges=partition.edges)


def taught_task(plan: Plan, task: Task, teacher: Teacher | None, device: torch.device) -> Task:
    """The task of a plan, with its teacher where it has one.

    Raises:
        ValueError: the plan has a teacher that is not given, has another, or has none; the teacher is on another GPU.
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
    assert isinstance(task, ImageGeneration), "only images are taught"
    return Distilled(task, _answering(teacher, device))


def _answering(teacher: Teacher, device: torch.device) -> DenoiserLike:
    """The teacher's denoiser on ``device``, layer by layer where its weights are in host memory alone."""
    first = teacher.denoiser.block(0)
    where = next(first.parameters()).device
    single = teacher.plan.num_blocks == 1
    if where.type == device.type:
        # a single block needs no look at the levels, for which the device would be waited for
        return first if single else teacher.denoiser
    if where.type == "cpu" and single:
        return Visiting(first, device)
    raise ValueError(
        f"the teacher is on {where}, but the run trains on {device}; open it with device={str(device)!r}"
        + ("" if single else ", or give a teacher of one block, which may stay in host memory")
    )
