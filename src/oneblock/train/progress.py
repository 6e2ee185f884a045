"""Progress of a training: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from oneblock.train.lines import called, lines
from oneblock.train.step import StepReport


def progress(reports: Iterator[StepReport], totals: Mapping[str, tuple[int, int]], label: str) -> Iterator[StepReport]:
    """Pass reports on behind one bar per job with its loss and the time left; behind a line now and then where standard
    error is not a terminal, or rich is not installed.

    Args:
        totals: first and last step of each job, in their order.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        yield from lines(reports, totals, label, _line)
        return
    if not sys.stderr.isatty():
        yield from lines(reports, totals, label, _line)
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
                tasks[report.job] = bars.add_task(called(report.job, totals, label), total=last - first, loss="")
            bars.update(tasks[report.job], completed=report.step - first, loss=f"{report.loss:.3f}")
            yield report


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
