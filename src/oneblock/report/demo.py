"""The demo as a table and a picture."""

from __future__ import annotations

from pathlib import Path

from oneblock.experiment.demo import PER_CLASS, Demo
from oneblock.report.picture import image_grid
from oneblock.report.table import Table

ARMS = {"end-to-end": "end-to-end", "branched": "3 blocks, one at a time"}
LINES = (
    ("held-out denoising loss (lower is better)", "loss", ".4f"),
    ("Frechet distance, features {extractor}", "frechet", ".2f"),
    ("  of real images to real images", "frechet_floor", ".2f"),
    ("images recognised as their class", "class_agreement", ".1%"),
    ("layer evaluations of training", "layer_evaluations", ","),
    ("seconds of training", "train_seconds", ".0f"),
    ("images generated per second", "images_per_second", ".0f"),
    ("peak bytes of training", "peak_bytes", ","),
    ("  with activation checkpointing", "peak_bytes_checkpointing", ","),
)
"""What is said of a score, its name and its format."""


def demo_table(demo: Demo) -> Table:
    """Scores as lines, those that there are; arms as columns."""
    rows = demo.comparison.rows
    known = [{**row, "train_seconds": row["train_seconds"] or float("nan")} for row in rows]
    lines = [
        (words.format(**known[0]), *(format(row[key], form) for row in known))
        for words, key, form in LINES
        if key in known[0]
    ]
    return Table("digits, DiT of 6 layers", ("", *(ARMS[row["arm"]] for row in rows)), lines)


def demo_picture(demo: Demo) -> Path:
    """The generated images, a row for each class, as a PNG in the demo's directory."""
    return image_grid(demo.images, demo.comparison.out / "digits.png", PER_CLASS, smooth=True)
