"""Quality against sampling work as a table and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oneblock.evaluate.curves import SOLVERS
from oneblock.experiment.curves import curve_summaries
from oneblock.experiment.summary import Row
from oneblock.report.picture import RangedLine, ranged_lines
from oneblock.report.spread import several_budgets, with_range
from oneblock.report.table import Table

WORK = "layer evaluations of one sample"


def sampling_tables(rows: Sequence[Row]) -> list[Table]:
    """The Frechet distance with every solver and number of steps, least work first; no table without a curve."""
    shown = curve_summaries(rows)
    if not shown:
        return []
    columns = ("arm", "trained with", "steps", WORK, *SOLVERS)
    found: dict[tuple[str, str, int, int], dict[str, str]] = {}
    for row in shown:
        key = (row["arm"], row["budget"], row["steps"], row["layer_evaluations"])
        found.setdefault(key, {})[row["sampler"]] = with_range(row["frechet"], 2)
    cells = [
        (arm, budget, str(steps), f"{work:,}", *(scores.get(solver, "-") for solver in SOLVERS))
        for (arm, budget, steps, work), scores in found.items()
    ]
    return [Table("Frechet distance against sampling work", columns, cells)]


def draw_sampling(out: Path, rows: Sequence[Row]) -> list[Path]:
    """Write a picture for each budget: mean and range over the seeds, a colour for each arm, a style for each solver.
    No picture without a curve."""
    shown = curve_summaries(rows)
    pictures = []
    for budget in dict.fromkeys(row["budget"] for row in shown):
        of_budget = [row for row in shown if row["budget"] == budget]
        arms = list(dict.fromkeys(row["arm"] for row in of_budget))
        lines = [
            RangedLine(f"{arm}, {solver}", _points(of_budget, arm, solver), arms.index(arm), SOLVERS.index(solver))
            for arm in arms
            for solver in SOLVERS
        ]
        name = f"sampling-{budget}.png" if several_budgets(rows) else "sampling.png"
        pictures.append(ranged_lines([line for line in lines if line.points], out / name, WORK, "Frechet distance"))
    return pictures


def _points(rows: Sequence[Row], arm: str, solver: str) -> list[tuple[float, float, float, float]]:
    found = [row for row in rows if (row["arm"], row["sampler"]) == (arm, solver)]
    return sorted((row["layer_evaluations"], row["frechet"].mean, *row["frechet"][2:]) for row in found)
