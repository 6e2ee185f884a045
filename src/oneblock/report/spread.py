"""Means and spreads in words and tables: who wins how often, where curves cross, what each arm costs.

``shown`` is everywhere the ``summaries`` of ``rows`` (``experiment.summary``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import torch

from oneblock.experiment.summary import Row, Scores, Spread, pairs
from oneblock.report.table import Table

Curve = Sequence[tuple[float, float]]


def plus_minus(value: Spread | None, digits: int, scale: float = 1.0) -> str:
    """``mean ± deviation`` of a spread, in units of 1 / ``scale``."""
    if value is None:
        return "-"
    center, width = value.mean * scale, value.deviation * scale
    return f"{center:.{digits}f}" if width == 0 else f"{center:.{digits}f} ± {width:.{digits}f}"


def with_range(value: Spread | None, digits: int, scale: float = 1.0) -> str:
    """``mean ± deviation (lowest to highest)`` of a spread, in units of 1 / ``scale``."""
    shown = plus_minus(value, digits, scale)
    if value is None or value.deviation == 0:
        return shown
    return f"{shown} ({value.low * scale:.{digits}f} to {value.high * scale:.{digits}f})"


def findings(rows: Sequence[Row], shown: Sequence[Row], scores: Scores, words: Mapping[str, str]) -> list[str]:
    """What a comparison shows, in lines: what its seeds can say, who wins how often, where curves cross; ``words`` as
    in ``wins``."""
    return [*seeds_note(shown[0]["seeds"]), *wins(rows, scores, words), *crossings(shown, scores)]


def seeds_note(seeds: int, share: float = 0.95) -> list[str]:
    """What so many seeds can say of the deviation, a line; nothing of a single seed.

    ``(n - 1) s^2 / sigma^2`` of n normal scores follows a chi-square law of n - 1 degrees of freedom.
    """
    if seeds < 2:
        return []
    low, high = (math.sqrt((seeds - 1) / _chi_square(seeds - 1, q)) for q in ((1 + share) / 2, (1 - share) / 2))
    return [
        f"±: standard deviation of {seeds} seeds; by chance alone ({share:.0%}, normal scores) that of many seeds is "
        f"{low:.1f} to {high:.1f} times as large"
    ]


def _chi_square(freedom: int, share: float) -> float:
    """The quantile of a chi-square law, by bisection."""
    low, high = 0.0, 100.0 * freedom
    for _ in range(100):
        middle = (low + high) / 2
        below = torch.special.gammainc(*torch.tensor([freedom / 2, middle / 2], dtype=torch.float64))
        low, high = (middle, high) if below < share else (low, middle)
    return low


def cost_table(shown: Sequence[Row], speeds: Mapping[str, str] | None = None) -> Table:
    """What each arm costs.

    Args:
        speeds: headings of columns of the task's own -> their scores.
    """
    own = speeds or {}
    columns = ("arm", "layer evals", "parameters", "train s", *own, "peak MB", "with checkpointing")
    rows = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            "-" if row["parameters"] is None else f"{row['parameters'][0]:,.0f}",
            plus_minus(row["train_seconds"], 0),
            *(plus_minus(row[key], 0) for key in own.values()),
            plus_minus(row["peak_bytes"], 1, 1e-6),
            plus_minus(row["peak_bytes_checkpointing"], 1, 1e-6),
        )
        for row in shown
    ]
    return Table("cost (peak of one training process, counted)", columns, rows)


def wins(rows: Sequence[Row], scores: Scores, words: Mapping[str, str]) -> list[str]:
    """For each of our arms and its rivals: in how many runs it is better.

    Args:
        words: a judged score -> how to say that it is better.
    """
    lines = []
    for arm, rival in ((ours, theirs) for ours, theirs in product(scores.ours, scores.rivals) if ours != theirs):
        found, counts = pairs(rows, arm, rival), list[str]()
        for key in scores.judged:
            known = [pair for pair in found if all(row.get(key) is not None for row in pair)]
            if known:
                counts.append(f"{words[key]} in {_better(known, key, scores)} of {len(known)}")
        if counts:
            counts[0] += " runs"
            lines.append(f"{arm} against {rival}: {', '.join(counts)}")
    return lines


def _better(found: Sequence[tuple[Row, Row]], key: str, scores: Scores) -> int:
    sign = 1 if scores.judged[key] == "higher" else -1
    return sum(sign * a[key] > sign * b[key] for a, b in found)


def crossings(shown: Sequence[Row], scores: Scores) -> list[str]:
    """Where the curves of our arms and their rivals cross, of scores where lower is better; empty for one budget."""
    lines = []
    falling = [key for key, end in scores.judged.items() if end == "lower"]
    for arm, rival, key in product(scores.ours, scores.rivals, falling):
        found = arm_curves(shown, key)
        if len(found.get(arm, ())) == len(found.get(rival, ())) > 1:
            lines.append(f"{key} of {arm} against {rival}: {crossing(found[arm], found[rival])}")
    return lines


def arm_curves(shown: Sequence[Row], key: str) -> dict[str, Curve]:
    """The mean score of every arm against its work, of those that have the score."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in (row for row in shown if row[key] is not None):
        points.setdefault(row["arm"], []).append((float(row["layer_evaluations"]), row[key][0]))
    return {arm: sorted(found) for arm, found in points.items()}


def crossing(a: Curve, b: Curve) -> str:
    """In words, where curve ``a`` passes curve ``b``; points are (work, score), lower scores are better. Interpolated
    linearly in the logarithm of the work."""
    points = [(math.log(work), y - z) for (work, y), (_, z) in zip(a, b, strict=True)]
    found = []
    for (left, before), (right, after) in pairwise(points):
        if before * after < 0:
            at = math.exp(left + before / (before - after) * (right - left))
            found.append(f"{'better' if after < 0 else 'worse'} from about {at:,.0f} layer evaluations on")
    if found:
        return ", ".join(found)
    return f"{'better' if points[0][1] < 0 else 'not better'} at every budget"


def several_budgets(rows: Sequence[Row]) -> bool:
    """Whether there is a curve over budgets to show."""
    return len({row["budget"] for row in rows}) > 1
