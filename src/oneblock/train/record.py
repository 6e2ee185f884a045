"""What a job tells others while it trains: metrics as JSON lines, and a heartbeat, both in the job's directory.

A resumed job forgets the metrics that lie after its checkpoint. The heartbeat is one small file, written anew every few
seconds; whoever can read the directory sees where the job stands, without asking the process.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, TypeVar

from oneblock.checks import check_fields, check_least, check_number
from oneblock.plain import parse_plain, read_plain
from oneblock.train.checkpoint import job_folder, set_aside
from oneblock.train.step import StepReport

HEARTBEAT_FILE = "heartbeat.json"
METRICS_FILE = "metrics.jsonl"
NOTES_FILE = "notes.jsonl"
"""What must be known of a job's training beside its metrics, for example that its data changed on the way."""
MOST_BEAT = 2**16
"""Bytes of a heartbeat: its error may be long."""
MOST_ROW = 2**16
"""Bytes of a row of metrics."""
TAIL = 2**20
"""Bytes at the end of a metrics file in which the last row is looked for."""
NUMBERS = ("step", "num_steps", "learning_rate", "loss", "plain", "grad_norm", "layer_evaluations")
"""What a row holds besides the job's name, and more of some jobs (``StepReport.more``)."""
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

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 0, "step", "num_steps", "time")
        if self.steps_per_second is not None:
            check_number("steps_per_second", self.steps_per_second, least=0)


@dataclass(frozen=True)
class Note:
    """A remark on a job after ``step`` steps, at ``time`` (seconds since 1970)."""

    job: str
    step: int
    time: float
    note: str

    def __post_init__(self) -> None:
        check_fields(self)


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
        self._alive: dict[str, tuple[float, Heartbeat]] = {}
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
            self._beat_for_waiting()
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
        row |= next((r.more for r in reversed(pending) if r.more), {})
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
        self._write(beat)

    def _beat_for_waiting(self) -> None:
        """Renew the signs of jobs that wait for their turn: their process, this one, lives."""
        for at, beat in list(self._alive.values()):
            if beat.state == "running" and time.perf_counter() - at >= self.beat_seconds:
                self._write(replace(beat, time=time.time()))

    def _write(self, beat: Heartbeat) -> None:
        self._alive[beat.job] = time.perf_counter(), beat
        path = job_folder(self.directory, beat.job) / HEARTBEAT_FILE
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
    return [note for _, note in _lines(path, _note) if note is not None]


def read_heartbeat(directory: Path) -> Heartbeat | None:
    """The last heartbeat of the job with this directory; None if there is none, or it cannot be read."""
    try:
        return check_heartbeat(directory)
    except (OSError, ValueError):
        return None


def check_heartbeat(directory: Path) -> Heartbeat:
    """The same; a file that is not a heartbeat is a ``ValueError``, and one that is not there an ``OSError``."""
    path = directory / HEARTBEAT_FILE
    values = read_plain(path, MOST_BEAT)
    names = {field.name for field in fields(Heartbeat)}
    if not isinstance(values, dict) or not names - {"error"} <= values.keys() <= names:
        raise ValueError(f"{path} is not a heartbeat; delete it")
    try:
        return Heartbeat(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it") from error


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a metrics file. Lines that are not such rows are left out: the last one may be cut short by a kill."""
    for _, row in _lines(path, _row):
        if row is not None:
            yield row


def last_row(path: Path) -> Row | None:
    """The last row of a metrics file; only the end of the file is read."""
    found = None
    if path.is_file():
        with open(path, "rb") as file:
            file.seek(-min(path.stat().st_size, TAIL), os.SEEK_END)
            for line in file.read(TAIL).split(b"\n"):
                found = _row(line) or found
    return found


def foreign_lines(path: Path) -> list[int]:
    """The numbers, from 1, of the lines that are not rows, but for a last one that a kill has cut short."""
    found = [(number, row is None, line.endswith(b"\n")) for number, (line, row) in enumerate(_lines(path, _row), 1)]
    return [number for number, foreign, whole in found if foreign and (whole or number < len(found))]


def forget_after(path: Path, step: int) -> None:
    """Drop rows with a step beyond ``step``: they will be written again. A file with lines that are not rows is kept
    beside, under another name."""
    if path.is_file():
        rows = [row for row in read_rows(path) if float(row["step"]) <= step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if foreign_lines(path):
            set_aside(path)
        partial.replace(path)


Line = TypeVar("Line")


def _lines(path: Path, read: Callable[[bytes], Line | None]) -> Iterator[tuple[bytes, Line | None]]:
    """Every line, of which no more than ``MOST_ROW`` bytes are read at a time, and what it says."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        while line := file.readline(MOST_ROW):
            yield line, read(line)


def _note(line: bytes) -> Note | None:
    try:
        values = parse_plain(line, "a note")
        known = isinstance(values, dict) and values.keys() == {field.name for field in fields(Note)}
        return Note(**values) if known else None
    except ValueError:
        return None


def _row(line: bytes) -> Row | None:
    try:
        values = parse_plain(line, "a row")
    except ValueError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("job"), str):
        return None
    numbers = [values.get(name) for name in NUMBERS]
    whole = all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
    return values if whole else None
