"""A comparison of video generators as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from einops import rearrange
from safetensors.torch import load_file

from oneblock.experiment.summary import Row, Scores, summaries
from oneblock.experiment.video import ROLLOUTS_FILE
from oneblock.report.picture import curves, image_grid
from oneblock.report.spread import arm_curves, cost_table, findings, plus_minus, several_budgets, with_range
from oneblock.report.table import Report, Table
from oneblock.report.training import training_picture

WINS = {"loss": "lower loss", "place_far": "nearer to the true places", "frechet": "lower Frechet distance"}
LABELS = {"loss": "held-out loss", "place_far": "pixels off in the last part of a rollout"}


def report(rows: Sequence[Row], scores: Scores) -> Report:
    """Means and spreads, and who wins how often."""
    shown = summaries(rows, scores)
    columns = (
        *("arm", "layer evals", "loss", "loss per band, noisiest first"),
        *("pixels off, near", "far", "Frechet", "floor"),
    )
    quality = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            with_range(row["loss"], 4),
            " / ".join(plus_minus(band, 3) for band in row["band_losses"]),
            plus_minus(row["place_near"], 2),
            with_range(row["place_far"], 2),
            plus_minus(row["frechet"], 2),
            plus_minus(row["frechet_floor"], 2),
        )
        for row in shown
    ]
    title = f"held-out clips (seeds: {shown[0]['seeds']})"
    tables = [Table(title, columns, quality), cost_table(shown, {"frames/s": "frames_per_second"})]
    return Report(tables, findings(rows, shown, scores, WINS))


def draw(out: Path, rows: Sequence[Row], scores: Scores) -> list[Path]:
    """Loss during training and rollouts of the first seed; how far off things are, frame by frame; with several budgets
    scores against work."""
    pictures = training_picture(out, rows, "training loss (mean over bands)")
    drift = _drift(rows)
    if drift:
        pictures.append(curves(drift, out / "drift.png", "frames after the given ones", "pixels off"))
    for row in rows:
        file = out / row["run"] / ROLLOUTS_FILE
        if row["seed"] == rows[0]["seed"] and file.is_file():
            pictures.append(_rollouts(file))
    if several_budgets(rows):
        for key, label in LABELS.items():
            lines = arm_curves(summaries(rows, scores), key)
            if lines:
                pictures.append(curves(lines, out / f"{key}.png", "layer evaluations", label, logarithmic=True))
    return pictures


def _drift(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """The mean error of every arm in each frame, over the seeds of the last budget."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        if "place_errors" in row and row["budget"] == rows[-1]["budget"]:
            found.setdefault(row["arm"], []).append(row["place_errors"])
    return {
        arm: [(float(i), mean(errors)) for i, errors in enumerate(zip(*runs, strict=True), 1)]
        for arm, runs in found.items()
    }


def _rollouts(file: Path) -> Path:
    """A picture of every second frame: true videos, each above what was made of its first frames."""
    found = load_file(file)
    true, made = (found[name][:, ::2] for name in ("true", "made"))
    pairs = rearrange([true, made], "two n f c h w -> (n two f) c h w")
    return image_grid(pairs, file.with_suffix(".png"), true.shape[1], pixels=32)
