"""A comparison of any task as tables, lines and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oneblock.experiment.grid import Comparison
from oneblock.experiment.summary import Row, Scores
from oneblock.report import evolve, images, labels, memory, sudoku, videos
from oneblock.report.table import Report
from oneblock.report.text import TextReport


@dataclass(frozen=True)
class View:
    """How the comparisons of one task are shown: as tables and lines, and as pictures in their directory."""

    report: Callable[[Sequence[Row], Scores], Report]
    draw: Callable[[Path, Sequence[Row], Scores], list[Path]]


MASKED = TextReport(items="band of masked shares, noisiest first", unit="nats per token")
CALLS = TextReport(items="call", unit="bits per byte")
VIEWS = {
    "images": View(images.report, images.draw),
    "classify": View(labels.report, labels.draw),
    "video": View(videos.report, videos.draw),
    "masked-text": View(MASKED.report, MASKED.draw),
    "text": View(CALLS.report, CALLS.draw),
    "recurrent-text": View(CALLS.report, CALLS.draw),
    "audit": View(memory.report, memory.draw),
    "evolve": View(evolve.report, evolve.draw),
    "relay": View(sudoku.report, sudoku.draw),
}


def report(comparison: Comparison) -> Report:
    """Means and spreads over the seeds, what each arm costs, who wins how often, and where curves cross."""
    return VIEWS[comparison.task].report(comparison.rows, comparison.scores)


def draw(comparison: Comparison) -> list[Path]:
    """Write the pictures of a comparison; those that its task has."""
    return VIEWS[comparison.task].draw(comparison.out, comparison.rows, comparison.scores)
