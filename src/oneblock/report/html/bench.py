"""The page of a benchmark of methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oneblock.experiment.bench import GUIDANCES, TASKS, Benchmark, Task, reopen_bench
from oneblock.experiment.reopened import Reopened
from oneblock.experiment.summary import Spread
from oneblock.report.bench import HEADS, SAID, means, report
from oneblock.report.html.comparison import sample_parts
from oneblock.report.html.page import Dot, Dots, Facts, Page, Part, Section, Words
from oneblock.report.html.parts import Shown, made_by
from oneblock.report.spread import plus_minus


def bench_page(directory: Path, shown: Shown) -> Page:
    """A benchmark: scores of every method on both tasks, how far the rankings agree, and samples.

    Raises:
        ValueError: the directory holds no benchmark.
    """
    found, tasks = reopen_bench(directory)
    for task, one in tasks.items():
        shown.missing.extend(f"{task}: {name} has begun, and has no result yet" for name in one.unfinished)
        shown.missing.extend(f"{task}: {name} has not begun" for name in one.absent)
        shown.warnings.extend(f"{task}: {problem}" for problem in one.problems)
    shown.missing.extend(f"{task}: not begun" for task in TASKS if task not in tasks)
    told = shown.tried("tables", lambda: report(found)) if found.tasks else None
    results: list[Part] = [*told.tables, Words(told.lines)] if told else []
    sections = [Section("What was asked", [_asked(found)]), Section("Results", results)]
    sections += [Section("Methods", [chart for task in found.tasks for chart in _dots(found, task)])]
    sections += [Section(f"Samples, {task}", _samples(found, task, tasks)) for task in found.tasks]
    sessions = [session for one in tasks.values() for session in one.sessions]
    return Page(
        kind="a benchmark of methods",
        directory=directory,
        summary=[f"{sum(len(one.rows) for one in found.tasks.values())} runs have a result."],
        sections=[*(section for section in sections if section.parts), made_by(sessions)],
        missing=shown.missing,
        warnings=shown.warnings,
    )


def _asked(found: Benchmark) -> Facts:
    rows = [row for one in found.tasks.values() for row in one.rows]
    named = {key: ", ".join(dict.fromkeys(str(row[key]) for row in rows)) for key in ("arm", "budget", "seed")}
    data = "; ".join(f"{task}: {TASKS[task].data}" for task in found.tasks)
    return Facts(
        [
            ("data", data),
            ("methods", named["arm"]),
            ("budgets", named["budget"]),
            ("seeds", named["seed"]),
            ("guidance", f"none, and {found.guided:g}"),
        ]
    )


def _dots(found: Benchmark, task: Task) -> list[Part]:
    """The score of every method under each protocol, means and ranges over the seeds."""
    parts = list[Part]()
    for guidance in GUIDANCES:
        dots = []
        for method, row in means(found, task, guidance).items():
            value: Spread | None = row[TASKS[task].score]
            if value is not None:
                dots.append(Dot(method, value.mean, value.low, value.high, plus_minus(value, 3)))
        if dots:
            parts.append(Dots(f"{task}: {HEADS[task]}, {SAID[guidance]} ({TASKS[task].better} is better)", dots))
    return parts


def _samples(found: Benchmark, task: Task, tasks: Mapping[Task, Reopened]) -> list[Part]:
    rows = found.tasks[task].rows
    first = [row for row in rows if row["seed"] == rows[0]["seed"]]
    return sample_parts(found.out / task, first, tasks[task].plans)
