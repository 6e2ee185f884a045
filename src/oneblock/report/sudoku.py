"""A comparison of ways to learn Sudokus as tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from oneblock.experiment.sudoku import JUDGED_AT
from oneblock.experiment.summary import Row, Scores, Spread, spread, summaries
from oneblock.report.picture import curves
from oneblock.report.spread import Curve, plus_minus, seeds_note, wins, with_range
from oneblock.report.table import Report, Table

WINS = {"exact": f"more solved at {JUDGED_AT:g} calls"}


def report(rows: Sequence[Row], scores: Scores) -> Report:
    """Exact match at equal calls, what each arm took, what changed states make of it, and who wins how often."""
    shown = summaries(rows, scores)
    seeds = shown[0]["seeds"]
    title = f"puzzles solved in %, by calls per puzzle (seeds: {seeds})"
    places = rows[0]["listed_at"]
    columns = ("arm", *(f"{calls:g} calls" for calls in places), f"hard ones, {JUDGED_AT:g} calls", "usual policy")
    solved = [
        (
            row["arm"],
            *(_cell(item) for item in row["exact_at"]),
            plus_minus(row["exact_hard"], 1, 100),
            f"{plus_minus(row['usual_exact'], 1, 100)} at {plus_minus(row['usual_calls'], 1)}",
        )
        for row in shown
    ]
    costs = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            f"{row['parameters'].mean:,.0f}",
            f"{row['rate'].mean:g}",
            plus_minus(row["fresh"], 0),
            plus_minus(row["train_seconds"], 0),
        )
        for row in shown
    ]
    tables = [
        Table(title, columns, solved),
        Table("cost", ("arm", "layer evals", "parameters", "rate", "fresh puzzles", "processor s"), costs),
        Table("the usual policy with changed states", ("arm", "change", "solved %", "calls"), _changed(rows)),
    ]
    return Report(tables, [*seeds_note(seeds), *wins(rows, scores, WINS)])


def _cell(item: Spread | None) -> str:
    return with_range(item, 1, 100)


def _changed(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    found = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        controls = [row["controls"] for row in rows if row["arm"] == arm]
        for name in controls[0]:
            both = (spread([one[name][score] for one in controls]) for score in ("exact", "calls"))
            exact, calls = both
            found.append((arm, name, plus_minus(exact, 1, 100), plus_minus(calls, 1)))
    return found


def solved_by_calls(rows: Sequence[Row]) -> dict[str, Curve]:
    """Of every arm the (calls per puzzle, share solved) of each decoding, means over the seeds, by calls."""
    found: dict[str, Curve] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        decodings = zip(*(row["decoded"] for row in rows if row["arm"] == arm), strict=True)
        points = [(mean(one["calls"] for one in same), mean(one["exact"] for one in same)) for same in decodings]
        found[arm] = sorted(points)
    return found


def draw(out: Path, rows: Sequence[Row], scores: Scores) -> list[Path]:
    """Puzzles solved against calls."""
    lines = solved_by_calls(rows)
    return [curves(lines, out / "exact.png", "calls per puzzle", "share of puzzles solved", logarithmic=True)]
