"""Training of rivals, stage by stage, by the loop and the engine that train blocks."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic

from oneblock.data import Augment
from oneblock.rivals.base import Data, Rival, RivalSettings, Sampled, Stage, Trained, draw
from oneblock.train.checkpoint import (
    Stamp,
    Stored,
    checkpoint_path,
    keep_last,
    latest,
    newer,
    save_checkpoint,
    set_aside,
)
from oneblock.train.learner import learn
from oneblock.train.loop import locked, steps
from oneblock.train.step import StepReport


def train_rival(
    rival: Rival[Data],
    source: Data,
    settings: RivalSettings,
    directory: Path | None = None,
    augment: Augment | None = None,
    *,
    stages: Sequence[Stage[Any]] | None = None,
    fingerprint: str = "",
    save_every: int = 500,
    keep: int = 2,
    warn: Callable[[str], None] = lambda message: None,
) -> Generator[StepReport, None, None]:
    """Train ``rival`` to its end, from where ``directory`` says; yields after every step. Closing the generator between
    steps saves first.

    Args:
        directory: gets a folder with checkpoints for each part; None writes no files.
        augment: changes training images at random.
        stages: of ``rival``, where they have been asked for already.
        fingerprint: of the data and of how they are changed: checkpoints with another one are refused. A plan's
            hash will do.
        save_every, keep: steps between checkpoints, and how many are kept of each part.
        warn: is told about damaged checkpoints that were passed over.

    Raises:
        ValueError: the data do not fit the network, the budget does not pay for a step of every part, or a checkpoint
            is of another training.
        NonFiniteError: before the update.
    """
    files = None
    if directory is not None:
        if not fingerprint:
            raise ValueError("fingerprint='' does not identify the data; with a directory give source.fingerprint()")
        files = Files(directory, training_hash(rival, settings, fingerprint), keep, warn)
    for stage in rival.stages(source, settings, augment is not None) if stages is None else stages:
        job = StageJob(stage, partial(_batch, source, settings, stage, augment), files)
        yield from steps(job, save_every)
        stage.end(job.learners)


def step_seconds(
    rival: Rival[Data], source: Data, settings: RivalSettings, augment: Augment | None = None, least: float = 0.5
) -> float:
    """Processor seconds of a step of the first stage of ``rival``: of all threads, over steps that take ``least``
    together, after one that warms up. Nothing of them stays."""
    stage = rival.stages(source, settings, augment is not None)[0]
    job = StageJob(stage, partial(_batch, source, settings, stage, augment), None)
    job.restore()
    job.advance()
    began, done = time.process_time(), 0
    while time.process_time() - began < least or not done:
        job.step = 0
        job.advance()
        done += 1
    return (time.process_time() - began) / done


def training_hash(rival: Rival[Any], settings: RivalSettings, fingerprint: str) -> str:
    """SHA-256 (16 hex digits) of all that the outcome depends on; not of the device, on which it may go on."""
    plain = {key: value for key, value in asdict(settings).items() if key != "device"}
    values = {"rival": rival.name, "described": rival.describe(), "settings": plain, "fingerprint": fingerprint}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _batch(source: Any, settings: RivalSettings, stage: Stage[Any], augment: Augment | None, step: int) -> Sampled:
    return draw(source, settings, stage.part, step, augment, stage.views)


@dataclass(frozen=True)
class Files:
    """Where the parts of a rival keep their checkpoints, stamped with ``made_for``."""

    directory: Path
    made_for: str
    keep: int
    warn: Callable[[str], None]


class StageJob(Generic[Trained]):
    """A ``train.loop.Job``: one stage. A checkpoint holds all its learners.

    Args:
        batch: the batch of a step.
        files: None writes none.
    """

    learners: Trained

    def __init__(self, stage: Stage[Trained], batch: Callable[[int], Sampled], files: Files | None) -> None:
        self.stage = stage
        self.step = 0
        self.last_step = len(stage.costs)
        self._batch = batch
        self._files = files
        self._work = list(accumulate(stage.costs))

    def lock(self) -> AbstractContextManager[None]:
        return locked(self._files.directory / self.stage.part) if self._files else nullcontext()

    def restore(self) -> None:
        self.learners = self.stage.learners()
        if self._files is None:
            return
        folder = self._files.directory / self.stage.part
        found = latest(folder, self._files.made_for, misfit=self._misfit)
        if found is None:
            return
        tensors, stamp, problems = found
        for path in newer(folder, stamp.step):
            set_aside(path)
        for problem in problems:
            self._files.warn(problem)
        for learner in self.learners:  # one may have made steps in stages before
            learner.load(tensors.below(learner.course.name), learner.step + stamp.step)
        self.step = stamp.step

    def _misfit(self, tensors: Stored, stamp: Stamp) -> str:
        if stamp.step > self.last_step:
            return f"it is of step {stamp.step}, and this part has {self.last_step}"
        parts = {one.course.name: tensors.below(one.course.name) for one in self.learners}
        other = sorted(set(tensors) - {f"{part}/{name}" for part, found in parts.items() for name in found})
        wrong = [one.misfit(parts[one.course.name]) for one in self.learners]
        return "; ".join(filter(None, [f"only it has {', '.join(other[:3])}" if other else "", *wrong]))

    def advance(self) -> list[StepReport]:
        batch, step = self._batch(self.step), self.step
        learned = [
            learn(lesson.learners, [lesson.loss], len(batch.images))
            for lesson in self.stage.lessons(self.learners, batch)
        ]
        self.step += 1
        loss = sum(one.loss for one in learned) / len(learned)
        report = StepReport(
            job=self.stage.part,
            block=None,
            first_step=0,
            step=self.step,
            num_steps=self.last_step,
            loss=loss,
            plain=loss,
            grad_norm=math.hypot(*(norm for one in learned for norm in one.norms)),
            learning_rate=learned[0].learning_rate,
            layer_evaluations=self.stage.costs[step],
            work=self._work[step],
        )
        return [report]

    def read(self) -> list[StepReport]:
        return []

    def save(self) -> None:
        if self._files is None:
            return
        folder = self._files.directory / self.stage.part
        for learner in self.learners:
            learner.check_finite()
        tensors = {f"{one.course.name}/{name}": t for one in self.learners for name, t in one.tensors().items()}
        stamp = Stamp(self._files.made_for, self.stage.part, self.step, self.last_step)
        save_checkpoint(checkpoint_path(folder, self.step), tensors, stamp)
        keep_last(folder, self._files.keep, self.step)

    def close(self) -> None:
        self.save()

    def release(self) -> None:
        """Nothing works for it."""
