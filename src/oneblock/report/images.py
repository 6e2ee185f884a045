"""A comparison of image generators as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from oneblock.experiment.grid import places
from oneblock.experiment.images import SAMPLES_FILE, SAMPLES_PER_CLASS
from oneblock.experiment.summary import Row, Scores, summaries
from oneblock.plan import PLAN_FILE
from oneblock.presets.captions import example_captions, is_captioned
from oneblock.presets.door import read_plan
from oneblock.presets.names import class_names, has_names
from oneblock.report.captions import agreement_table
from oneblock.report.curves import draw_sampling, sampling_tables
from oneblock.report.picture import curves, image_grid
from oneblock.report.spread import arm_curves, cost_table, findings, plus_minus, several_budgets, with_range
from oneblock.report.table import Report, Table
from oneblock.report.training import training_picture

WINS = {"loss": "lower loss", "frechet": "lower Frechet distance"}
LABELS = {"loss": "held-out loss", "frechet": "Frechet distance"}


def report(rows: Sequence[Row], scores: Scores) -> Report:
    """Means and spreads, and who wins how often."""
    shown = summaries(rows, scores)
    columns = ("arm", "layer evals", "loss", "loss per band, noisiest first", "Frechet", "floor", "recall")
    quality = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            with_range(row["loss"], 4),
            " / ".join(plus_minus(band, 3) for band in row["band_losses"]),
            with_range(row["frechet"], 2),
            plus_minus(row["frechet_floor"], 2),
            plus_minus(row["recall"], 3),
        )
        for row in shown
    ]
    features = f", features: {rows[0]['extractor']}" if any("frechet" in row for row in rows) else ""
    title = f"quality, held out (seeds: {shown[0]['seeds']}{features})"
    costs = cost_table(shown, {"images/s": "images_per_second"})
    tables = [Table(title, columns, quality), *agreement_table(rows, shown), costs, *sampling_tables(rows)]
    return Report(tables, findings(rows, shown, scores, WINS))


def draw(out: Path, rows: Sequence[Row], scores: Scores) -> list[Path]:
    """Loss during training and samples of the first seed; with several budgets scores against work; quality against
    sampling work, where that was asked for."""
    pictures = training_picture(out, rows, "training loss (mean over bands)")
    for row in rows:
        picture = _samples(out / row["run"])
        pictures += [picture] if picture is not None and row["seed"] == rows[0]["seed"] else []
    if several_budgets(rows):
        for key, label in LABELS.items():
            lines = arm_curves(summaries(rows, scores), key)
            if lines:
                pictures.append(curves(lines, out / f"{key}.png", "layer evaluations", label, logarithmic=True))
    return pictures + draw_sampling(out, rows)


def _samples(directory: Path) -> Path | None:
    """The picture of a run's samples, None of samples that are no images; of earlier versions there is nothing but the
    picture."""
    picture, file = directory / "samples.png", directory / SAMPLES_FILE
    if not file.is_file():
        return picture
    samples = load_file(file)["images"]
    if samples.dtype != torch.uint8:
        return None
    return image_grid(samples, picture, SAMPLES_PER_CLASS, names=_names(directory))


def _names(directory: Path) -> tuple[str, ...]:
    """Of the classes, if the run's plan holds names, or its captions; the networks of an ensemble have the same."""
    found = [place for place in (directory, *places(directory, 2)) if (place / PLAN_FILE).is_file()]
    plan = read_plan(found[0]) if found else None
    if plan is not None and is_captioned(plan):
        return example_captions(plan)
    return class_names(plan) if plan is not None and has_names(plan) else ()
