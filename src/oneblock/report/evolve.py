"""A comparison of ways to find gradients as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from oneblock.experiment.evolve import TIMED
from oneblock.experiment.summary import Row, Scores, summaries
from oneblock.report.picture import curves
from oneblock.report.spread import arm_curves, plus_minus, seeds_note, several_budgets, wins, with_range
from oneblock.report.table import Report, Table

WINS = {"accuracy": "right more often"}
COLUMNS = ("arm", "steps", "accuracy %", "NLL", "CPU s", "peak MB", "parameters")


def report(rows: Sequence[Row], scores: Scores) -> Report:
    """Means and spreads at equal steps and at equal processor time, and who wins how often at each."""
    shown = summaries(rows, scores)
    seeds = shown[0]["seeds"]
    tables, lines = [], seeds_note(seeds)
    for timed, title in ((False, "equal steps"), (True, "equal processor time")):
        found = [row for row in shown if row["arm"].endswith(TIMED) == timed]
        if found:
            tables.append(
                Table(f"held-out images at {title} (seeds: {seeds})", COLUMNS, [_cells(row) for row in found])
            )
        kind = TIMED if timed else ""
        named = replace(
            scores, ours=tuple(arm + kind for arm in scores.ours), rivals=tuple(arm + kind for arm in scores.rivals)
        )
        lines += wins(rows, named, WINS)
    return Report(tables, lines)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["arm"],
        plus_minus(row["steps"], 0),
        with_range(row["accuracy"], 2, 100),
        plus_minus(row["nll"], 4),
        plus_minus(row["cpu_seconds"], 1),
        plus_minus(row["peak_bytes"], 2, 1e-6),
        f"{row['parameters'][0]:,.0f}",
    )


def draw(out: Path, rows: Sequence[Row], scores: Scores) -> list[Path]:
    """With several budgets, accuracy against work."""
    if not several_budgets(rows):
        return []
    lines = arm_curves([row for row in summaries(rows, scores) if not row["arm"].endswith(TIMED)], "accuracy")
    return [curves(lines, out / "budgets.png", "layer evaluations", "held-out accuracy", logarithmic=True)]
