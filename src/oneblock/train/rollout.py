"""The steps of a job that learns from rollouts (``tasks.relay``): where one stops, the next goes on.

Slots are part of a job's checkpoint, and what is random in a step follows from (seed, job, step), so that a run that
was killed and resumed equals one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from oneblock.plan import Plan
from oneblock.tasks.base import Batch, Loss
from oneblock.tasks.relay import RelayText, Rollout, joined_rollouts
from oneblock.train.block import BlockLearner
from oneblock.train.layout import ROLLOUT
from oneblock.train.learner import Losses
from oneblock.train.parallel import Ranks
from oneblock.train.step import JobSpec


class Rollouts:
    """The slots of one job.

    Raises:
        ValueError: several processes train the block.
    """

    def __init__(self, plan: Plan, spec: JobSpec, task: RelayText, ranks: Ranks) -> None:
        if ranks.size > 1:
            raise ValueError(
                f"{spec.name}: relay={plan.recipe.get('relay')!r} learns from slots that one process keeps, and "
                f"{ranks.size} processes train it; use a single one"
            )
        self._plan, self._spec = plan, spec
        self._loss, self._slots = task.of(spec.block), task.slots(spec.block)
        self._after: list[Rollout] = []

    def losses(self, learner: BlockLearner, batch: Batch) -> list[Losses]:
        """The losses of each micro-batch of the learner's next step, whose empty slots are filled from ``batch``."""
        self._settle()
        rollout = self._slots.filled(batch.targets, self._generator(batch, "rollout", learner.step))
        parts = rollout.split(learner.settings.accumulate)
        self._after = list(parts)
        every = range(len(parts))
        return [
            partial(self._losses, learner, i, part, self._generator(batch, "reveal", learner.step, i))
            for i, part in zip(every, parts, strict=True)
        ]

    def _losses(self, learner: BlockLearner, index: int, part: Rollout, generator: torch.Generator) -> Loss:
        with learner.autocast():
            loss, after = self._loss(learner.network, part, generator.manual_seed(generator.initial_seed()))
        self._after[index] = replace(after, state=after.state.detach())
        return loss

    def _settle(self) -> None:
        if self._after:
            self._slots.keep(joined_rollouts(self._after))
            self._after = []

    def _generator(self, batch: Batch, *parts: int | str) -> torch.Generator:
        seed = self._plan.derive_seed(parts[0], self._spec.stream, *parts[1:])
        return torch.Generator(batch.targets.device).manual_seed(seed)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of them, by name."""
        self._settle()
        return {f"{ROLLOUT}/{name}": tensor for name, tensor in self._slots.tensors().items()}

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Inverse of ``tensors``, on ``device``; others are left."""
        own = {name.removeprefix(f"{ROLLOUT}/"): tensors[name] for name in tensors if name.startswith(f"{ROLLOUT}/")}
        self._after = []
        self._slots.load(own, device)
