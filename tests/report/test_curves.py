from pathlib import Path
from typing import Any

import pytest
from report.test_spread import ROWS

from oneblock.report import curves
from oneblock.report.curves import draw_sampling, sampling_tables
from oneblock.report.picture import RangedLine


def curve(scale: float) -> list[dict[str, Any]]:
    steps = ((4, "euler", 8.0), (8, "euler", 4.0), (4, "dpm++2m", 2.0))
    return [
        {"sampler": solver, "steps": count, "layer_evaluations": 2 * count, "frechet": scale * frechet}
        for count, solver, frechet in steps
    ]


CURVED = [{**row, "sampling_curve": curve(1.0 + row["seed"])} for row in ROWS]


def test_the_table_has_a_column_for_each_solver() -> None:
    (table,) = sampling_tables([row for row in CURVED if row["budget"] == "1k"])
    assert table.rows[0] == ("end-to-end", "1k", "4", "8", "12.00 ± 5.66 (8.00 to 16.00)", "3.00 ± 1.41 (2.00 to 4.00)")
    assert table.rows[1] == ("end-to-end", "1k", "8", "16", "6.00 ± 2.83 (4.00 to 8.00)", "-")
    assert len(table.rows) == 4
    assert sampling_tables(ROWS) == []


def test_a_line_for_each_arm_and_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[list[RangedLine]] = []
    really = curves.ranged_lines

    def watched(lines: list[RangedLine], path: Path, *labels: str) -> Path:
        drawn.append(lines)
        return really(lines, path, *labels)

    monkeypatch.setattr(curves, "ranged_lines", watched)
    pictures = draw_sampling(tmp_path, CURVED)
    assert [path.name for path in pictures] == ["sampling-1k.png", "sampling-4k.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert [(line.name, line.color, line.style) for line in drawn[0]] == [
        ("end-to-end, euler", 0, 0),
        ("end-to-end, dpm++2m", 0, 1),
        ("branched, euler", 1, 0),
        ("branched, dpm++2m", 1, 1),
    ]
    assert drawn[0][0].points == [(8, 12.0, 8.0, 16.0), (16, 6.0, 4.0, 8.0)]
    assert draw_sampling(tmp_path, ROWS) == []
    assert [path.name for path in draw_sampling(tmp_path, CURVED[:4])] == ["sampling.png"]
