"""What a comparison shows: means and spreads, who wins how often, where curves cross, pictures.

A row is the result of one run with the names of its ``arm``, ``budget``, ``seed`` and ``run`` (its directory).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from oneblock.cli import console
from oneblock.cli.picture import curves
from oneblock.train.checkpoint import job_folder
from oneblock.train.record import METRICS_FILE, read_rows
from oneblock.train.strategy import TRUNK

Row = dict[str, Any]
Curve = Sequence[tuple[float, float]]
OURS, RIVALS = ("blockwise", "branched"), ("end-to-end", "shallow")
SPREAD = (
    "loss",
    "frechet",
    "frechet_floor",
    "kernel",
    "precision",
    "recall",
    "coverage",
    "train_seconds",
    "images_per_second",
    "peak_bytes",
    "peak_bytes_checkpointing",
    "parameters",
)


def summaries(rows: Sequence[Row], scores: Sequence[str] = SPREAD, listed: str = "band_losses") -> list[Row]:
    """(mean, standard deviation) over the seeds of every score, and of every item of the ``listed`` one; one row per
    arm and budget."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["budget"]), []).append(row)
    return [
        {
            "arm": arm,
            "budget": budget,
            "layer_evaluations": group[0]["layer_evaluations"],
            "seeds": len(group),
            **{key: spread([row[key] for row in group]) for key in scores},
            listed: [spread(list(item)) for item in zip(*(row[listed] for row in group), strict=True)],
        }
        for (arm, budget), group in groups.items()
    ]


def spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    """(mean, standard deviation) of the known values; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return mean(known), stdev(known) if len(known) > 1 else 0.0


def plus_minus(value: tuple[float, float] | None, digits: int, scale: float = 1.0) -> str:
    """``mean ± deviation`` of a ``spread``, in units of 1 / ``scale``."""
    if value is None:
        return "-"
    center, width = value[0] * scale, value[1] * scale
    return f"{center:.{digits}f}" if width == 0 else f"{center:.{digits}f} ± {width:.{digits}f}"


def report_cost(shown: Sequence[Row], speeds: Sequence[tuple[str, str]] = ()) -> None:
    """Print the table of what each arm costs.

    Args:
        shown: ``summaries``.
        speeds: heading and score of columns of its own.
    """
    headings = [heading for heading, _ in speeds]
    columns = ("arm", "layer evals", "parameters", "train s", *headings, "peak MB", "with checkpointing")
    cost = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            "-" if row["parameters"] is None else f"{row['parameters'][0]:,.0f}",
            plus_minus(row["train_seconds"], 0),
            *(plus_minus(row[key], 0) for _, key in speeds),
            plus_minus(row["peak_bytes"], 1, 1e-6),
            plus_minus(row["peak_bytes_checkpointing"], 1, 1e-6),
        )
        for row in shown
    ]
    console.table("cost (peak of one training process, counted)", columns, cost)


def report(rows: Sequence[Row]) -> None:
    """Print tables of means and spreads, and who wins how often."""
    shown = summaries(rows)
    columns = ("arm", "layer evals", "loss", "loss per band, noisiest first", "Frechet", "floor", "recall")
    quality = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            plus_minus(row["loss"], 4),
            " / ".join(plus_minus(band, 3) for band in row["band_losses"]),
            plus_minus(row["frechet"], 2),
            plus_minus(row["frechet_floor"], 2),
            plus_minus(row["recall"], 3),
        )
        for row in shown
    ]
    title = f"quality, held out (seeds: {shown[0]['seeds']}, features: {rows[0]['extractor']})"
    console.table(title, columns, quality)
    report_cost(shown, [("images/s", "images_per_second")])
    for line in (*wins(rows), *crossings(shown)):
        print(line)


def wins(rows: Sequence[Row]) -> list[str]:
    """For each blockwise arm and rival: in how many runs it is better, by loss and by Frechet distance."""
    lines = []
    for arm, rival in product(OURS, RIVALS):
        found = pairs(rows, arm, rival)
        if found:
            loss, frechet = (sum(a[key] < b[key] for a, b in found) for key in ("loss", "frechet"))
            lines.append(
                f"{arm} against {rival}: lower loss in {loss} of {len(found)} runs, "
                f"lower Frechet distance in {frechet} of {len(found)}"
            )
    return lines


def pairs(rows: Sequence[Row], arm: str, rival: str) -> list[tuple[Row, Row]]:
    """The runs of ``arm``, each with that of ``rival`` at its budget and seed."""
    theirs = {(row["budget"], row["seed"]): row for row in rows if row["arm"] == rival}
    ours = [row for row in rows if row["arm"] == arm]
    return [(row, theirs[row["budget"], row["seed"]]) for row in ours if (row["budget"], row["seed"]) in theirs]


def crossings(
    shown: Sequence[Row],
    keys: Sequence[str] = ("loss", "frechet"),
    ours: Sequence[str] = OURS,
    rivals: Sequence[str] = RIVALS,
) -> list[str]:
    """Where the curves of a blockwise arm and a rival cross; empty for a single budget. ``shown``: ``summaries``."""
    lines = []
    for arm, rival, key in product(ours, rivals, keys):
        found = arm_curves(shown, key)
        if len(found.get(arm, ())) == len(found.get(rival, ())) > 1:
            lines.append(f"{key} of {arm} against {rival}: {crossing(found[arm], found[rival])}")
    return lines


def arm_curves(shown: Sequence[Row], key: str) -> dict[str, Curve]:
    """The mean score of every arm against its work. ``shown``: ``summaries``."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in shown:
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


def draw(out: Path, rows: Sequence[Row]) -> list[Path]:
    """Loss during training and samples of the first seed and, with several budgets, scores against work."""
    pictures = training_picture(out, rows, "training loss (mean over bands)")
    pictures += [out / row["run"] / "samples.png" for row in rows if row["seed"] == rows[0]["seed"]]
    if len({row["budget"] for row in rows}) > 1:
        for key, label in (("loss", "held-out loss"), ("frechet", "Frechet distance")):
            lines = arm_curves(summaries(rows), key)
            pictures.append(curves(lines, out / f"{key}.png", "layer evaluations", label, logarithmic=True))
    return pictures


def training_picture(out: Path, rows: Sequence[Row], label: str, key: str = "loss") -> list[Path]:
    """The ``training_curve`` of every arm that has one, at the first seed and the last budget; none, no picture."""
    shown = [row for row in rows if row["seed"] == rows[0]["seed"] and row["budget"] == rows[-1]["budget"]]
    found = {row["arm"]: training_curve(out / row["run"], key) for row in shown}
    lines = {arm: points for arm, points in found.items() if points}
    return [curves(lines, out / "training.png", "layer evaluations", label)] if lines else []


def training_curve(directory: Path, key: str = "loss") -> list[tuple[float, float]]:
    """(work, loss) of a run: the rows at one step, of all blocks and networks, make one point; the trunk's come first.

    Args:
        key: which loss of a row, ``"loss"`` or without weights ``"plain"``.
    """
    at: dict[float, list[Mapping[str, Any]]] = {}
    trunk = read_rows(job_folder(directory, TRUNK) / METRICS_FILE)
    points = [(float(row["layer_evaluations"]), float(row[key])) for row in trunk]
    for path in sorted(directory.rglob("block-*/metrics.jsonl")):
        for row in read_rows(path):
            at.setdefault(float(row["step"]), []).append(row)
    spent = points[-1][0] if points else 0.0
    for _, found in sorted(at.items()):
        work = spent + sum(float(row["layer_evaluations"]) for row in found)
        points.append((work, mean(float(row[key]) for row in found)))
    return points
