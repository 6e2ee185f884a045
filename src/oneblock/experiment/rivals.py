"""How the rivals of all tasks are trained in a comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from oneblock.data import Batches
from oneblock.experiment.base import Case
from oneblock.experiment.summary import Row
from oneblock.plan import Plan
from oneblock.presets.tasks import plan_augment
from oneblock.rivals import Rival, RivalSettings, train_rival
from oneblock.train.checkpoint import checkpoints
from oneblock.train.drive import watched
from oneblock.train.machine import Machine
from oneblock.train.strategy import plan_budget, plan_optimizer

Samples = TypeVar("Samples", bound=Batches)


def rival_settings(plan: Plan, machine: Machine) -> RivalSettings:
    """The budget, batch and rates of ``plan`` for a rival."""
    budget, optimizer = plan_budget(plan), plan_optimizer(plan)
    return RivalSettings(
        budget=budget.layer_evaluations,
        batch_size=budget.batch_size,
        optimizer=replace(optimizer, accumulate=1),  # micro-batches change memory, not what is learned
        warmup=budget.warmup,
        hold=budget.hold,
        seed=plan.seed,
        device=machine.device,
    )


def train_contender(
    case: Case[Any], plan: Plan, rival: Rival[Samples], source: Samples, settings: RivalSettings
) -> Row:
    """Train a rival in the directory of its run, from where that stands; its work, and the seconds if it began here."""
    directory, machine, augment = case.directory, case.machine, plan_augment(plan)
    stages = rival.stages(source, settings, augment is not None)
    fresh = not any(checkpoints(directory / stage.part) for stage in stages)
    reports = train_rival(
        rival,
        source,
        settings,
        directory,
        augment,
        stages=stages,
        fingerprint=plan.hash,
        save_every=machine.save_every,
        keep=machine.keep,
        warn=case.watch.warn,
    )
    seconds = watched(reports, directory, {stage.part: (0, len(stage.costs)) for stage in stages}, case.watch)
    return {
        "layer_evaluations": sum(sum(stage.costs) for stage in stages),
        "train_seconds": seconds if fresh else None,
    }
