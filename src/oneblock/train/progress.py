"""What is shown of a training and of the reading of its data: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from oneblock.train.step import StepReport

PATIENCE, EVERY, RARELY = 2.0, 10.0, 60.0
"""Seconds before the reading of data is shown; between lines of a file; between those of a training, in the end."""


def progress(reports: Iterator[StepReport], totals: Mapping[str, tuple[int, int]], label: str) -> Iterator[StepReport]:
    """Pass reports on behind one bar per job with its loss and the time left; where standard error is not a terminal,
    or rich is not installed, behind a line now and then.

    Args:
        totals: first and last step of each job.
    """
    if not sys.stderr.isatty():
        yield from lines(reports, totals, label)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        yield from lines(reports, totals, label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}
        for report in reports:
            first, last = totals[report.job]
            if report.job not in tasks:
                tasks[report.job] = bars.add_task(f"{label} {report.job}", total=last - first, loss="")
            bars.update(tasks[report.job], completed=report.step - first, loss=f"{report.loss:.3f}")
            yield report


def lines(
    reports: Iterator[StepReport],
    totals: Mapping[str, tuple[int, int]],
    label: str,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[StepReport]:
    """Pass reports on behind a line after ``EVERY`` seconds, then twice as late, and in the end every ``RARELY``
    seconds."""
    began = clock()
    due = began + EVERY
    for report in reports:
        yield report
        if (now := clock()) < due:
            continue
        due = now + min(RARELY, now - began)
        first, last = totals[report.job]
        done = f"{report.step - first} of {last - first} steps, loss {report.loss:.3f}, {now - began:.0f} s"
        print(f"{label} {report.job}: {done}".strip(), file=sys.stderr, flush=True)


class Shown:
    """Shows on standard error what readers of data tell (``data.progress``): how far they are, once it has taken
    ``PATIENCE`` seconds, and each note once.

    A terminal has one line that changes; a file or pipe gets a line every ``EVERY`` seconds. Of the processes that
    torchrun starts only the first shows anything.

    Args:
        stream: None is standard error, as it is when something is shown.
        clock: gives seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._stage: tuple[str, int, str] = ("", 0, "")
        self._before, self._began, self._next = 0, 0.0, 0.0
        self._shown = self._open_line = False
        self._notes: set[str] = set()

    def progress(self, what: str, done: int, total: int, unit: str) -> None:
        now = self._clock()
        if self._stage != (what, total, unit) or done <= self._before:
            self._stage, self._began, self._next, self._shown = (what, total, unit), now, now + PATIENCE, False
        self._before = done
        last = done >= total
        if now < self._next and not (last and self._shown):
            return
        rate = f", {done / (now - self._began):.0f} per second" if now > self._began else ""
        line = f"{what}: {done} of {total} {unit}{rate}, {now - self._began:.0f} s"
        self._write(f"\r{line}\x1b[K" if self._terminal() else f"{line}\n")
        self._open_line = self._terminal()
        self._next, self._shown = now + (0.2 if self._terminal() else EVERY), True
        if last:
            self._end_line()

    def note(self, message: str) -> None:
        if message in self._notes:
            return
        self._notes.add(message)
        self._end_line()
        self._write(f"{message}\n")

    def _end_line(self) -> None:
        if self._open_line:
            self._write("\n")
        self._open_line = False

    def _terminal(self) -> bool:
        return (self._stream or sys.stderr).isatty()

    def _write(self, text: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            print(text, end="", file=self._stream or sys.stderr, flush=True)


SHOWN = Shown()
"""What commands and trainings show."""
