"""What an audit has found as tables, lines, a JSON file and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oneblock.evaluate.audit import Audit
from oneblock.plain import write_whole
from oneblock.report.picture import RangedLine, Sweep, curves, image_grid, ranged_lines, sweep
from oneblock.report.table import Report, Table
from oneblock.train.session import add_session, this_session

JSON_FILE = "audit.json"
COLUMNS = 10
"""Of the picture of recovered images, each beside its training image."""
GROUPS = {
    "found": "training images that were found",
    "training": "training images",
    "held_out": "held-out images",
}
Row = Mapping[str, Any]


def report(audit: Audit) -> Report:
    """Tables, then the verdict in sentences."""
    row = audit.row
    tables = [_copies(row), _survival(row)]
    if row["memories"]:
        tables.append(_memories(row))
    return Report([*tables, _members(row)], lines(audit))


def lines(audit: Audit) -> list[str]:
    """The verdict and what it rests on."""
    row = audit.row
    if audit.verdict == "copies":
        said = [_found(row), _against_one_shot(row)]
    else:
        said = [_nothing(row), *([_overfitted(row)] if audit.verdict == "overfitted" else [])]
    return [*said, *_degenerate(row), *_limits(row)]


def write(audit: Audit, out: Path, about: Mapping[str, object] | None = None) -> list[Path]:
    """Write ``audit.json`` and the pictures into the directory ``out``; recovered images only where ``audit`` has
    them.

    Args:
        about: what was audited, for the record of the session (``train.session``).
    """
    out.mkdir(parents=True, exist_ok=True)
    add_session(out, this_session(dict(about or {})))
    write_whole(out / JSON_FILE, json.dumps(audit.row, indent=2) + "\n")
    pictures = [_sweep(audit.row, out), _coverage(audit.row, out), _curves(audit.row, out)]
    if audit.recovered is not None and len(audit.recovered) and not audit.recovered.is_floating_point():
        pictures.append(image_grid(audit.recovered.flatten(0, 1), out / "recovered.png", COLUMNS))
    return [out / JSON_FILE, *pictures]


def name(row: Row) -> str:
    """A row in a few words."""
    return f"one-shot, {row['sampler']}" if row["how"] == "one-shot" else f"cycles, sigma {row['sigma']:.3g}"


def _copies(row: Row) -> Table:
    columns = ("samples of", "q", "samples", "copies %", "of images", "held-out %", "degenerate %", "attractors")
    cells = []
    for one in row["rows"]:
        cycled = one["how"] == "cycles"
        cells.append(
            (
                name(one),
                f"{one['q']:.3g}" if cycled else "-",
                str(one["samples"]),
                _percent(one["copies"]),
                str(one["distinct"]),
                _percent(one["false_copies"]),
                f"{100 * one['degenerate']:.1f}",
                f"{one['attractors']} ({one['copied_attractors']} copies)" if cycled else "-",
            )
        )
        if not cycled and one["distinct"]:
            kept = round(one["copies"][0] * one["samples"])
            cells.append(("  kept by who has the images", "-", str(kept), "100", str(one["distinct"]), "-", "-", "-"))
    return Table(f"copies of training images, at {row['rows'][0]['calls']:,} calls of the network each", columns, cells)


def _survival(row: Row) -> Table:
    groups = [group for group in GROUPS if group in row["survival"][0]]
    cells = [(f"{one['sigma']:.3g}", *(f"{100 * one[group][-1]:.0f}" for group in groups)) for one in row["survival"]]
    title = f"% of chains that are still where they started after {row['asked']['cycles']} cycles"
    return Table(title, ("sigma", *(GROUPS[group] for group in groups)), cells)


def _memories(row: Row) -> Table:
    chosen = [one for one in row["memories"] if one["half_at"] is not None]
    cells = [(str(one["image"]), str(one["copies"]), str(one["samples"]), f"{one['half_at']:.3g}") for one in chosen]
    columns = ("training image", "times in the data", "samples that are copies", "half leave at sigma")
    most = f", the {len(cells)} most frequent of {len(row['memories'])}" if len(cells) < len(row["memories"]) else ""
    return Table(f"images that were found{most}", columns, cells)


def _members(row: Row) -> Table:
    found, edges = row["membership"], row["membership"]["edges"]
    bands = [
        (f"AUC of the loss, sigma {edges[b + 1]:.3g} to {edges[b]:.3g}", f"{area:.3f}")
        for b, area in enumerate(found["band_auc"])
    ]
    cells = [
        ("AUC of all bands", f"{found['auc']:.3f}"),
        (f"true positives at {found['fpr']:.0%} false ones", f"{found['tpr']:.3f}"),
        *bands,
    ]
    title = f"training images ({found['members']}) told from held-out ones ({found['others']}) by their loss"
    return Table(title, ("score", "value"), cells)


def _found(row: Row) -> str:
    best = max(row["rows"], key=lambda one: one["copies"][0])
    return (
        f"VERDICT: this model has memorised training images. Of its samples ({name(best)}) "
        f"{_percent(best['copies'])} % are copies of {best['distinct']} different training images, and "
        f"{_percent(best['false_copies'])} % are copies of held-out images, which it never saw."
    )


def _against_one_shot(row: Row) -> str:
    """What cycles win and lose against one-shot samples of the same sampler."""
    same = next(one for one in row["rows"] if one["how"] == "one-shot" and one["sampler"] == row["asked"]["reverse"])
    best = max((one for one in row["rows"] if one["how"] == "cycles"), key=lambda one: one["copies"][0])
    return (
        f"For the same calls one-shot samples of the same sampler are copies in {_percent(same['copies'])} % and show "
        f"{same['distinct']} different training images, cycles (sigma {best['sigma']:.3g}) in "
        f"{_percent(best['copies'])} % and show {best['distinct']}."
    )


def _nothing(row: Row) -> str:
    most = max(row["rows"], key=lambda one: (one["copies"][0], one["samples"]))
    return (
        "VERDICT: no more copies of training images were found than of images that the model never saw. Of "
        f"{most['samples']} samples ({name(most)}) {_percent(most['copies'])} % are copies of training images, "
        f"{_percent(most['false_copies'])} % of held-out ones. This is no proof: images that are seldom reached are "
        "not found."
    )


def _overfitted(row: Row) -> str:
    found = row["membership"]
    return (
        f"But the loss tells training images from held-out ones (AUC {found['auc']:.3f}; chance gives 0.5, at most "
        f"{found['chance']:.3f}): of an image one may learn that it was trained."
    )


def _degenerate(row: Row) -> list[str]:
    worst = max((one for one in row["rows"] if one["how"] == "cycles"), key=lambda one: one["degenerate"])
    if worst["degenerate"] < 0.05:
        return []
    return [
        f"{100 * worst['degenerate']:.0f} % of the chains at sigma {worst['sigma']:.3g} ended in constant or striped "
        "images: they stay there, and these are not memories."
    ]


def _limits(row: Row) -> list[str]:
    notes = [
        f"Of {row['held_out_images']} held-out images {_percent(row['base_rate'])} % pass the test for copies (nearest "
        f"over next nearest training image below {row['kappa']:.3f})."
    ]
    if row["held_out_copies"]:
        notes.append(f"{row['held_out_copies']} held-out images are training images too, and were left out.")
    return notes


def _percent(share: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in share)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _sweep(row: Row, out: Path) -> Path:
    cycles = [one for one in row["rows"] if one["how"] == "cycles"]
    levels = {f"{name(one)}": 100 * one["copies"][0] for one in row["rows"] if one["how"] == "one-shot"}
    points = [(one["sigma"], *(100 * value for value in one["copies"])) for one in cycles]
    others = {
        "copies of held-out images": [(one["sigma"], 100 * one["false_copies"][0]) for one in cycles],
        "degenerate": [(one["sigma"], 100 * one["degenerate"]) for one in cycles],
    }
    return sweep(
        Sweep("copies of training images", points, others, levels), out / "sweep.png", "sigma", "q", "% of samples"
    )


def _coverage(row: Row, out: Path) -> Path:
    points = {name(one): [(float(one["distinct"]), 100 * one["copies"][0])] for one in row["rows"]}
    for one in row["rows"]:
        if one["how"] == "one-shot":
            points[f"{name(one)}, kept by who has the images"] = [(float(one["distinct"]), 100.0)]
    return curves(points, out / "coverage.png", "different training images", "% of samples that are copies")


def _curves(row: Row, out: Path) -> Path:
    lines = [
        RangedLine(f"{words}, sigma {one['sigma']:.3g}", _points(one[group]), color, style)
        for style, (group, words) in enumerate(GROUPS.items())
        for color, one in enumerate(row["survival"])
        if group in one
    ]
    return ranged_lines(
        lines, out / "survival.png", "cycles", "% of chains still where they started", logarithmic=False
    )


def _points(shares: Sequence[float]) -> list[tuple[float, float, float, float]]:
    return [(float(k), 100 * share, 100 * share, 100 * share) for k, share in enumerate(shares, 1)]
