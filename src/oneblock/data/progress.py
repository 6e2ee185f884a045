"""Who hears how far long reading is, and what was done with the files; without a listener nobody, and problems are
warnings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

PACKAGE = __name__.partition(".")[0]


class Listener(Protocol):
    """Shows what a reader tells."""

    def progress(self, what: str, done: int, total: int, unit: str) -> None:
        """Of ``what``, ``done`` of ``total`` are done (counted in ``unit``, e.g. images); often called."""

    def note(self, message: str) -> None:
        """One line for people."""


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """Whatever is read inside is told to ``listener``, unless somebody listens already; None changes nothing."""
    if listener is None or _LISTENER.get() is not None:
        yield
        return
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(what: str, done: int, total: int, unit: str) -> None:
    """Tell the listener, if there is one, how far it is."""
    if (listener := _LISTENER.get()) is not None:
        listener.progress(what, done, total, unit)


def note(message: str) -> None:
    """Tell the listener, if there is one."""
    if (listener := _LISTENER.get()) is not None:
        listener.note(message)


def problem(message: str) -> None:
    """Tell the listener; a warning where there is none, so that it is never silent."""
    if _LISTENER.get() is None:
        warnings.warn(message, stacklevel=_outside())
    else:
        note(message)


def _outside() -> int:
    """The ``stacklevel``, as seen by the caller, of the first frame outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
        level, frame = level + 1, frame.f_back
    return level
