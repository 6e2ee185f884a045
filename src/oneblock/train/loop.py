"""The loop: a generator that trains one job and yields a report each step.

Every random number of step s follows from (plan.seed, job, s), so on one kind of device a run that was killed and
resumed equals one that was not, bit for bit, and a block comes out the same from one process or from many.
"""

from __future__ import annotations

import fcntl
import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch

from oneblock.blockwise import BlockDenoiser, Blockwise
from oneblock.data import Augment, Batches
from oneblock.plan import Plan
from oneblock.relay import RelayAdapter
from oneblock.tasks.base import Task
from oneblock.tasks.relay import RelayText
from oneblock.train.block import BlockLearner, block_learner, block_losses, compile_layers, report_of
from oneblock.train.border import block_before
from oneblock.train.checkpoint import (
    Stamp,
    Stored,
    checkpoint_path,
    job_folder,
    keep_last,
    latest,
    newer,
    save_checkpoint,
    set_aside,
)
from oneblock.train.evolve import job_update
from oneblock.train.feed import Feed
from oneblock.train.learner import Learned
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.rollout import Rollouts
from oneblock.train.step import JobSpec, OptimizerSettings, StepReport
from oneblock.train.stepper import EagerStepper, GuardedStepper, Stepper, why_eager
from oneblock.train.stop import asked

Idle = Literal["device", "host", "disk"]


class BusyError(RuntimeError):
    """Another process trains this job."""


class Job(Protocol):
    """What ``steps`` trains: something with a first and a last step, and files where it goes on after a stop."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def last_step(self) -> int: ...

    def lock(self) -> AbstractContextManager[None]:
        """Held while it trains, so that no other process does."""

    def restore(self) -> None:
        """Build it from its newest intact checkpoint, or as it starts."""

    def advance(self) -> Sequence[StepReport]:
        """Do the next step; reports of the steps that are known by now, in order."""

    def read(self) -> Sequence[StepReport]:
        """Reports of all steps that there are none of yet."""

    def save(self) -> None:
        """Write a checkpoint; every step has been read."""

    def close(self) -> None:
        """Training stops between two steps: save what can be saved."""

    def release(self) -> None:
        """Training is over, however it ended: let go of what works for it."""


def steps(job: Job, save_every: int) -> Generator[StepReport, None, None]:
    """Train ``job`` to its last step, from where its files say; yields a report of every step, of several together
    where they were read together. Closing the generator after the latest one saves first."""
    with job.lock():
        job.restore()
        try:
            while job.step < job.last_step:
                reports = job.advance()
                if job.step % save_every == 0 or job.step == job.last_step:
                    reports = [*reports, *job.read()]
                    job.save()
                yield from reports
        except GeneratorExit:
            job.close()
            raise
        finally:
            job.release()


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that the jobs of one directory have in common.

    Args:
        plan: what must agree; ``directory/plan.json`` holds it.
        directory: gets ``block-b/`` (and ``trunk/``) with checkpoints.
        blockwise: builds blocks.
        task, source, settings: what is learned, from what, and how.
        augment: changes training images at random.
        device: where the block being trained lives.
        ranks: the processes that train the block together.
        checkpointing: recompute activations layer by layer in the backward pass.
        compile: pass layers, and an optimizer's step unless it is a fused kernel, through ``torch.compile``.
        capture: record a step once and replay it (``train.stepper``).
        prefetch: a thread reads the samples ahead (``train.feed``).
        save_every, keep: steps between checkpoints, and how many are kept.
        reseed: seed torch's own generators before every step, for networks that draw from them (dropout).
        warn: is told about damaged checkpoints that were passed over.
        note: what the record must say of this run, e.g. that its data have changed; empty for nothing.
    """

    plan: Plan
    directory: Path
    blockwise: Blockwise
    task: Task
    source: Batches
    settings: OptimizerSettings
    augment: Augment | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ranks: Ranks = ALONE
    checkpointing: bool = False
    compile: bool = False
    capture: bool = False
    prefetch: bool = False
    save_every: int = 500
    keep: int = 2
    reseed: bool = False
    warn: Callable[[str], None] = lambda message: None
    note: str = ""


class BlockJob:
    """A ``Job``: one block of a run.

    Args:
        start: directory of the job that this one starts as a copy of, when it has no checkpoint of its own.
    """

    def __init__(self, run: Run, spec: JobSpec, start: Path | None = None) -> None:
        self.run = run
        self.spec = spec
        self.start = start
        self.last_step = spec.last_step
        self.folder = job_folder(run.directory, spec.name)
        self._learner: BlockLearner | None = None
        self._feed: Feed | None = None
        self._stepper: Stepper | None = None
        self._rollouts: Rollouts | None = None
        self._saved: int | None = None

    @property
    def learner(self) -> BlockLearner:
        assert self._learner is not None, f"{self.spec.name} is not in memory"
        return self._learner

    @property
    def step(self) -> int:
        return self.learner.step

    def lock(self) -> AbstractContextManager[None]:
        return locked(self.folder) if self.run.ranks.first else nullcontext()

    def restore(self, step: int | None = None) -> None:
        """Its state after ``step`` steps (None: after those of its newest intact checkpoint), or where it starts."""
        run, spec = self.run, self.spec
        update = job_update(run.plan, spec, run.ranks)
        self._learner = block_learner(spec, self._build(), run.settings, run.ranks, run.device, run.compile, update)
        if isinstance(run.task, RelayText):
            before = block_before(run.directory, run.blockwise, spec, run.device)
            self._rollouts = Rollouts(run.plan, spec, run.task, self.learner.ranks, before)
        found = latest(self.folder, run.plan.hash, step, self._misfit)
        if found is not None and self._rollouts is not None:
            self._rollouts.load(found[0], run.device)
        if found is not None and step is None and run.ranks.first:
            for path in newer(self.folder, found[1].step):
                set_aside(path)
        if found is None and self.start is not None:
            found = self._from_start(self.start)
        if found is not None:
            tensors, stamp, problems = found
            for problem in problems:
                run.warn(problem)
            self.learner.load(tensors, stamp.step)
        if not run.ranks.agree(self.step):
            raise ValueError(
                f"the processes of {spec.name} see different checkpoints (this one: step {self.step}); give all of "
                f"them the same directory {run.directory}"
            )
        if run.compile and update is None:
            compile_layers(self.learner.module)

    def _from_start(self, start: Path) -> tuple[Stored, Stamp, list[str]]:
        """The trunk's last state, under the names of this block."""

        def placed(tensors: Stored) -> Stored:
            return tensors.renamed(partial(_in_place, layers=self.spec.layers))

        found = latest(start, self.run.plan.hash, misfit=lambda tensors, _: self.learner.misfit(placed(tensors)))
        if found is None or found[1].step != self.spec.first_step:
            why = f" ({'; '.join(found[2])})" if found and found[2] else ""
            raise ValueError(
                f"{self.spec.name} starts from {start}, which is not trained to its end{why}; train that block first"
            )
        tensors, stamp, problems = found
        return placed(tensors), stamp, problems

    def _misfit(self, tensors: Stored, stamp: Stamp) -> str:
        return check_stamp(stamp, self.spec) or self.learner.misfit(tensors)

    def advance(self) -> list[StepReport]:
        """The next step: its batch, its noise, the update."""
        run, spec, step = self.run, self.spec, self.step
        feed, stepper = self._begun()
        if stepper.failure is not None:
            raise stepper.failure
        batch = feed.batch(step)
        seed = run.plan.derive_seed("network", spec.stream, step)
        with seeded(seed, run.device) if run.reseed and not stepper.recorded else nullcontext():
            return self._reports(stepper.take(batch))

    def read(self) -> list[StepReport]:
        return [] if self._stepper is None else self._reports(self._stepper.read())

    def _begun(self) -> tuple[Feed, Stepper]:
        """What gives batches, and what takes steps; made when the first step is taken, and after every pause."""
        run, spec = self.run, self.spec
        if self._feed is None:
            self._feed = Feed(
                run.plan,
                spec,
                run.task,
                run.source,
                run.device,
                first=self.step,
                augment=run.augment,
                prefetch=run.prefetch,
                ranks=self.learner.ranks,
            )
        if self._stepper is None:
            self._stepper = self._make_stepper()
        return self._feed, self._stepper

    def _make_stepper(self) -> Stepper:
        run, spec, learner = self.run, self.spec, self.learner
        losses = partial(block_losses, learner, run.task)
        if self._rollouts is not None:
            losses = partial(self._rollouts.losses, learner)
        if not run.capture:
            return EagerStepper(learner, losses, spec.batch_size)
        why = "blocks that share stem and head take turns" if run.plan.shared != "private" else why_eager(learner)
        why = "it learns from rollouts" if self._rollouts is not None else why
        if why:
            self._tell_eager(why)
            return EagerStepper(learner, losses, spec.batch_size)
        return GuardedStepper(learner, losses, spec.batch_size, tell=self._tell_eager)

    def _tell_eager(self, why: str) -> None:
        self.run.warn(f"{self.spec.name}: its steps are launched one kernel after the other, not recorded: {why}")

    def _reports(self, learned: Sequence[Learned]) -> list[StepReport]:
        found = [report_of(self.spec, one, one is learned[-1]) for one in learned]
        return [replace(one, more=self._of_states()) if one.latest else one for one in found]

    def _of_states(self) -> dict[str, float]:
        """What there is to say of states after the latest step; waits for the device only where there are some."""
        backbone = self.learner.module.backbone
        found = {} if self._rollouts is None else self._rollouts.diagnostics()
        return {**found, "state_opening": backbone.opening} if isinstance(backbone, RelayAdapter) else found

    def save(self) -> None:
        """Write a checkpoint, unless this process has written one at this step, and delete those that are no longer
        kept."""
        if self._saved == self.step:
            return
        self.learner.check_finite()
        stamp = Stamp(self.run.plan.hash, self.folder.name, self.step, self.last_step)
        tensors = self.learner.tensors()
        if self._rollouts is not None:
            tensors |= self._rollouts.tensors()
        if self.run.ranks.first:
            save_checkpoint(checkpoint_path(self.folder, self.step), tensors, stamp)
            keep_last(self.folder, self.run.keep, self.step)
        self._saved = self.step

    def stop_together(self) -> None:
        """Of several processes that train the block: where one was asked to stop, all write a checkpoint and stop."""
        if self.run.ranks.size > 1 and self.run.ranks.any(asked()):
            self.save()
            raise KeyboardInterrupt

    def close(self) -> None:
        # of several processes the others may be in the middle of a step, and cannot help to put a checkpoint together
        if self._learner is not None and self.run.ranks.size == 1:
            self.save()

    def release(self) -> None:
        self._pause()
        self._rollouts = None
        self._learner = None  # nothing else holds its tensors
        if self.run.compile:
            gc.collect()  # but for compiled layers, which hold themselves

    def _pause(self) -> None:
        if self._feed is not None:
            self._feed.close()
        if self._stepper is not None:
            self._stepper.close()
        self._feed = self._stepper = None

    def leave(self, idle: Idle) -> None:
        """Make room on the device, between two steps that have been read."""
        self._pause()
        if idle == "disk":
            self.save()
            self.release()
        elif idle == "host":
            self.learner.to(torch.device("cpu"))

    def come_back(self) -> None:
        """Undo ``leave``."""
        if self._learner is None:
            self.restore()
        else:
            self.learner.to(self.run.device)

    def _build(self) -> BlockDenoiser:
        # The trunk has the shape of block 0 and, as a job of its own, the same initial weights.
        denoiser = self.run.blockwise.denoiser(self.spec.block or 0, self.run.checkpointing)
        # shards are cut layer by layer, so that the device never holds the whole block
        return denoiser if self.run.ranks.kind == "fsdp" else denoiser.to(self.run.device)


def train_job(
    run: Run,
    spec: JobSpec,
    start: Path | None = None,
    turn_over: Callable[[], bool] | None = None,
    idle: Idle = "host",
) -> Generator[StepReport, None, None]:
    """Train a block to its last step, from its newest intact checkpoint; yields after every step.

    Closing the generator between steps saves a checkpoint first, unless several processes train the block: these stop
    together, with a checkpoint, once a signal has asked one of them (``train.stop``).

    Args:
        start: see ``BlockJob``.
        turn_over: asked after every step but the last whether the job is idle from the yield to the next step, while
            others train; None is never.
        idle: where weights, averages and moments are meanwhile: left on the device, moved to host memory, or in the
            checkpoint alone.
    """
    job = BlockJob(run, spec, start)
    with closing(steps(job, run.save_every)) as reports:
        for report in reports:
            may_wait = report.latest and report.step < report.num_steps
            waits = may_wait and turn_over is not None and turn_over()
            if waits and idle != "device":
                job.leave(idle)
                yield report
                job.come_back()
            else:
                yield report
            job.stop_together()


def check_stamp(stamp: Stamp, spec: JobSpec) -> str:
    """What is wrong with the steps of a job's checkpoint; empty if nothing is."""
    if spec.first_step <= stamp.step <= spec.last_step == stamp.num_steps:
        return ""
    return (
        f"it is of step {stamp.step} of {stamp.num_steps}, and {spec.name} goes from {spec.first_step} to "
        f"{spec.last_step}"
    )


def _in_place(name: str, layers: range) -> str:
    """The trunk's layers 0, 1, ... take the places of this block's layers."""
    kind, _, path = name.partition("/")
    head, _, rest = path.partition(".")
    if head == "layers":
        index, _, rest = rest.partition(".")
        if not index.isdecimal() or int(index) >= len(layers):
            return name  # of no layer of the trunk
        path = f"layers.{layers[int(index)]}.{rest}"
    return f"{kind}/{path}"


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's own generators start from ``seed``, and go on afterwards as if nothing had been drawn."""
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the other cards too
        for card in cards:
            with torch.cuda.device(card):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """At most one process trains a job; the lock falls with the process, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"{directory} is being trained by another process; wait for it or stop it") from error
        yield
