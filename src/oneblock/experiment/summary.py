"""Rows of results, and their means and spreads over the seeds.

A row is the result of one run: its ``arm``, ``budget``, ``seed`` and ``run`` (the name of its directory), what it cost,
and the scores of its task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

Row = dict[str, Any]
COSTS = ("train_seconds", "peak_bytes", "peak_bytes_checkpointing", "parameters")
"""What every row says of its training beside its work."""


class Spread(NamedTuple):
    """A score over the seeds: mean, standard deviation (0 of a single seed), lowest and highest."""

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the runs of a comparison are judged by.

    Args:
        judged: the scores that decide between two arms, and which end of each is better.
        spread: the scores that means and spreads are taken of.
        listed: the score that is a list in every row, e.g. of bands; the row's ``listed_at``, if there is one, says
            where its items stand.
        ours, rivals: the arms that are set against each other.
    """

    judged: dict[str, Literal["higher", "lower"]]
    spread: tuple[str, ...]
    listed: str
    ours: tuple[str, ...]
    rivals: tuple[str, ...]


def summaries(rows: Sequence[Row], scores: Scores) -> list[Row]:
    """The ``Spread`` over the seeds of every score, None of one that no run has, and of every item of the listed one;
    one row per arm and budget."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["budget"]), []).append(row)
    return [
        {
            "arm": arm,
            "budget": budget,
            "layer_evaluations": group[0]["layer_evaluations"],
            "seeds": len(group),
            **{key: spread([row.get(key) for row in group]) for key in scores.spread},
            scores.listed: [spread(list(item)) for item in zip(*(row[scores.listed] for row in group), strict=True)],
        }
        for (arm, budget), group in groups.items()
    ]


def spread(values: Sequence[float | None]) -> Spread | None:
    """The spread of the known values; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(mean(known), stdev(known) if len(known) > 1 else 0.0, min(known), max(known))


def pairs(rows: Sequence[Row], arm: str, rival: str) -> list[tuple[Row, Row]]:
    """The runs of ``arm``, each with that of ``rival`` at its budget and seed."""
    theirs = {(row["budget"], row["seed"]): row for row in rows if row["arm"] == rival}
    ours = [row for row in rows if row["arm"] == arm]
    return [(row, theirs[row["budget"], row["seed"]]) for row in ours if (row["budget"], row["seed"]) in theirs]
