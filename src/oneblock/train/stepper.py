"""Steppers: who waits for the losses of a step.

``EagerStepper`` looks at the loss and the gradients' norm of every step before anything moves. An accelerator then
stands still twice a step: until the numbers are here, and until the next step has been launched, kernel by kernel.

``GuardedStepper`` leaves both to the device. The numbers of many steps stay there and are read together. From the
first step on whose loss or norm is not finite a flag there holds weights, moments and averages where they are, so that
reading late loses nothing. As nothing in a step waits for the processor any more, a step can be recorded once and
replayed in a single launch (``ops.recorded``). The warm-up of the recording is done with the flag up: it moves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from oneblock.ops import CannotRecordError, Recorded
from oneblock.optim.adamw import hold_while, set_learning_rate
from oneblock.optim.ema import ema_beta, ema_follow
from oneblock.tasks.base import Batch
from oneblock.train.learner import (
    Backpropagation,
    Learned,
    Learner,
    Losses,
    NonFiniteError,
    check_learned,
    gradients,
    learn,
    mean_losses,
)

MOST = 100
"""Steps between two readings, at most."""
SECONDS = 0.5
"""Between two readings, about."""
BatchLosses = Callable[[Batch], list[Losses]]
"""The losses of each micro-batch of a batch."""


class Stepper(Protocol):
    """Takes the steps of one learner."""

    @property
    def recorded(self) -> bool:
        """A step is a replay: it draws nothing from torch's own generators."""

    @property
    def failure(self) -> NonFiniteError | None:
        """Why no further step can be taken: one that has been read was not finite."""

    def take(self, batch: Batch) -> list[Learned]:
        """Take the next step; what has been read by now, of this step or of some before, in order.

        Raises:
            NonFiniteError: a loss or gradient was not finite. The learner is as it was before that step.
        """

    def read(self) -> list[Learned]:
        """What has not been read yet. If a step was not finite, those before it, and ``failure`` tells of it."""


class EagerStepper:
    """A ``Stepper`` that looks at every step before anything moves.

    Args:
        learner: takes the steps.
        losses, samples: of a batch (``train.learner.learn``).
    """

    recorded = False
    failure: NonFiniteError | None = None

    def __init__(self, learner: Learner[Any], losses: BatchLosses, samples: int) -> None:
        self._learner, self._losses, self._samples = learner, losses, samples

    def take(self, batch: Batch) -> list[Learned]:
        return [learn([self._learner], self._losses(batch), self._samples)]

    def read(self) -> list[Learned]:
        return []


class GuardedStepper:
    """A ``Stepper`` that waits for nothing.

    Args:
        learner: its optimizer is fused AdamW, it finds gradients by backpropagation, and it is alone.
        losses, samples: as of ``EagerStepper``; must not wait for the device. Batches all have the same shapes.
        record: record the step and replay it. What cannot be recorded is done as it is.
        every: steps between two readings; None is as many as take ``SECONDS``, up to ``MOST``.
        tell: is told why a step could not be recorded.
    """

    def __init__(
        self,
        learner: Learner[Any],
        losses: BatchLosses,
        samples: int,
        *,
        record: bool = True,
        every: int | None = None,
        tell: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._learner, self._losses, self._samples, self._tell = learner, losses, samples, tell
        self._device = next(iter(learner.weights.values())).device
        self._held, self._beta = (torch.zeros((), device=self._device) for _ in range(2))
        hold_while(learner.optimizer, self._held)
        self._unread: list[tuple[int, float]] = []  # steps done after each, and its learning rate
        self._numbers = torch.zeros(MOST if every is None else every, 3, device=self._device)
        self._every, self._count = every, 1 if every is None else every
        self._since = time.perf_counter()
        self._wanted = record
        self._replay: Recorded[Tensor] | None = None
        self._batch: Batch | None = None
        self.failure: NonFiniteError | None = None

    @property
    def recorded(self) -> bool:
        return self._replay is not None

    def take(self, batch: Batch) -> list[Learned]:
        learner, rate = self._learner, self._learner.learning_rate
        if self._wanted:
            self._record(batch)
        set_learning_rate(learner.optimizer, rate)
        self._beta.fill_(ema_beta(learner.step + 1, learner.settings.ema_gamma))
        if self._replay is None or self._batch is None:
            numbers = self._step(batch)
        else:
            self._batch.copy_(batch)
            numbers = self._replay()
        self._numbers[len(self._unread)].copy_(numbers)
        learner.step += 1
        self._unread.append((learner.step, rate))
        return self.read() if len(self._unread) >= self._count else []

    def read(self) -> list[Learned]:
        found: list[Learned] = []
        rows = self._numbers[: len(self._unread)].tolist()  # waits for the device
        for (step, rate), (loss, plain, norm) in zip(self._unread, rows, strict=True):
            learned = Learned(step, loss, plain, (norm,), rate)
            try:
                check_learned([self._learner], learned)
            except NonFiniteError as error:
                self._learner.step = step - 1
                self.failure = error
                break
            found.append(learned)
        self._set_pace(len(self._unread))
        self._unread.clear()
        return found

    def _set_pace(self, taken: int) -> None:
        now = time.perf_counter()
        if self._every is None and taken:
            self._count = min(max(1, int(SECONDS * taken / (now - self._since))), MOST)
        self._since = now

    def _record(self, batch: Batch) -> None:
        self._wanted = False
        self._batch = batch.clone()
        self._held.fill_(1.0)
        try:
            self._replay = Recorded(partial(self._step, self._batch), self._device)
        except CannotRecordError as error:
            self._batch = None
            self._learner.optimizer.zero_grad(set_to_none=True)
            self._tell(str(error))
        self._held.zero_()

    def _step(self, batch: Batch) -> Tensor:
        """The step of ``train.learner.learn``, its decisions left to the device; the numbers of a row."""
        learner = self._learner
        found, norms = gradients([learner], self._losses(batch), self._samples)
        means = mean_losses(learner, found, self._samples)
        bad = ~(means[0].isfinite() & norms.isfinite().all())
        self._held.copy_(torch.maximum(self._held, bad.to(self._held.dtype)))
        learner.optimizer.step()
        learner.optimizer.zero_grad(set_to_none=True)
        ema_follow(learner.averages, learner.weights, torch.maximum(self._held, self._beta))
        return torch.cat([means, norms])


def why_eager(learner: Learner[Any]) -> str:
    """Why the steps of ``learner`` cannot be guarded on the device; empty if they can."""
    if learner.ranks.kind is not None:
        return "several processes train the block"
    if learner.settings.optimizer != "adamw":
        return f"the step of {learner.settings.optimizer} is counted on the processor"
    if not isinstance(learner.update, Backpropagation):
        return "its gradients are not found by backpropagation"
    return ""
