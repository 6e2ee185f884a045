"""What the user sees: progress when a terminal is there, tables, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import rich.table
from rich.console import Console
from rich.markup import escape

from oneblock.plan import Plan
from oneblock.report.table import Report, Table
from oneblock.train.drive import Watch
from oneblock.train.strategy import job_specs

if TYPE_CHECKING:
    from oneblock.presets.run import Trained


def say(message: str, quiet: bool = False) -> None:
    """A line for people, on standard error so that standard output stays machine-readable."""
    if not quiet:
        print(message, file=sys.stderr)


def note(scores: Mapping[str, Any]) -> None:
    """What must be said beside scores: that they were taken on other data than the plan's."""
    if "other_data" in scores:
        say(f"oneblock: {scores['other_data']}")


def teller(quiet: bool) -> Callable[[str], None]:
    """``say``, for whoever tells how far it is."""
    return partial(say, quiet=quiet)


def emit(values: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(values))


def table(shown: Table) -> None:
    """A table on standard output; brackets in cells mean themselves."""
    made = rich.table.Table(title=shown.title, title_justify="left")
    for i, column in enumerate(shown.columns):
        made.add_column(column, justify="left" if i == 0 else "right")
    for row in shown.rows:
        made.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 160).print(made)


def report(shown: Report) -> None:
    """Tables and lines on standard output."""
    for one in shown.tables:
        table(one)
    for line in shown.lines:
        print(line)


def planned(out: str, plan: Plan, as_json: bool) -> None:
    """What comes after a plan was written."""
    jobs = [spec.name for spec in job_specs(plan)]
    if as_json:
        emit({"out": out, "plan": plan.hash, "jobs": jobs})
    else:
        say(f"planned {', '.join(jobs)}; next: oneblock launch {out}")


def trained(out: str, done: Trained, block: str | None, as_json: bool, after: str) -> None:
    """What comes after all blocks, or one, were trained: in the end the command ``after``."""
    if as_json:
        emit({"out": out, "plan": done.plan.hash, "seconds": round(done.seconds, 1)})
    else:
        what = "all blocks" if block is None else f"block {block}"
        then = "next" if block is None else "when all blocks are trained"
        say(f"trained {what} in {done.seconds:.0f} s; {then}: {after}")


def watch(json: bool, tensorboard: bool = False, label: str = "") -> Watch:
    """How a training of the command line is watched: rows on standard output with ``json``, else bars."""

    def warn(message: str) -> None:
        say(f"oneblock: {message}; going on from an earlier checkpoint")

    return Watch(bars=not json, label=label, row=emit if json else None, tensorboard=tensorboard, warn=warn)
