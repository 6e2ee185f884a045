"""The driver: trains the jobs of a run to their end, writes metrics, heartbeats and sessions, and saves when it is
stopped."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oneblock.train.checkpoint import job_folder
from oneblock.train.loop import Run
from oneblock.train.progress import progress
from oneblock.train.record import Recorder, Row
from oneblock.train.session import Session, add_session, this_session
from oneblock.train.step import StepReport
from oneblock.train.stop import stoppable
from oneblock.train.strategy import TRUNK, Turns, all_blocks, job_specs, one_block

Reports = Generator[StepReport, None, None]


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a training is watched; none of it changes what is learned.

    Args:
        bars: show progress on standard error: bars on a terminal, elsewhere a line now and then.
        label: stands before the names of jobs there.
        row: called with every row of metrics.
        sent: called with a job's name after each of its steps, and once more, with True, when it ends, stops or fails.
        every, at: after ``every`` steps of a job (0: never) ``at`` is called with its name and step; checkpoints are
            written at least as often.
        tensorboard: also write TensorBoard events.
        warn: told of problems that do not stop the training, e.g. a damaged checkpoint that was passed over.
    """

    bars: bool = True
    label: str = ""
    row: Callable[[Row], None] | None = None
    sent: Callable[[str, bool], None] | None = None
    every: int = 0
    at: Callable[[str, int], None] | None = None
    tensorboard: bool = False
    warn: Callable[[str], None] = _warn

    def __post_init__(self) -> None:
        if self.tensorboard:
            _summary_writer()  # refused, if at all, before any work


BARS = Watch()
"""Bars on a terminal, and nothing else."""


def drive(run: Run, job: str | None = None, *, turns: Turns | None = None, watch: Watch = BARS) -> float:
    """Train one job, or all, to the end; the seconds that it took. Metrics and heartbeats go to the run's directory. A
    signal (``train.stop``) ends it after the step that is being taken, with a checkpoint.

    Args:
        job: its name; None trains all (``train.strategy.all_blocks``).
        turns: of the blocks, where all train; None trains one after the other.
    """
    if watch.every:
        run = replace(run, save_every=min(run.save_every, watch.every))
    specs = [spec for spec in job_specs(run.plan) if job in (None, spec.name)]
    totals = {spec.name: (spec.first_step, spec.last_step) for spec in specs}
    reports = one_block(run, job) if job else all_blocks(run, turns)
    together = run.ranks.size > 1 or (run.plan.shared == "synced" and job not in (None, TRUNK))
    silent = not run.ranks.first
    return watched(reports, run.directory, totals, watch, silent=silent, together=together, note=run.note)


def watched(
    reports: Reports,
    directory: Path,
    totals: Mapping[str, tuple[int, int]],
    watch: Watch,
    silent: bool = False,
    together: bool = False,
    note: str = "",
) -> float:
    """Go through ``reports`` to their end; the seconds that it took.

    Args:
        directory: gets metrics and heartbeats.
        totals: first and last step of each job.
        silent: another process writes and shows for all.
        together: other processes take part, and ``reports`` see to it that all stop at the same step.
        note: what the record of every job must say.
    """
    began = time.perf_counter()
    if silent:
        with stoppable(together) as between_steps, closing(reports):
            for _ in reports:
                between_steps()
        return time.perf_counter() - began
    writer = _Writer(directory) if watch.tensorboard else None
    with stoppable(together) as between_steps, _recorded(directory, watch, note) as record, closing(reports):
        for report in progress(reports, totals, watch.label) if watch.bars else reports:
            row = record(report)
            if row is not None and writer is not None:
                writer.add(row)
            if row is not None and watch.row is not None:
                watch.row(row)
            if watch.at is not None and watch.every and report.step % watch.every == 0:
                watch.at(report.job, report.step)
            if report.latest:
                between_steps()
    return time.perf_counter() - began


@contextmanager
def _recorded(directory: Path, watch: Watch, note: str) -> Iterator[Callable[[StepReport], Row | None]]:
    """A function that records a report; afterwards the heartbeats tell how it ended, and the sessions what it took."""
    recorder = Recorder(directory, note=note)
    jobs: set[str] = set()
    sessions: dict[str, Session] = {}

    def ended(job: str) -> None:
        add_session(job_folder(directory, job), sessions.pop(job).ended())

    def record(report: StepReport) -> Row | None:
        if report.job not in jobs:
            sessions[report.job] = this_session()
            add_session(job_folder(directory, report.job), sessions[report.job])
        jobs.add(report.job)
        row = recorder.add(report)
        if report.step == report.num_steps:
            ended(report.job)
        if watch.sent is not None:
            watch.sent(report.job, False)
        return row

    try:
        yield record
    except BaseException as error:
        recorder.close(error)
        raise
    finally:
        for job in list(sessions):
            ended(job)
        if watch.sent is not None:
            for job in jobs:
                watch.sent(job, True)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("--tensorboard needs tensorboard; pip install 'oneblock[report]'") from error
    return SummaryWriter


class _Writer:
    def __init__(self, directory: Path) -> None:
        self._writer: Any = _summary_writer()(str(directory / "tensorboard"))

    def add(self, row: Row) -> None:
        for name in row.keys() - {"job", "step", "num_steps", "layer_evaluations"}:
            self._writer.add_scalar(f"{row['job']}/{name}", float(row[name]), row["step"])
        self._writer.flush()
