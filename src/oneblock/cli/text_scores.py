"""What a comparison of models of text shows: means and spreads, who wins how often, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from oneblock.cli import console, scores
from oneblock.cli.comparison import Row
from oneblock.cli.picture import curves
from oneblock.cli.scores import Curve, plus_minus

BITS = "bits_per_character"
SPREAD = (
    BITS,
    "error",
    "characters_per_second",
    "train_seconds",
    "peak_bytes",
    "peak_bytes_checkpointing",
    "parameters",
)

SHOWN = 100
"""Characters of a sample that are printed."""


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """What the runs of one task on text are judged by, beside bits per character with their error.

    Args:
        ours, rivals: the arms that are set against each other.
        listed: the score that is a list in every row, e.g. of bands; the row's ``listed_at``, if there is one, says
            where its items stand.
        items: what it lists, for people, in the order of the list.
        unit: of its values.
    """

    ours: tuple[str, ...]
    rivals: tuple[str, ...]
    listed: str
    items: str
    unit: str

    def summaries(self, rows: Sequence[Row]) -> list[Row]:
        """``scores.summaries`` of these scores."""
        return scores.summaries(rows, SPREAD, self.listed)

    def report(self, rows: Sequence[Row]) -> None:
        """Print tables of means and spreads, who wins how often, and where curves cross."""
        shown = self.summaries(rows)
        places = _places(rows)
        columns = ("arm", "layer evals", "bits/character", "error", f"{self.unit}: {self.items}")
        quality = [
            (
                row["arm"],
                f"{row['layer_evaluations']:,}",
                plus_minus(row[BITS], 4),
                f"{row['error'][0]:.4f}",
                " / ".join(self._items(row, places.get(row["arm"]))),
            )
            for row in shown
        ]
        console.table(f"held-out text (seeds: {shown[0]['seeds']}; error: of one run)", columns, quality)
        scores.report_cost(shown, [("characters/s", "characters_per_second")])
        self.report_samples(rows)
        for line in (*self.wins(rows), *scores.crossings(shown, [BITS], self.ours, self.rivals)):
            print(line)

    def _items(self, row: Row, places: Sequence[int] | None) -> list[str]:
        """The listed score of a summary, each item with its place if it has one of its own."""
        items = [plus_minus(item, 4) for item in row[self.listed]]
        return items if places is None else [f"{at}: {item}" for at, item in zip(places, items, strict=True)]

    def report_samples(self, rows: Sequence[Row]) -> None:
        """Print how a text of every arm begins, of the first seed and the last budget."""
        last = [row for row in rows if row["budget"] == rows[-1]["budget"] and row["seed"] == rows[0]["seed"]]
        written = [(row["arm"], row["samples"][0][:SHOWN]) for row in last if row["samples"]]
        if written:
            console.table(f"what they write, seed {rows[0]['seed']}", ("arm", "text"), written)

    def wins(self, rows: Sequence[Row]) -> list[str]:
        """For each of our arms and its rivals: in how many runs it needs fewer bits."""
        lines = []
        for arm, rival in product(self.ours, self.rivals):
            found = scores.pairs(rows, arm, rival)
            if found:
                fewer = sum(a[BITS] < b[BITS] for a, b in found)
                lines.append(f"{arm} against {rival}: fewer bits in {fewer} of {len(found)} runs")
        return lines

    def draw(self, out: Path, rows: Sequence[Row]) -> list[Path]:
        """The listed score, training loss of the first seed and, with several budgets, bits against work."""
        shown = self.summaries(rows)
        own, lines = _places(rows), dict[str, Curve]()
        for row in shown:
            if row["budget"] == rows[-1]["budget"]:
                items = [item[0] for item in row[self.listed]]
                places = own.get(row["arm"], range(1, len(items) + 1))
                lines[row["arm"]] = [(float(place), item) for place, item in zip(places, items, strict=True)]
        pictures = [curves(lines, out / f"{self.listed}.png", self.items, self.unit)]
        label = "training loss, unweighted, nats per token"  # arms may differ in their weights
        pictures += scores.training_picture(out, rows, label, "plain")
        if len({row["budget"] for row in rows}) > 1:
            lines = scores.arm_curves(shown, BITS)
            path = out / "budgets.png"
            pictures.append(curves(lines, path, "layer evaluations", "held-out bits per character", logarithmic=True))
        return pictures


def _places(rows: Sequence[Row]) -> dict[str, Sequence[int]]:
    """Of each arm whose listed score has places of its own."""
    return {row["arm"]: row["listed_at"] for row in rows if "listed_at" in row}
