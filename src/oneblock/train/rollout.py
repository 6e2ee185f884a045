"""The steps of a job that learns from rollouts (``tasks.relay``): where one stops, the next goes on.

Steps take sets of slots in turn: the texts of one set change little from a step to the next, and a network that learns
from the same few texts many times over does not get off the frequencies of symbols (docs/log.md). Sets that wait do so
in host memory.

Slots are part of a job's checkpoint, and what is random in a step follows from (seed, job, step), so that a run that
was killed and resumed equals one that was not. Of several processes each keeps the slots of its part of the batch; a
checkpoint holds all, so that it does not matter how many they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import ceil

import torch
from torch import Tensor

from oneblock.plan import Plan
from oneblock.state import StatefulDenoiser
from oneblock.tasks.across import border_above
from oneblock.tasks.base import Batch, Loss
from oneblock.tasks.relay import GradientShare, RelayText, Rollout, RolloutBuffer, joined_rollouts
from oneblock.train.block import BlockLearner
from oneblock.train.layout import ROLLOUT
from oneblock.train.learner import Losses
from oneblock.train.parallel import Ranks
from oneblock.train.step import JobSpec


class Rollouts:
    """The slots of one job: ``task.at_once`` or more, in sets of a batch.

    Args:
        ranks: the processes that share each batch.
        before: the trained block whose states slots that were just filled begin with; None for no states.
    """

    def __init__(
        self, plan: Plan, spec: JobSpec, task: RelayText, ranks: Ranks, before: StatefulDenoiser | None = None
    ) -> None:
        self._plan, self._spec, self._ranks = plan, spec, ranks
        self._gradients = GradientShare()
        self._loss = replace(task.of(spec.block), gradients=self._gradients)
        self._sets = [task.slots(spec.block) for _ in range(ceil(task.at_once / spec.batch_size))]
        self._turn = 0
        self._before = before
        self._border = None if before is None or spec.block is None else border_above(task, spec.block)
        self._began = torch.zeros(3)
        self._after: list[Rollout] = []

    def losses(self, learner: BlockLearner, batch: Batch) -> list[Losses]:
        """The losses of each micro-batch of the learner's next step, whose slots that are done are filled from
        ``batch``."""
        self._settle()
        self._turn = learner.step % len(self._sets)
        self._slots.to(batch.targets.device)
        parts = torch.arange(self._spec.batch_size).tensor_split(self._ranks.size)
        first = int(parts[self._ranks.rank][0])
        rollout = self._slots.filled(
            batch.targets,
            self._generator(batch, "rollout", learner.step),
            first=first,
            of=self._spec.batch_size,
        )
        self._began = self._standing(rollout)
        rollout = self._crossed(learner, rollout, first, self._generator(batch, "border", learner.step))
        micro = rollout.split(learner.settings.accumulate)
        self._after = list(micro)
        number = self._ranks.rank * len(micro)
        return [
            partial(self._losses, learner, i, part, self._generator(batch, "reveal", learner.step, number + i))
            for i, part in enumerate(micro)
        ]

    def _losses(self, learner: BlockLearner, index: int, part: Rollout, generator: torch.Generator) -> Loss:
        with learner.autocast():
            loss, after = self._loss(learner.network, part, generator.manual_seed(generator.initial_seed()))
        self._after[index] = replace(after, state=after.state.detach())
        return loss

    def _crossed(self, learner: BlockLearner, rollout: Rollout, first: int, generator: torch.Generator) -> Rollout:
        """The slots ``rollout``, of which those that were just filled have the state of the block before."""
        if self._before is None or self._border is None:
            return rollout
        with learner.autocast():
            return self._border.crossed(self._before, rollout, generator, first=first, of=self._spec.batch_size)

    @property
    def _slots(self) -> RolloutBuffer:
        """Those of the last step."""
        return self._sets[self._turn]

    def _settle(self) -> None:
        """Keep what the last step has left."""
        if self._after:
            self._slots.keep(joined_rollouts(self._after))
            self._after = []
            if len(self._sets) > 1:
                self._slots.to(torch.device("cpu"))

    def _generator(self, batch: Batch, *parts: int | str) -> torch.Generator:
        seed = self._plan.derive_seed(parts[0], self._spec.stream, *parts[1:])
        return torch.Generator(batch.targets.device).manual_seed(seed)

    def _standing(self, rollout: Rollout) -> Tensor:
        """(3,): masked places, places that can be masked, and calls since slots were filled, a sum."""
        hidden = rollout.z == self._slots.mask
        return torch.stack([hidden.sum(), rollout.free.sum(), rollout.age.sum()])

    def diagnostics(self) -> dict[str, float]:
        """Of this process's part of the last step: the share of places that were masked at its start, the share of
        these that its calls have revealed, the mean age of slots in calls, and, where gradients go through states,
        their share (``GradientShare``). Waits for the device."""
        self._settle()
        if self._slots.rollout is None:
            return {}
        count = len(self._slots.rollout)
        masked, free, age = self._began.tolist()
        left = float(self._standing(self._slots.rollout)[0])
        found = {"masked_share": masked / max(free, 1), "slot_age": age / count}
        found["revealed_share"] = 1 - left / masked if masked else 0.0
        share = self._gradients.take()
        return found if share is None else {**found, "state_gradient_share": share}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of them, by name; all processes must ask."""
        self._settle()
        own = {f"{i}/{name}": tensor for i, one in enumerate(self._sets) for name, tensor in one.tensors().items()}
        return {f"{ROLLOUT}/{name}": self._ranks.joined(tensor) for name, tensor in own.items()}

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Inverse of ``tensors``, on ``device``; others are left."""
        rank, size = self._ranks.rank, self._ranks.size
        self._after = []
        for i, slots in enumerate(self._sets):
            start = f"{ROLLOUT}/{i}/"
            own = {name.removeprefix(start): tensors[name] for name in tensors if name.startswith(start)}
            slots.load({name: tensor.tensor_split(size)[rank] for name, tensor in own.items()}, device)
