"""The page of an audit, from its ``audit.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oneblock.evaluate.audit import Audit
from oneblock.evaluate.watching import AUDITS_FILE
from oneblock.plain import parse_plain, read_plain
from oneblock.report import audit
from oneblock.report.html.page import Facts, Page, Part, Section, Words, lines_chart
from oneblock.report.html.parts import Shown, made_by
from oneblock.report.html.svg import Line
from oneblock.train.session import read_sessions

RECOVERED = "recovered.png"
"""What ``audit --show`` writes; it is not put into a page, which is made to be handed on."""
Row = Mapping[str, Any]


def audit_page(directory: Path, shown: Shown) -> Page:
    """An audit: its verdict, tables, and shares against amplitude and cycles.

    Raises:
        ValueError: its file is not one of an audit.
    """
    found = read_audit(directory)
    sessions = read_sessions(directory)
    about = [(key, str(value)) for session in sessions[-1:] for key, value in session.about.items()]
    settings = [
        (key.replace("_", " "), "usual ones" if value == [] else str(value))
        for key, value in found.row["asked"].items()
    ]
    if not sessions:
        shown.missing.append("which model was audited, and how: the audit was made by an earlier version of oneblock")
    return Page(
        kind="an audit",
        directory=directory,
        summary=audit_words(directory),
        sections=[
            Section("What was asked", [Facts([*about, *settings])]),
            Section("What was found", audit_figures(directory)),
            made_by(sessions),
        ],
        missing=shown.missing,
        warnings=shown.warnings,
    )


def read_audit(directory: Path) -> Audit:
    """The audit in a directory; ``ValueError`` if its file is not one."""
    path = directory / audit.JSON_FILE
    row = read_plain(path)
    try:
        found = Audit(row=row)
        audit.report(found)
    except (KeyError, TypeError, IndexError, AttributeError, StopIteration) as error:
        raise ValueError(f"{path} is not an audit ({error!r}); run oneblock audit again") from error
    return found


def audit_parts(directory: Path) -> list[Part]:
    """The verdict, charts and tables of the audit in a directory."""
    return [Words(audit_words(directory)), *audit_figures(directory)]


def audit_words(directory: Path) -> list[str]:
    """The verdict, and where recovered images lie."""
    found = read_audit(directory)
    held = [f"{RECOVERED} in the directory shows the recovered images."] if (directory / RECOVERED).is_file() else []
    return [*audit.lines(found), *held]


def audit_figures(directory: Path) -> list[Part]:
    """Charts and tables of the audit in a directory."""
    found = read_audit(directory)
    charts = [*_sweep(found.row), *_survival(found.row), *_bands(found.row)]
    return [*charts, *audit.report(found).tables]


def audits_chart(directory: Path) -> list[Part]:
    """Copies found by the small audits of a run while it trained, one after the other."""
    path = directory / AUDITS_FILE
    try:
        rows = [parse_plain(line, str(path)) for line in path.read_bytes().splitlines()]
        at = list(enumerate(rows, 1))
        one_shot = [(float(i), 100 * row["one_shot"]["copies"][0]) for i, row in at]
        cycles = [(float(i), 100 * max(one["copies"][0] for one in row["cycles"])) for i, row in at]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} holds a line that is not an audit ({error!r}); delete the line") from error
    lines = [Line("one-shot samples", one_shot, 0), Line("ends of cycles, the amplitude with most", cycles, 1)]
    title = "Copies of training images while it trained"
    return [*lines_chart(title, lines, "audits, in their order", "% that are copies", whole_x=True)]


def _sweep(row: Row) -> Sequence[Part]:
    cycles = [one for one in row["rows"] if one["how"] == "cycles"]
    edges = [cycles[0]["sigma"], cycles[-1]["sigma"]] if cycles else []
    lines = [
        Line(
            "cycles: copies of training images",
            [(one["sigma"], 100 * one["copies"][0]) for one in cycles],
            0,
            ranges=[(one["sigma"], 100 * one["copies"][1], 100 * one["copies"][2]) for one in cycles],
        ),
        Line("cycles: copies of held-out images", [(one["sigma"], 100 * one["false_copies"][0]) for one in cycles], 1),
        Line("cycles: degenerate", [(one["sigma"], 100 * one["degenerate"]) for one in cycles], 2),
    ]
    for color, one in enumerate((one for one in row["rows"] if one["how"] == "one-shot"), 3):
        lines.append(Line(audit.name(one), [(edge, 100 * one["copies"][0]) for edge in edges], color, 1))
    return lines_chart("Copies against the amplitude of the cycles", lines, "sigma", "% of samples", log_x=True)


def _survival(row: Row) -> Sequence[Part]:
    lines = [
        Line(
            f"{words}, sigma {one['sigma']:.3g}",
            [(float(k), 100 * share) for k, share in enumerate(one[group], 1)],
            color,
            dash,
        )
        for dash, (group, words) in enumerate(audit.GROUPS.items())
        for color, one in enumerate(row["survival"])
        if group in one
    ]
    return lines_chart("Chains that are still where they started", lines, "cycles", "% of chains", whole_x=True)


def _bands(row: Row) -> Sequence[Part]:
    found = row["membership"]
    edges = found["edges"]
    middles = [(edges[b] * edges[b + 1]) ** 0.5 for b in range(len(found["band_auc"]))]
    ends = [middles[0], middles[-1]]
    lines = [
        Line("each band", list(zip(middles, found["band_auc"], strict=True)), 0),
        Line("chance: at most", [(end, found["chance"]) for end in ends], 7, 1),
    ]
    return lines_chart("Training images told from held-out ones by their loss", lines, "sigma", "AUC", log_x=True)
