"""Stops between two steps: a signal asks for one, and the step that is being taken ends first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; the end of a job; the end of its terminal; a warning of Slurm, ``--signal=USR1@90``."""


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """A function to call between two steps, which raises ``KeyboardInterrupt`` once a signal has asked for a stop.

    A second signal raises at once, wherever the program is. Signals that are ignored stay so (``nohup``). They reach
    the main thread alone: in another there is nothing to catch.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        name = signal.Signals(number).name
        print(f"oneblock: {name}: stopping after this step, with a checkpoint; again stops at once", file=sys.stderr)

    def between_steps() -> None:
        if asked:
            raise KeyboardInterrupt

    with caught(ask):
        yield between_steps


@contextmanager
def caught(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """``handler`` gets the signals that ask for a stop, in the main thread; afterwards those who got them before."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other thread may
        before = {one: found for one in SIGNALS if (found := signal.getsignal(one)) is not signal.SIG_IGN}
    for one in before:
        signal.signal(one, handler)
    try:
        yield
    finally:
        for one, found in before.items():
            signal.signal(one, found)
