"""A trained model, or a network of another library, as the teacher of a run."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Protocol, cast

import torch

from oneblock.blockwise import BlockDenoiser, Denoiser, DenoiserLike
from oneblock.convert.converted import Converted
from oneblock.noise import LogNormal, law_to_dict
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets.bands import cuts
from oneblock.presets.base import Recipe
from oneblock.presets.captions import check_alike
from oneblock.presets.frames import cut_law, kept_frame
from oneblock.presets.image import ImageRecipe, image_shape, image_task
from oneblock.presets.relay import carry_images
from oneblock.schedule import Parametrisation, frame_from_dict, frame_to_dict
from oneblock.tasks.base import Task
from oneblock.tasks.carry import WithState
from oneblock.tasks.distilled import Distilled
from oneblock.tasks.image import ImageGeneration
from oneblock.train.visiting import Visiting

TEACHER = "teacher"
"""The key of a plan's recipe: the hash of the teacher's plan, or of the name and the frame of a converted network. A
plan without it learns from its data alone."""


class TrainedTeacher(Protocol):
    """What is asked of a teacher; a ``Model`` is one."""

    @property
    def plan(self) -> Plan: ...

    @property
    def denoiser(self) -> Denoiser: ...


Teacher = TrainedTeacher | Converted
"""A trained model, or a network of another library with the scheduler that it was trained with."""


def taught(plan: Plan, recipe: Recipe, teacher: Teacher | None) -> Plan:
    """The ``plan`` of a recipe with its teacher: its noise law is cut to the levels that the teacher knows. One that
    cannot teach it is a ``ValueError``."""
    if teacher is None:
        return plan
    if plan.task != "image":
        raise ValueError(f"task {plan.task!r} has no teachers; an ImageRecipe has")
    if not isinstance(teacher, Converted):
        _check_alike(plan, teacher.plan)
    return replace(_known(plan, recipe, teacher), recipe={**plan.recipe, TEACHER: _name(teacher)})


def _check_alike(plan: Plan, theirs: Plan) -> None:
    """Refuse a teacher of other images."""
    if theirs.task != "image":
        raise ValueError(f"a teacher of task {theirs.task!r} cannot teach task {plan.task!r}; both must be 'image'")
    ours = image_shape(plan), image_task(plan).num_classes
    known = image_shape(theirs), image_task(theirs).num_classes
    if plan.recipe.get("codec_values") != theirs.recipe.get("codec_values"):
        raise ValueError("the teacher denoises what another codec makes of images; use the same codec for both")
    if ours != known:
        raise ValueError(
            f"the teacher knows images {known[0]} of {known[1]} classes, but the run has {ours[0]} of {ours[1]}"
        )
    check_alike(plan, theirs)


def _name(teacher: Teacher) -> str:
    """16 hex digits, by which a plan knows its teacher."""
    if isinstance(teacher, Converted):
        frame = {} if teacher.frame is None else frame_to_dict(teacher.frame)
        return hashlib.sha256(f"{teacher.named}, {sorted(frame.items())}".encode()).hexdigest()[:16]
    return teacher.plan.hash


def _known(plan: Plan, recipe: Recipe, teacher: Teacher) -> Plan:
    """``plan`` at the noise levels that its teacher knows."""
    law = plan.partition.law
    known = _frame(teacher, plan) if isinstance(teacher, Converted) else teacher.plan.partition.law
    assert isinstance(recipe, ImageRecipe) and isinstance(law, LogNormal), "images have this law"
    cut = cut_law(law, known.low, known.high, "the teacher")
    if cut == law:
        return plan
    partition = make_partition(cut, plan.num_blocks, plan.overlap, cuts(recipe.bands))
    return replace(plan, noise=law_to_dict(cut), edges=partition.edges)


def _frame(teacher: Converted, plan: Plan) -> Parametrisation:
    """The frame of a converted network that answers with the targets of a plan."""
    if teacher.frame is None:
        raise ValueError(
            "the teacher is a converted network without a schedule, whose answers are no clean images; give the "
            "scheduler that it was trained with, convert(network, scheduler=...)"
        )
    return frame_from_dict(kept_frame(frame_to_dict(teacher.frame), cast(str, plan.recipe["autoencoder"])))


def known_teacher(plan: Plan, teacher: Teacher | None, backbone: object) -> Teacher | None:
    """The teacher that is given; without one the network that the blocks are made of, where it is the plan's."""
    if teacher is None and isinstance(backbone, Converted) and plan.recipe.get(TEACHER) == _name(backbone):
        return backbone
    return teacher


def taught_task(plan: Plan, task: Task, teacher: Teacher | None, device: torch.device) -> Task:
    """The task of a plan, with its teacher where it has one.

    Raises:
        ValueError: the plan has a teacher that is not given, has another, or has none; the teacher is on another GPU.
    """
    wanted = plan.recipe.get(TEACHER)
    if teacher is None and wanted is None:
        return task
    if teacher is None or _name(teacher) != wanted:
        given = "none is given" if teacher is None else f"{_name(teacher)} is given"
        needed = "has no teacher" if wanted is None else f"has the teacher {wanted}"
        raise ValueError(f"the run {needed}, but {given}; give the same as when it was planned (teacher=...)")
    alone = task.task if isinstance(task, WithState) else task
    assert isinstance(alone, ImageGeneration), "only images are taught"
    return carry_images(plan, Distilled(alone, _answering(teacher, plan, device)))


def _answering(teacher: Teacher, plan: Plan, device: torch.device) -> DenoiserLike:
    """The teacher's denoiser on ``device``, layer by layer where its weights are in host memory alone."""
    first = _whole(teacher, plan) if isinstance(teacher, Converted) else teacher.denoiser.block(0)
    where = next(first.parameters()).device
    several = None if isinstance(teacher, Converted) or teacher.plan.num_blocks == 1 else teacher.denoiser
    if where.type == device.type:
        # a single block needs no look at the levels, for which the device would be waited for
        return several or first
    if where.type == "cpu" and several is None:
        return Visiting(first, device)
    raise ValueError(
        f"the teacher is on {where}, but the run trains on {device}; open it with device={str(device)!r}, or give a "
        "teacher of one block, which may stay in host memory"
    )


def _whole(teacher: Converted, plan: Plan) -> BlockDenoiser:
    every = range(teacher.count)
    return BlockDenoiser(teacher.pick(every)(every).eval(), _frame(teacher, plan))
