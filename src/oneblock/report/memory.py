"""A comparison of what generators memorise as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oneblock.experiment.summary import Row, Scores, summaries
from oneblock.report.picture import curves
from oneblock.report.spread import arm_curves, cost_table, findings, plus_minus, several_budgets, with_range
from oneblock.report.table import Report, Table
from oneblock.report.training import training_picture

WINS = {"loss": "lower loss", "cycled": "fewer copies after cycles", "auc": "lower AUC of membership"}
LABELS = {"loss": "held-out loss", "cycled": "share of copies after cycles", "auc": "AUC of membership"}


def report(rows: Sequence[Row], scores: Scores) -> Report:
    """Means and spreads, and who memorises less how often."""
    shown = summaries(rows, scores)
    first = rows[0]
    columns = (
        *("arm", "layer evals", "loss", "copies % after cycles", "one-shot", "held-out", "images found"),
        *("planted found", "half leave at sigma", "AUC", f"TPR at {first['auditing']['false_positives']:.0%}"),
    )
    cells = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            with_range(row["loss"], 4),
            plus_minus(row["cycled"], 1, 100),
            plus_minus(row["one_shot"], 1, 100),
            plus_minus(row["false_copies"], 1, 100),
            plus_minus(row["distinct"], 1),
            plus_minus(row["planted_found"], 1),
            plus_minus(row["depth"], 3),
            plus_minus(row["auc"], 3),
            plus_minus(row["tpr"], 3),
        )
        for row in shown
    ]
    of = f"{first['images']} images, {first['planted']} of them {first['copies']} times"
    tables = [Table(f"memory of {of} (seeds: {shown[0]['seeds']})", columns, cells), cost_table(shown)]
    return Report(tables, findings(rows, shown, scores, WINS))


def draw(out: Path, rows: Sequence[Row], scores: Scores) -> list[Path]:
    """Loss during training; with several budgets loss, copies and membership against work."""
    pictures = training_picture(out, rows, "training loss (mean over bands)")
    if several_budgets(rows):
        shown = summaries(rows, scores)
        for key, label in LABELS.items():
            lines = arm_curves(shown, key)
            pictures.append(curves(lines, out / f"{key}.png", "layer evaluations", label, logarithmic=True))
    return pictures
