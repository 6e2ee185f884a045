"""A comparison of classifiers as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oneblock.experiment.summary import Row, Scores, summaries
from oneblock.report.picture import curves
from oneblock.report.spread import Curve, arm_curves, cost_table, findings, plus_minus, several_budgets, with_range
from oneblock.report.table import Report, Table
from oneblock.report.training import training_picture

WINS = {"accuracy": "right more often"}


def report(rows: Sequence[Row], scores: Scores) -> Report:
    """Means and spreads, and who wins how often."""
    shown = summaries(rows, scores)
    columns = ("arm", "layer evals", "accuracy %", "after every call", "ECE", "NLL", "layers/image")
    quality = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            with_range(row["accuracy"], 2, 100),
            _calls([call[0] for call in row["accuracies"]]),
            plus_minus(row["ece"], 4),
            plus_minus(row["nll"], 4),
            plus_minus(row["layers_per_image"], 0),
        )
        for row in shown
    ]
    tables = [Table(f"held-out images (seeds: {shown[0]['seeds']})", columns, quality), cost_table(shown)]
    return Report(tables, findings(rows, shown, scores, WINS))


def _calls(accuracies: Sequence[float]) -> str:
    """In percent; of a long list the first two and the last two."""
    shown = [f"{value * 100:.2f}" for value in accuracies]
    return " / ".join(shown if len(shown) <= 4 else [*shown[:2], "...", *shown[-2:]])


def draw(out: Path, rows: Sequence[Row], scores: Scores) -> list[Path]:
    """Accuracy after every call, training loss of the first seed and, with several budgets, accuracy against work."""
    shown = summaries(rows, scores)
    last = [row for row in shown if row["budget"] == rows[-1]["budget"]]
    lines: dict[str, Curve] = {
        row["arm"]: [(float(i), call[0]) for i, call in enumerate(row["accuracies"], 1)] for row in last
    }
    pictures = [curves(lines, out / "accuracy.png", "calls", "held-out accuracy")]
    pictures += training_picture(out, rows, "training loss, unweighted (mean over bands)", "plain")
    if several_budgets(rows):
        lines = arm_curves(shown, "accuracy")
        pictures.append(curves(lines, out / "budgets.png", "layer evaluations", "held-out accuracy", logarithmic=True))
    return pictures
