"""``oneblock train images`` and ``oneblock train classify``."""

from __future__ import annotations

import ctypes
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from oneblock.cli import console
from oneblock.cli.class_options import ClassifyOptions
from oneblock.cli.image_options import ImageOptions
from oneblock.cli.options import DataOptions, MachineOptions
from oneblock.cli.text import text_batches
from oneblock.cli.text_options import CausalOptions, MaskedOptions, TextOptions, ordinary, recurrent_options
from oneblock.data import Batches
from oneblock.launch.mirror import Mirror, is_remote
from oneblock.plan import Plan, write_plan
from oneblock.presets import block_bytes, blockwise, plan_augment, plan_budget, plan_optimizer, plan_task
from oneblock.train.loop import Idle, Run
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.record import Recorder, Row
from oneblock.train.step import StepReport
from oneblock.train.strategy import Reports, job_name, job_specs, one_block, round_robin

Sent = Callable[[str, bool], None]


LARGE = 64 * 2**20
"""Bytes of a block's weights from which memory counts for more than the time of an allocation."""
M_MMAP_THRESHOLD = -3
"""Of ``mallopt``: from which size a block of memory is mapped, and unmapped when it is freed (malloc.h)."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """What the verbs that train have in common."""

    out: str
    """directory of the run; with --strategy plan-only also an fsspec address (s3://..., gs://..., sftp://...)"""
    strategy: Literal["round-robin", "one-block", "end-to-end", "plan-only"] = "round-robin"
    """all blocks in this process; one of them; the whole network as a single block; or write the plan and train nothing
    (for `oneblock job` and `oneblock launch`)"""
    block: int | None = None
    """which block to train with --strategy one-block (0 is the noisiest; -1 is the trunk of --branch)"""
    stride: int = 100
    """steps of a block before the next has its turn"""
    idle: Idle = "host"
    """where the blocks that wait for their turn are: left on the device, in host memory, or in their checkpoints"""
    json: bool = False
    """print one JSON object per row instead of progress"""
    tensorboard: bool = False
    """also write TensorBoard events"""
    machine: MachineOptions = field(default_factory=MachineOptions)

    def run(self) -> None:
        plan, source = self.prepare()
        job = self._job(plan)
        if self.strategy == "plan-only":
            self._write_plan(plan)
            return
        if is_remote(self.out):
            raise ValueError(
                f"out={self.out!r} is no path; plan with --strategy plan-only, then train with oneblock job"
            )
        run = start_run(plan, Path(self.out), source, self.machine)
        seconds = train(run, job, stride=self.stride, idle=self.idle, json=self.json, tensorboard=self.tensorboard)
        done = {"out": self.out, "plan": plan.hash, "seconds": round(seconds, 1)}
        if self.json:
            console.emit(done)
        else:
            console.say(f"trained {job or 'all blocks'} in {seconds:.0f} s; next: oneblock merge {self.out}")

    def prepare(self) -> tuple[Plan, Batches]:
        """The plan that the options ask for, and its training samples."""
        raise NotImplementedError

    def _write_plan(self, plan: Plan) -> None:
        jobs = [spec.name for spec in job_specs(plan, plan_budget(plan))]
        if is_remote(self.out):
            with TemporaryDirectory() as folder:
                write_plan(plan, Path(folder))
                Mirror(self.out, Path(folder)).push_plan()
        else:
            write_plan(plan, Path(self.out))
        if self.json:
            console.emit({"out": self.out, "plan": plan.hash, "jobs": jobs})
        else:
            console.say(f"planned {', '.join(jobs)}; next: oneblock launch {self.out}")

    def _job(self, plan: Plan) -> str | None:
        if self.strategy != "one-block":
            if self.block is not None:
                raise ValueError(f"block={self.block} goes with --strategy one-block, not {self.strategy}")
            return None
        if self.block is None:
            raise ValueError(f"--strategy one-block needs --block, from 0 to {plan.num_blocks - 1} (-1: trunk)")
        return job_name(plan, self.block)


@dataclass(frozen=True, kw_only=True)
class TrainImages(Train):
    """Train a class-conditional image generator (DiT), one block at a time.

    The same command resumes a run that was stopped. Every block is its own job: run --strategy one-block --block B on
    as many machines as there are blocks, then `oneblock merge`.
    """

    data: DataOptions = field(default_factory=DataOptions)
    model: ImageOptions = field(default_factory=ImageOptions)

    def prepare(self) -> tuple[Plan, Batches]:
        images = self.data.open("train")
        model = replace(self.model, blocks=1, layers=()) if self.strategy == "end-to-end" else self.model
        return model.plan(self.data.data, images), images


@dataclass(frozen=True, kw_only=True)
class TrainClassify(Train):
    """Train a classifier of images (ViT), one block at a time, each to denoise labels on its own band of noise.

    With --strategy end-to-end an ordinary ViT. The same command resumes a run that was stopped. Every block is its own
    job: run --strategy one-block --block B on as many machines as there are blocks, then `oneblock merge`.
    """

    data: DataOptions = field(default_factory=DataOptions)
    model: ClassifyOptions = field(default_factory=ClassifyOptions)

    def prepare(self) -> tuple[Plan, Batches]:
        images = self.data.open("train")
        model = self.model
        if self.strategy == "end-to-end":
            model = replace(model, blocks=1, layers=(), noisy_token="none", modulated=False, recipe="oneblock")
        return model.plan(self.data.data, images), images


@dataclass(frozen=True, kw_only=True)
class TrainMaskedText(Train):
    """Train masked diffusion of text (MD4, MDLM), one block at a time: each owns a band of masked shares.

    The same command resumes a run that was stopped. Every block is its own job: run --strategy one-block --block B on
    as many machines as there are blocks, then `oneblock merge`.
    """

    data: TextOptions = field(default_factory=TextOptions)
    model: MaskedOptions = field(default_factory=MaskedOptions)

    def prepare(self) -> tuple[Plan, Batches]:
        file = self.data.open()
        model = replace(self.model, blocks=1, layers=()) if self.strategy == "end-to-end" else self.model
        plan = model.plan(self.data.data, file)
        return plan, text_batches(plan, file)


@dataclass(frozen=True, kw_only=True)
class TrainText(Train):
    """Train an autoregressive language model (GPT), one block at a time: each owns a band of noise on the next token.

    With --strategy end-to-end an ordinary GPT. The same command resumes a run that was stopped. Every block is its own
    job: run --strategy one-block --block B on as many machines as there are blocks, then `oneblock merge`.
    """

    data: TextOptions = field(default_factory=TextOptions)
    model: CausalOptions = field(default_factory=CausalOptions)

    def prepare(self) -> tuple[Plan, Batches]:
        file = self.data.open()
        model = self.model
        if self.strategy == "end-to-end":
            model = ordinary(replace(model, blocks=1, layers=()))
        plan = model.plan(self.data.data, file)
        return plan, text_batches(plan, file)


@dataclass(frozen=True, kw_only=True)
class TrainRecurrentText(TrainText):
    """Train a language model of recurrent depth with a single pass a step, as a denoiser that is called many times.

    --prelude layers read the text once, those of --depth are called at every noise level, --coda layers read out. With
    --strategy end-to-end an ordinary GPT of the same layers. `oneblock evaluate` and `sample` take --token-calls.
    """

    model: CausalOptions = field(default_factory=recurrent_options)


def start_run(plan: Plan, out: Path, source: Batches, machine: MachineOptions, ranks: Ranks = ALONE) -> Run:
    """Claim ``out`` for ``plan`` (another run's directory is refused) and gather what its jobs need."""
    task = plan_task(plan)
    budget = plan_budget(plan)
    job_specs(plan, budget)
    device = machine.torch_device()
    if device.type == "cpu" and block_bytes(plan) >= LARGE:
        _return_memory()
    write_plan(plan, out)
    return Run(
        plan=plan,
        directory=out,
        blockwise=blockwise(plan),
        task=task,
        source=source,
        settings=plan_optimizer(plan),
        augment=plan_augment(plan),
        device=device,
        ranks=ranks,
        checkpointing=machine.checkpointing,
        compile=machine.compile,
        save_every=machine.save_every,
        keep=machine.keep,
        warn=lambda message: console.say(f"oneblock: {message}; going on from an earlier checkpoint"),
    )


def _return_memory() -> None:
    """Have glibc hand freed tensors back to the system at once, for the rest of this process.

    Left alone it comes to keep them in a heap, where gradients and activations leave each other holes: a ninth more
    memory for a block of 256 MiB. Handing back costs small networks a fifth of their speed, large ones nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def train(
    run: Run,
    job: str | None,
    *,
    stride: int = 100,
    idle: Idle = "host",
    json: bool = False,
    tensorboard: bool = False,
    quiet: bool = False,
    label: str = "",
    sent: Sent | None = None,
) -> float:
    """Train one job, or all in turn, to the end; returns the seconds it took. Metrics and heartbeats go to the run's
    directory.

    Args:
        sent: called with a job's name after each of its steps, and once more, with True, when it ends, stops or fails.
    """
    budget = plan_budget(run.plan)
    totals = {spec.name: (spec.first_step, spec.last_step) for spec in job_specs(run.plan, budget)}
    reports: Reports = one_block(run, budget, job) if job else round_robin(run, budget, stride, idle)
    began = time.perf_counter()
    if not run.ranks.first:  # the first process writes and shows for all
        with _interruptible(reports):
            for _ in reports:
                pass
        return time.perf_counter() - began
    writer = _Writer(run.directory) if tensorboard else None
    with _recorded(run.directory, sent) as record, _interruptible(reports):
        shown = reports if json or quiet else console.progress(reports, totals, label)
        for report in shown:
            row = record(report)
            if row is not None and writer is not None:
                for name in ("loss", "plain", "grad_norm", "learning_rate"):
                    writer.add_scalar(f"{report.job}/{name}", row[name], report.step)
            if row is not None and json:
                console.emit(row)
    return time.perf_counter() - began


@contextmanager
def _recorded(directory: Path, sent: Sent | None) -> Iterator[Callable[[StepReport], Row | None]]:
    """A function that records a report; afterwards the heartbeats tell how it ended."""
    recorder = Recorder(directory)
    jobs: set[str] = set()

    def record(report: StepReport) -> Row | None:
        jobs.add(report.job)
        row = recorder.add(report)
        if sent is not None:
            sent(report.job, False)
        return row

    try:
        yield record
    except BaseException as error:
        recorder.close(error)
        raise
    finally:
        if sent is not None:
            for job in jobs:
                sent(job, True)


@contextmanager
def _interruptible(reports: Reports) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run between two steps, with a checkpoint."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        reports.close()


class _Writer:
    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("--tensorboard needs tensorboard; pip install 'oneblock[report]'") from error
        self._writer = SummaryWriter(str(directory / "tensorboard"))

    def add_scalar(self, name: str, value: float | str, step: int) -> None:
        self._writer.add_scalar(name, float(value), step)
        self._writer.flush()
