"""The page of a comparison of ways to learn Sudokus."""

from __future__ import annotations

from pathlib import Path

from oneblock.experiment.grid import Comparison
from oneblock.experiment.results import RESULT_FILE, read_result
from oneblock.experiment.sudoku import reopen_relay
from oneblock.report.html.page import Facts, Page, Section, Words, lines_chart
from oneblock.report.html.parts import Shown, made_by
from oneblock.report.html.svg import Line
from oneblock.report.sudoku import report, solved_by_calls
from oneblock.train.session import read_sessions

ASKED = ("puzzles", "held_out", "turned", "calls", "calls_per_step", "batch_size", "width", "depth", "heads")


def is_relay(directory: Path) -> bool:
    """Whether the results in a directory are of Sudokus."""
    try:
        return any("decoded" in read_result(path) for path in directory.glob(f"*/{RESULT_FILE}"))
    except (ValueError, OSError):
        return False


def relay_page(directory: Path, shown: Shown) -> Page:
    """Puzzles solved against calls, arm by arm, and what changed states make of it.

    Raises:
        ValueError: the directory holds no such result.
    """
    found = reopen_relay(directory)
    rows = found.rows
    told = report(rows, found.scores)
    asked = [(key.replace("_", " "), str(rows[0][key])) for key in ASKED]
    tried = {row["arm"]: row["tried"] for row in rows}
    rates = [(f"rates of {arm}", _tried(of_it)) for arm, of_it in tried.items()]
    seeds = len({row["seed"] for row in rows})
    return Page(
        kind="a comparison, Sudokus with and without a state",
        directory=directory,
        summary=[f"{len(tried)} ways to learn, {seeds} seed{'s' if seeds > 1 else ''}."],
        sections=[
            Section("What was asked", [Facts([*asked, *rates])]),
            Section("Puzzles solved against calls", lines_chart("", _lines(found), "calls per puzzle", "% solved")),
            Section("Results", [*told.tables, Words(told.lines)]),
            made_by(read_sessions(directory)),
        ],
        missing=shown.missing,
        warnings=shown.warnings,
    )


def _tried(solved: dict[str, float | None]) -> str:
    """Every rate with what it has solved on the first seed."""
    return ", ".join(f"{rate}: {'-' if share is None else f'{100 * share:.1f} %'}" for rate, share in solved.items())


def _lines(found: Comparison) -> list[Line]:
    return [
        Line(arm, [(calls, 100 * share) for calls, share in points], color)
        for color, (arm, points) in enumerate(solved_by_calls(found.rows).items())
    ]
