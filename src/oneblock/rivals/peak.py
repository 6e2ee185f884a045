"""Peak bytes of a rival's training, counted without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from oneblock.memory import DryRun, PeakBytes, peak_bytes
from oneblock.optim.adamw import make_state, state_tensors
from oneblock.rivals.base import Lesson, Rival, RivalSettings
from oneblock.train.learner import Learner, rehearse


def training_peak(rival: Rival[Any], settings: RivalSettings, real: bool = False) -> PeakBytes:
    """Peak bytes of the costliest training step of ``rival`` (``memory.peak_bytes``)."""
    here = replace(settings, device="cpu")
    return max((peak_bytes(setup, real) for setup in rival.dry_runs(here)), key=lambda peak: peak.total)


def empty_batch(settings: RivalSettings, channels: int, image_size: int) -> tuple[Tensor, Tensor]:
    """Images and labels of one step, without content."""
    images = torch.empty(settings.batch_size, channels, image_size, image_size, device=settings.device)
    return images, torch.zeros(settings.batch_size, dtype=torch.long, device=settings.device)


def dry_run(
    learners: Sequence[Learner[Any]],
    held: Iterable[Tensor],
    lessons: Callable[[], Iterable[Lesson]],
    frozen: Iterable[nn.Module] = (),
) -> DryRun:
    """What ``memory.peak_bytes`` counts of the ``lessons`` of one step of ``learners``, with ``frozen`` modules and
    other tensors at hand. Moments of all but the first learner count as other tensors."""
    others = [*held, *(t for learner in learners for t in learner.averages.values())]
    for learner in learners[1:]:
        make_state(learner.optimizer)
        others += [t for p in learner.weights.values() for t in state_tensors(learner.optimizer, p).values()]
    modules = nn.ModuleList([*frozen, *(learner.module for learner in learners)])

    def step() -> None:
        for lesson in lessons():
            rehearse(lesson.learners, [lesson.loss], samples=1)

    return DryRun(modules, learners[0].optimizer, tuple(others), step)
