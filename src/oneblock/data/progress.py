"""How far reading data is, and what it leaves out, told to whoever asked.

``listening`` says who is told within a ``with``. Outside of it nobody hears of progress, and a note is a warning.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

Progress = Callable[[int, int, str], None]
"""Is given how much is done, how much there is, and the unit."""
Note = Callable[[str], None]


def _nobody(done: int, total: int, unit: str) -> None:
    """Nobody asked."""


def _warn(message: str) -> None:
    """A warning that points at the first caller outside this package."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("oneblock."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


@dataclass(frozen=True)
class _Listener:
    progress: Progress
    note: Note


_ALONE = _Listener(_nobody, _warn)
_LISTENER: ContextVar[_Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(progress: Progress = _nobody, note: Note = _warn) -> Iterator[None]:
    """Tell ``progress`` how far reading is, any number of times a second, and ``note`` once what data leave out."""
    before = _LISTENER.get()
    _LISTENER.set(_Listener(progress, note))
    try:
        yield
    finally:
        _LISTENER.set(before)


def is_heard() -> bool:
    """Whether somebody listens."""
    return _LISTENER.get() is not None


def tell(done: int, total: int, unit: str) -> None:
    """Tell whoever listens that ``done`` of ``total`` units are read."""
    (_LISTENER.get() or _ALONE).progress(done, total, unit)


def note(message: str) -> None:
    """Tell whoever listens something that is worth a line, once."""
    (_LISTENER.get() or _ALONE).note(message)


def inform(message: str) -> None:
    """Tell whoever listens what was done as it should be; without a listener nobody need know."""
    if is_heard():
        note(message)


class Tally:
    """Counts what is read of ``total`` units, a guess that is never exceeded, and tells it."""

    def __init__(self, total: int, unit: str) -> None:
        self._done, self._total, self._unit = 0, total, unit

    def add(self, count: int) -> None:
        """So many more are read."""
        self._done = min(self._done + count, self._total)
        tell(self._done, self._total, self._unit)


_TALLY: ContextVar[Tally | None] = ContextVar("tally", default=None)


@contextmanager
def counting(total: int, unit: str) -> Iterator[None]:
    """What ``add`` counts within is told as part of ``total``, which is reached at the end."""
    tally, before = Tally(total, unit), _TALLY.get()
    _TALLY.set(tally)
    try:
        yield
        tally.add(total)
    finally:
        _TALLY.set(before)


def add(count: int) -> None:
    """Count so many units for the innermost ``counting``."""
    tally = _TALLY.get()
    if tally is not None:
        tally.add(count)
