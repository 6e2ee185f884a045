"""What a comparison of classifiers shows: means and spreads, who wins how often, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from oneblock.cli import console, scores
from oneblock.cli.comparison import Row
from oneblock.cli.picture import curves
from oneblock.cli.scores import Curve, plus_minus

OURS, RIVALS = ("blockwise", "branched"), ("end-to-end", "shallow", "ensemble")
SPREAD = (
    "accuracy",
    "ece",
    "nll",
    "layers_per_image",
    "train_seconds",
    "peak_bytes",
    "peak_bytes_checkpointing",
    "parameters",
)


def summaries(rows: Sequence[Row]) -> list[Row]:
    """``scores.summaries`` of classifiers."""
    return scores.summaries(rows, SPREAD, "accuracies")


def report(rows: Sequence[Row]) -> None:
    """Print tables of means and spreads, and who wins how often."""
    shown = summaries(rows)
    quality_columns = ("arm", "layer evals", "accuracy %", "after every call", "ECE", "NLL", "layers/image")
    quality = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            plus_minus(row["accuracy"], 2, 100),
            _calls([call[0] for call in row["accuracies"]]),
            plus_minus(row["ece"], 4),
            plus_minus(row["nll"], 4),
            plus_minus(row["layers_per_image"], 0),
        )
        for row in shown
    ]
    console.table(f"held-out images (seeds: {shown[0]['seeds']})", quality_columns, quality)
    scores.report_cost(shown)
    for line in wins(rows):
        print(line)


def _calls(accuracies: Sequence[float]) -> str:
    """In percent; of many the first two and the last two."""
    shown = [f"{value * 100:.2f}" for value in accuracies]
    return " / ".join(shown if len(shown) <= 4 else [*shown[:2], "...", *shown[-2:]])


def wins(rows: Sequence[Row]) -> list[str]:
    """For each blockwise arm and rival: in how many runs it is right more often."""
    lines = []
    for arm, rival in product(OURS, RIVALS):
        found = scores.pairs(rows, arm, rival)
        if found:
            better = sum(a["accuracy"] > b["accuracy"] for a, b in found)
            lines.append(f"{arm} against {rival}: right more often in {better} of {len(found)} runs")
    return lines


def draw(out: Path, rows: Sequence[Row]) -> list[Path]:
    """Accuracy after every call, training loss of the first seed and, with several budgets, accuracy against work."""
    shown = summaries(rows)
    last = [row for row in shown if row["budget"] == rows[-1]["budget"]]
    lines: dict[str, Curve] = {
        row["arm"]: [(float(i), call[0]) for i, call in enumerate(row["accuracies"], 1)] for row in last
    }
    pictures = [curves(lines, out / "accuracy.png", "calls", "held-out accuracy")]
    pictures += scores.training_picture(out, rows, "training loss, unweighted (mean over bands)", "plain")
    if len({row["budget"] for row in rows}) > 1:
        lines = scores.arm_curves(shown, "accuracy")
        pictures.append(curves(lines, out / "budgets.png", "layer evaluations", "held-out accuracy", logarithmic=True))
    return pictures
