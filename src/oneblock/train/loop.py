"""The loop: a generator that trains one job and yields a report each step.

Every random number of step s follows from (plan.seed, job, s), so a run that was killed and resumed equals one that
was not, bit for bit, and a block comes out the same from one process or from many.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from oneblock.blockwise import BlockDenoiser, Blockwise
from oneblock.data import Augment, Batches
from oneblock.plan import Plan
from oneblock.tasks.base import Task
from oneblock.train.checkpoint import Stamp, checkpoint_path, keep_last, latest, save_checkpoint
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.step import JobSpec, OptimizerSettings, StepReport, TrainState, train_step

Idle = Literal["device", "host", "disk"]


class BusyError(RuntimeError):
    """Another process trains this job."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that the jobs of one directory have in common.

    Args:
        plan: what must agree; ``directory/plan.json`` holds it.
        directory: gets ``block-b/`` (and ``seed/``) with checkpoints.
        blockwise: builds blocks.
        task, source, settings: what is learned, from what, and how.
        augment: changes training images at random.
        device: where the block being trained lives.
        ranks: the processes that train the block together.
        checkpointing: recompute activations layer by layer in the backward pass.
        compile: pass the network, and an optimizer's step that is no fused kernel, through ``torch.compile``.
        save_every, keep: steps between checkpoints, and how many are kept.
        warn: is told about damaged checkpoints that were passed over.
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
    save_every: int = 500
    keep: int = 2
    warn: Callable[[str], None] = lambda message: None


def train_job(
    run: Run, spec: JobSpec, start: Path | None = None, turn: int | None = None, idle: Idle = "host"
) -> Generator[StepReport, None, None]:
    """Train the job to its last step, from its newest intact checkpoint; yields after every step.

    Closing the generator between steps saves a checkpoint first, unless several processes train the block: the others
    may be in the middle of a step, and cannot help to put a checkpoint together.

    Args:
        start: directory of the job that this one starts as a copy of, when it has no checkpoint of its own.
        turn: the job is idle after every ``turn`` steps, from the yield to the next step, while others train.
        idle: where weights, averages and moments are meanwhile: left on the device, moved to host memory, or in the
            checkpoint alone.
    """
    directory = run.directory / spec.name
    with lock(directory) if run.ranks.first else nullcontext():
        state = restore(run, spec, start)
        saved = False
        taken = 0
        try:
            while state.step < spec.last_step:
                report = advance(run, state)
                taken += 1
                away = idle if turn is not None and taken % turn == 0 else "device"
                if state.step % run.save_every == 0 or state.step == spec.last_step or away == "disk":
                    save(run, state)
                if away == "device":
                    yield report
                elif away == "host":
                    state.to(torch.device("cpu"))
                    yield report
                    state.to(run.device)
                else:
                    del state  # nothing else holds its tensors
                    saved = True
                    yield report
                    state, saved = restore(run, spec, start), False
        except GeneratorExit:
            if not saved and run.ranks.size == 1:
                save(run, state)
            raise


def advance(run: Run, state: TrainState) -> StepReport:
    """The next step of a job: its batch, its noise, the update."""
    spec, step = state.spec, state.step
    generator = torch.Generator().manual_seed(run.plan.derive_seed("noise", spec.name, step))
    samples = run.source.batch(step, spec.batch_size, run.plan.derive_seed("data", spec.name))
    if run.augment is not None:
        samples = samples._replace(values=run.augment(samples.values, generator))
    sigma = run.plan.partition.levels(*spec.band, len(samples.values), generator)
    # drawn for the whole batch, so that it does not matter how many processes and micro-batches share it
    batch = run.task.draw(samples, sigma, spec.block, generator)
    return train_step(state, run.task, batch.split(run.ranks.size)[run.ranks.rank].to(run.device))


def restore(run: Run, spec: JobSpec, start: Path | None, step: int | None = None) -> TrainState:
    """The job's state after ``step`` steps (None: after those of its newest intact checkpoint), or where it starts."""
    found = latest(run.directory / spec.name, run.plan.hash, step)
    if found is None and start is not None:
        found = latest(start, run.plan.hash)
        if found is None or found[1].step != spec.first_step:
            raise ValueError(
                f"{spec.name} starts from {start}, which is not trained to its end; train that block first"
            )
        tensors, stamp, problems = found
        found = tensors.renamed(partial(_in_place, layers=spec.layers)), stamp, problems
    state = TrainState(spec, _build(run, spec), run.settings, run.ranks, run.device, found is None, run.compile)
    if found is not None:
        tensors, stamp, problems = found
        for problem in problems:
            run.warn(problem)
        state.load(tensors, stamp.step)
    if not run.ranks.agree(state.step):
        raise ValueError(
            f"the processes of {spec.name} see different checkpoints (this one: step {state.step}); give all of them "
            f"the same directory {run.directory}"
        )
    if run.compile:
        state.denoiser.compile()
    return state


def _build(run: Run, spec: JobSpec) -> BlockDenoiser:
    # The seed block has the shape of block 0 and, as a job of its own, the same initial weights.
    denoiser = run.blockwise.denoiser(spec.block or 0, run.checkpointing)
    # shards are cut layer by layer, so that the device never holds the whole block
    return denoiser if run.ranks.kind == "fsdp" else denoiser.to(run.device)


def _in_place(name: str, layers: range) -> str:
    """The seed block's layers 0, 1, ... take the places of this block's layers."""
    kind, _, path = name.partition("/")
    head, _, rest = path.partition(".")
    if head == "layers":
        index, _, rest = rest.partition(".")
        path = f"layers.{layers[int(index)]}.{rest}"
    return f"{kind}/{path}"


def save(run: Run, state: TrainState) -> None:
    """Write a checkpoint and delete those that are no longer kept."""
    directory = run.directory / state.spec.name
    stamp = Stamp(run.plan.hash, state.spec.name, state.step, state.spec.last_step)
    tensors = state.tensors()
    if run.ranks.first:
        save_checkpoint(checkpoint_path(directory, state.step), tensors, stamp)
        keep_last(directory, run.keep, state.step)


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """At most one process trains a job; the lock falls with the process, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"{directory} is being trained by another process; wait for it or stop it") from error
        yield
