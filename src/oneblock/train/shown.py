"""What is shown while data are read: a line that changes on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

PATIENCE, EVERY = 2.0, 10.0
"""Seconds before anything is shown; between two lines of a file."""


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
