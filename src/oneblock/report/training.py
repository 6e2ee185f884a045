"""Training curves, from the metrics that runs have written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from oneblock.experiment.summary import Row
from oneblock.report.picture import curves
from oneblock.train import record
from oneblock.train.checkpoint import job_folder
from oneblock.train.step import TRUNK


def training_picture(out: Path, rows: Sequence[Row], label: str, key: str = "loss") -> list[Path]:
    """The ``training_curve`` of every arm that has one, at the first seed and the last budget; without any, no
    picture."""
    shown = [row for row in rows if row["seed"] == rows[0]["seed"] and row["budget"] == rows[-1]["budget"]]
    found = {row["arm"]: training_curve(out / row["run"], key) for row in shown}
    lines = {arm: points for arm, points in found.items() if points}
    return [curves(lines, out / "training.png", "layer evaluations", label)] if lines else []


def training_curve(directory: Path, key: str = "loss") -> list[tuple[float, float]]:
    """(work, loss) of a run: the rows at one step, of all blocks and networks, make one point; the trunk's come first.

    Args:
        key: which loss of a row, ``"loss"`` or without weights ``"plain"``.
    """
    trunk = record.read_rows(job_folder(directory, TRUNK) / record.METRICS_FILE)
    points = [(float(row["layer_evaluations"]), float(row[key])) for row in trunk]
    at: dict[float, list[record.Row]] = {}
    for path in sorted(directory.rglob(f"block-*/{record.METRICS_FILE}")):
        for row in record.read_rows(path):
            at.setdefault(float(row["step"]), []).append(row)
    spent = points[-1][0] if points else 0.0
    for _, found in sorted(at.items()):
        work = spent + sum(float(row["layer_evaluations"]) for row in found)
        points.append((work, mean(float(row[key]) for row in found)))
    return points
