"""A comparison of models of text as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oneblock.experiment.summary import Row, Scores, Spread, summaries
from oneblock.report.picture import curves
from oneblock.report.spread import Curve, arm_curves, cost_table, findings, plus_minus, several_budgets, with_range
from oneblock.report.table import Report, Table
from oneblock.report.training import training_picture

BITS, IN_CALLS = "bits_per_byte", "bits_in_calls"
WINS = {BITS: "fewer bits", IN_CALLS: "fewer bits revealed in calls"}
SHOWN = 100
"""Characters of a sample that are shown."""


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """How the scores of a task on text are shown.

    Args:
        items: what the listed score lists, for people, in the order of the list.
        unit: of its values.
    """

    items: str
    unit: str

    def report(self, rows: Sequence[Row], scores: Scores) -> Report:
        """Means and spreads, what was written, who wins how often, and where curves cross."""
        shown = summaries(rows, scores)
        places = _places(rows)
        in_calls = any(row.get(IN_CALLS) for row in shown)
        more = ("bits/byte in calls",) if in_calls else ()
        columns = ("arm", "layer evals", "bits/byte", "error", *more, f"{self.unit}: {self.items}")
        quality = [
            (
                row["arm"],
                f"{row['layer_evaluations']:,}",
                with_range(row[BITS], 4),
                "-" if row["error"] is None else f"{row['error'].mean:.4f}",
                *((with_range(row[IN_CALLS], 4),) if in_calls else ()),
                " / ".join(_items(row[scores.listed], places.get(row["arm"]))),
            )
            for row in shown
        ]
        title = f"held-out text (seeds: {shown[0]['seeds']}; error: of one run)"
        costs = cost_table(shown, {"characters/s": "characters_per_second"})
        tables = [Table(title, columns, quality), costs, *_written(rows)]
        return Report(tables, findings(rows, shown, scores, WINS))

    def draw(self, out: Path, rows: Sequence[Row], scores: Scores) -> list[Path]:
        """The listed score, training loss of the first seed and, with several budgets, bits against work."""
        shown = summaries(rows, scores)
        own, lines = _places(rows), dict[str, Curve]()
        for row in shown:
            if row["budget"] == rows[-1]["budget"]:
                items = [item[0] for item in row[scores.listed]]
                places = own.get(row["arm"], range(1, len(items) + 1))
                lines[row["arm"]] = [(float(place), item) for place, item in zip(places, items, strict=True)]
        pictures = [curves(lines, out / f"{scores.listed}.png", self.items, self.unit)]
        label = "training loss, unweighted, nats per token"  # arms may differ in their weights
        pictures += training_picture(out, rows, label, "plain")
        if several_budgets(rows):
            lines, path = arm_curves(shown, BITS), out / "budgets.png"
            pictures.append(curves(lines, path, "layer evaluations", "held-out bits per byte", logarithmic=True))
        return pictures


def _items(listed: Sequence[Spread], places: Sequence[int] | None) -> list[str]:
    """The listed score of a summary, each item with its place if it has one of its own."""
    items = [plus_minus(item, 4) for item in listed]
    return items if places is None else [f"{at}: {item}" for at, item in zip(places, items, strict=True)]


def _written(rows: Sequence[Row]) -> list[Table]:
    """How a text of every arm begins, of the first seed and the last budget; without an arm that writes, no table."""
    last = [row for row in rows if row["budget"] == rows[-1]["budget"] and row["seed"] == rows[0]["seed"]]
    written = [(row["arm"], row["samples"][0][:SHOWN]) for row in last if row["samples"]]
    return [Table(f"what they write, seed {rows[0]['seed']}", ("arm", "text"), written)] if written else []


def _places(rows: Sequence[Row]) -> dict[str, Sequence[int]]:
    """Of each arm whose listed score has places of its own."""
    return {row["arm"]: row["listed_at"] for row in rows if "listed_at" in row}
