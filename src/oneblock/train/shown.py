"""What is shown while data are read: a line that changes on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from oneblock.data.progress import is_heard, listening

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
        self._stage = ""
        self._before, self._began, self._next = 0, 0.0, 0.0
        self._shown = self._open_line = False
        self._notes: set[str] = set()

    def progress(self, done: int, total: int, unit: str) -> None:
        """So much of the total is done; often called."""
        now, stage = self._clock(), f"{total} {unit}"
        if stage != self._stage or done < self._before:
            self._stage, self._began, self._next, self._shown = stage, now, now + PATIENCE, False
        self._before = done
        last = done >= total
        if now < self._next and not (last and self._shown):
            return
        seconds = max(now - self._began, 1e-9)
        line = f"read {done} of {stage}, {done / seconds:.0f} per second, {seconds:.0f} s"
        terminal = (self._stream or sys.stderr).isatty()
        self._write(f"\r{line}\x1b[K" if terminal else f"{line}\n")
        self._next, self._shown, self._open_line = now + (0.2 if terminal else EVERY), not last, terminal
        if last:
            self._end_line()

    def note(self, message: str) -> None:
        """A line for people; a second time it is not shown."""
        if message in self._notes:
            return
        self._notes.add(message)
        self._end_line()
        self._write(f"{message}\n")

    def _end_line(self) -> None:
        if self._open_line:
            self._write("\n")
        self._open_line = False

    def _write(self, text: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            print(text, end="", file=self._stream or sys.stderr, flush=True)


SHOWN = Shown()
"""What commands and trainings show."""


@contextmanager
def shown(progress: bool = True) -> Iterator[None]:
    """Whatever is read inside is shown, unless somebody listens already.

    Args:
        progress: False shows the notes alone.
    """
    if is_heard():
        yield
    elif progress:
        with listening(SHOWN.progress, SHOWN.note):
            yield
    else:
        with listening(note=SHOWN.note):
            yield
