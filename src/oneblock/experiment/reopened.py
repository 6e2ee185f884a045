"""A comparison read from its directory alone: the results that are there, and what is not there yet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from oneblock.experiment.base import Cell, Experiment
from oneblock.experiment.compare import EXPERIMENTS
from oneblock.experiment.grid import Comparison
from oneblock.experiment.results import RESULT_FILE, read_result
from oneblock.experiment.summary import Row
from oneblock.plan import PLAN_FILE, Plan
from oneblock.presets.base import parse_count
from oneblock.presets.door import read_plan
from oneblock.train.session import Session, read_sessions

RUN = re.compile(r"(?P<arm>.+)-(?P<budget>[^-]+)-seed(?P<seed>\d+)")
"""The directory of a run (``Cell.name``)."""
SCORED = ("num_samples", "report_bands", "extractor", "sampling", "windows", "answers", "bits_in", "auditing", "images")
"""What results must have been made with alike to be compared, where they name it."""


@dataclass(frozen=True, kw_only=True)
class Reopened:
    """A comparison as far as it has come.

    Args:
        comparison: of the runs with a result, in the order of budgets, seeds and arms.
        plans: of the runs, those of an ensemble the first.
        unfinished: runs that have begun and have no result; ``absent`` those that were asked for and have not begun.
        problems: results that cannot be used, and differences in how they were scored.
    """

    comparison: Comparison
    plans: Mapping[str, Plan]
    sessions: Sequence[Session]
    unfinished: Sequence[str] = field(default=())
    absent: Sequence[str] = field(default=())
    problems: Sequence[str] = field(default=())


def reopen(directory: Path) -> Reopened:
    """The comparison in a directory.

    Raises:
        ValueError: it holds no run of a comparison.
    """
    sessions = read_sessions(directory)
    found = {path.name: path for path in sorted(directory.iterdir()) if path.is_dir() and RUN.fullmatch(path.name)}
    asked = _asked(sessions)
    if not found and not asked:
        raise ValueError(f"{directory} holds no run of a comparison; give the --out of oneblock compare")
    rows, problems = _rows(found)
    plans = {name: plan for name, path in found.items() if (plan := _plan(path)) is not None}
    experiment = _experiment(rows, list(plans.values()), sessions)
    cells = [_cell(name) for name in dict.fromkeys((*found, *asked))]
    ordered = sorted(cells, key=lambda cell: _place(cell, list(experiment.arms)))
    done = [rows[cell.name] for cell in ordered if cell.name in rows]
    wanted = [cell.name for cell in (ordered if asked else _grid(ordered))]
    return Reopened(
        comparison=Comparison(task=experiment.task, out=directory, rows=done, scores=experiment.scores),
        plans=plans,
        sessions=sessions,
        unfinished=[name for name in wanted if name in found and name not in rows],
        absent=[name for name in wanted if name not in found],
        problems=[*problems, *_differences(done)],
    )


def _asked(sessions: Sequence[Session]) -> list[str]:
    """The names of all runs that were ever asked for."""
    named = [run for session in sessions for run in cast(list[object], session.about.get("runs", []))]
    return [run for run in dict.fromkeys(named) if isinstance(run, str) and RUN.fullmatch(run)]


def _rows(found: Mapping[str, Path]) -> tuple[dict[str, Row], list[str]]:
    """The results by the name of their run, and what is wrong with others."""
    rows, problems = dict[str, Row](), list[str]()
    for name, path in found.items():
        if not (path / RESULT_FILE).is_file():
            continue
        try:
            row = read_result(path / RESULT_FILE)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        cell = _cell(name)
        if (row.get("arm"), row.get("seed")) == (cell.arm, cell.seed):
            rows[name] = {**row, "budget": cell.budget, "run": name}
        else:
            problems.append(f"{path / RESULT_FILE} is the result of another run ({row.get('arm')}); it is left out")
    return rows, problems


def _plan(path: Path) -> Plan | None:
    """The plan of a run, or of the first network of an ensemble; None without one that can be read."""
    places = [place for place in (path, *sorted(path.glob("network-*"))) if (place / PLAN_FILE).is_file()]
    try:
        return read_plan(places[0]) if places else None
    except (ValueError, OSError):
        return None


def _cell(name: str) -> Cell:
    found = RUN.fullmatch(name)
    assert found is not None, "only names of runs are read"
    return Cell(arm=found["arm"], budget=found["budget"], seed=int(found["seed"]))


def _place(cell: Cell, arms: Sequence[str]) -> tuple[int, int, int]:
    try:
        budget = parse_count(cell.budget)
    except ValueError:
        budget = 0
    return budget, cell.seed, arms.index(cell.arm) if cell.arm in arms else len(arms)


def _grid(cells: Sequence[Cell]) -> list[Cell]:
    """Every arm at every budget and seed that any run has."""
    arms = dict.fromkeys(cell.arm for cell in cells)
    outer = dict.fromkeys((cell.budget, cell.seed) for cell in cells)
    return [Cell(arm=arm, budget=budget, seed=seed) for budget, seed in outer for arm in arms]


def _experiment(rows: Mapping[str, Row], plans: Sequence[Plan], sessions: Sequence[Session]) -> Experiment[Any, Any]:
    """The experiment of a comparison: as its sessions say, or one with these arms whose recipe has this task."""
    for session in reversed(sessions):
        if session.about.get("task") in EXPERIMENTS:
            return EXPERIMENTS[str(session.about["task"])]()
    arms = {row["arm"] for row in rows.values()}
    audits = any("auditing" in row for row in rows.values())
    for name, kind in EXPERIMENTS.items():
        experiment = kind()
        tasks = {plan.task for plan in plans}
        if arms <= experiment.arms.keys() and tasks <= {experiment.usual.task} and audits == (name == "audit"):
            return experiment
    raise ValueError(
        f"the runs ({', '.join(sorted(arms)) or 'none has a result'}) are of no comparison that this version of "
        f"oneblock knows; it knows {', '.join(EXPERIMENTS)}"
    )


def _differences(rows: Sequence[Row]) -> list[str]:
    """What some results were scored with and others not."""
    found = []
    for key in SCORED:
        values = {repr(row[key]): row["run"] for row in rows if key in row}
        if len(values) > 1:
            said = "; ".join(f"{run}: {value}" for value, run in values.items())
            found.append(f"the runs were not all scored with the same {key} ({said}); run the comparison again")
    return found
