"""Stops between two steps: a signal asks for one, and the step that is being taken ends first.

Processes that train together stop at the same step: each looks at ``asked`` where all of them meet.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; the end of a job; the end of its terminal; a warning of Slurm, ``--signal=USR1@90``."""
ECHO = 1.0
"""Seconds in which a second signal is the first again, to processes that train together: their launcher passes on what
they got as well."""

_ASKED: list[float] = []
"""When a signal has asked for a stop."""


def asked() -> bool:
    """Whether a signal has asked for a stop of what is ``stoppable``."""
    return bool(_ASKED)


@contextmanager
def stoppable(together: bool = False) -> Iterator[Callable[[], None]]:
    """A function to call between two steps, which raises ``KeyboardInterrupt`` once a signal has asked for a stop.

    A second signal raises at once, wherever the program is. Signals that are ignored stay so (``nohup``). They reach
    the main thread alone: in another there is nothing to catch.

    Args:
        together: several processes train together, and stop where they find that one of them is ``asked``; the function
            does nothing.
    """
    when = "where all processes meet" if together else "after this step"

    def ask(number: int, frame: FrameType | None) -> None:
        if not _ASKED:
            _ASKED.append(time.monotonic())
            name = signal.Signals(number).name
            print(f"oneblock: {name}: stopping {when}, with a checkpoint; again stops at once", file=sys.stderr)
        elif not together or time.monotonic() - _ASKED[0] > ECHO:
            raise KeyboardInterrupt

    def between_steps() -> None:
        if _ASKED and not together:
            raise KeyboardInterrupt

    with caught(ask):
        try:
            yield between_steps
        finally:
            _ASKED.clear()


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
