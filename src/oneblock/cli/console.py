"""What the user sees: progress when a terminal is there, tables, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from oneblock.train.step import StepReport


def say(message: str, quiet: bool = False) -> None:
    """A line for people, on standard error so that standard output stays machine-readable."""
    if not quiet:
        print(message, file=sys.stderr)


def emit(values: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(values))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; brackets in cells mean themselves."""
    shown = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        shown.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 140).print(shown)


def progress(reports: Iterator[StepReport], totals: Mapping[str, tuple[int, int]], label: str) -> Iterator[StepReport]:
    """Pass reports on behind one bar per job with its loss and the time left; nothing when not on a terminal.

    Args:
        totals: first and last step of each job.
    """
    if not sys.stderr.isatty():
        yield from reports
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
