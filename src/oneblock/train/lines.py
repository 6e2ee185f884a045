"""Progress in a pipe or a log file: a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from oneblock.train.step import StepReport

FIRST, LONGEST = 10.0, 60.0
"""Seconds to the first line, and between two lines at most; the time between them doubles."""


class Pace:
    """Says when the next line is due.

    Args:
        clock: seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._gap = FIRST
        self._next = self._began + FIRST

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock() - self._began

    def due(self) -> bool:
        """Whether a line is due; the next one then is later."""
        if self._clock() < self._next:
            return False
        self._next = self._clock() + self._gap
        self._gap = min(2 * self._gap, LONGEST)
        return True


def lines(
    reports: Iterator[StepReport],
    totals: Mapping[str, tuple[int, int]],
    label: str,
    write: Callable[[str], object],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[StepReport]:
    """Pass reports on; now and then ``write`` how far the job is that trains, its loss, and its own time left at the
    speed since its first step here, other jobs' turns included.

    Args:
        totals: first and last step of each job, in their order.
    """
    pace, first_seen = Pace(clock), dict[str, tuple[int, float]]()
    for report in reports:
        first, last = totals[report.job]
        step, since = first_seen.setdefault(report.job, (report.step, pace.seconds))
        if pace.due():
            taken, seconds = report.step - step, pace.seconds - since
            left = f", about {_clock_time((last - report.step) * seconds / taken)} left" if taken else ""
            where = called(report.job, totals, label)
            done = f"{report.step - first}/{last - first} loss {report.loss:.3f}"
            write(f"{where} {done}, {_clock_time(pace.seconds)}{left}")
        yield report


def called(job: str, totals: Mapping[str, tuple[int, int]], label: str) -> str:
    """A job by its label and name and, of several, its place among them: its progress is its own alone."""
    place = f"({list(totals).index(job) + 1} of {len(totals)})" if len(totals) > 1 else ""
    return " ".join(filter(None, (label, job, place)))


def _clock_time(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
