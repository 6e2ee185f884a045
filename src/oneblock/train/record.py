"""What a job tells others while it trains: metrics as JSON lines, and a heartbeat, both in the job's directory.

A resumed job forgets the metrics that lie after its checkpoint. The heartbeat is one small file, written anew every few
seconds; whoever can read the directory sees where the job stands, without asking the process.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from oneblock.train.checkpoint import job_folder
from oneblock.train.step import StepReport

HEARTBEAT_FILE = "heartbeat.json"
METRICS_FILE = "metrics.jsonl"
NOTES_FILE = "notes.jsonl"
"""What must be known of a job's training beside its metrics, for example that its data changed on the way."""
Row = dict[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The last sign of life of a job.

    Args:
        steps_per_second: since the sign before this one, by a clock that never jumps; None at the first.
        time: when, in seconds since 1970 by the clock of ``host``.
        state: training; stopped between two steps; at its last step; or ended by ``error``.
    """

    job: str
    step: int
    num_steps: int
    loss: float
    steps_per_second: float | None
    time: float
    host: str
    process: int
    state: Literal["running", "stopped", "done", "failed"]
    error: str = ""


@dataclass(frozen=True)
class Note:
    """A remark on a job after ``step`` steps, at ``time`` (seconds since 1970)."""

    job: str
    step: int
    time: float
    note: str


class Recorder:
    """Averages step reports over ``every`` steps, appends them to ``metrics.jsonl`` in the job's folder, and
    keeps ``heartbeat.json`` there fresh.

    Args:
        directory: of the run.
        every: steps per row.
        beat_seconds: between two heartbeats of a job.
        note: goes to ``notes.jsonl`` of every job, with the step before which it holds; empty for nothing.
    """

    def __init__(self, directory: Path, every: int = 50, beat_seconds: float = 5.0, note: str = "") -> None:
        self.directory = directory
        self.note = note
        self.every = every
        self.beat_seconds = beat_seconds
        self._last: dict[str, StepReport] = {}
        self._beats: dict[str, tuple[float, int]] = {}
        self._sums: dict[str, list[StepReport]] = {}
        self._started: set[str] = set()

    def add(self, report: StepReport) -> Row | None:
        """Take a report; returns the row when one is written."""
        path = job_folder(self.directory, report.job) / METRICS_FILE
        if report.job not in self._started:
            self._started.add(report.job)
            forget_after(path, report.step - 1)
            if self.note:
                add_note(path.with_name(NOTES_FILE), Note(report.job, report.step - 1, time.time(), self.note))
        self._last[report.job] = report
        at, _ = self._beats.get(report.job, (float("-inf"), 0))
        if report.step == report.num_steps or time.perf_counter() - at >= self.beat_seconds:
            self._beat(report, "done" if report.step == report.num_steps else "running")
        pending = self._sums.setdefault(report.job, [])
        pending.append(report)
        if report.step % self.every and report.step != report.num_steps:
            return None
        row: Row = {
            "job": report.job,
            "step": report.step,
            "num_steps": report.num_steps,
            "learning_rate": report.learning_rate,
        }
        for name in ("loss", "plain", "grad_norm"):
            row[name] = sum(getattr(r, name) for r in pending) / len(pending)
        row["layer_evaluations"] = report.work
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
        pending.clear()
        return row

    def close(self, error: BaseException | None = None) -> None:
        """Say of every unfinished job that it has stopped, or that ``error`` has ended it."""
        failed = isinstance(error, Exception)
        for report in self._last.values():
            if report.step < report.num_steps:
                self._beat(report, "failed" if failed else "stopped", str(error) if failed else "")

    def _beat(
        self, report: StepReport, state: Literal["running", "stopped", "done", "failed"], error: str = ""
    ) -> None:
        now = time.perf_counter()
        speed = None
        if report.job in self._beats:
            before, step = self._beats[report.job]
            speed = (report.step - step) / (now - before)
        self._beats[report.job] = now, report.step
        beat = Heartbeat(
            job=report.job,
            step=report.step,
            num_steps=report.num_steps,
            loss=report.loss,
            steps_per_second=speed,
            time=time.time(),
            host=socket.gethostname(),
            process=os.getpid(),
            state=state,
            error=error,
        )
        path = job_folder(self.directory, report.job) / HEARTBEAT_FILE
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(asdict(beat)) + "\n")
            partial.replace(path)
        except OSError:  # a sign of life that cannot be written, on a full disk say, is no reason to die
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def add_note(path: Path, note: Note) -> None:
    """Append a note to a file of notes, unless its last one says the same."""
    if [known.note for known in read_notes(path)][-1:] != [note.note]:
        with open(path, "a") as file:
            file.write(json.dumps(asdict(note)) + "\n")


def read_notes(path: Path) -> list[Note]:
    """The notes of a job; lines that are none are left out."""
    found = []
    for row in read_rows(path):
        with suppress(TypeError):
            found.append(Note(**row))  # type: ignore[arg-type]
    return found


def read_heartbeat(directory: Path) -> Heartbeat | None:
    """The last heartbeat of the job with this directory; None if there is none, or it cannot be read."""
    try:
        return Heartbeat(**json.loads((directory / HEARTBEAT_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a metrics file; a last line that a kill cut short is left out."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def forget_after(path: Path, step: int) -> None:
    """Drop rows with a step beyond ``step``: they will be written again."""
    if path.is_file():
        rows = [row for row in read_rows(path) if float(row["step"]) <= step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        partial.replace(path)
