from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
Ok = Callable[..., list[dict[str, Any]]]
SMALL = ("--width", "8", "--depth", "1", "--heads", "2", "--batch-size", "4", "--calls", "4")
FEW = ("--puzzles", "12", "--held-out", "6", "--rates", "1e-3", "--arms", "rollout", "relay", "--seeds", "1")


def test_compare(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "relay", "--data", "sudoku6", "--out", tmp_path, *SMALL, *FEW)
    (found,) = ok(*words, "--json", "--workers", "2")
    assert [row["run"] for row in found["runs"]] == ["rollout-0.001-seed0", "relay-0.001-seed0"]
    assert found["pictures"] == [str(tmp_path / "exact.png")]
    from oneblock.cli.__main__ import main

    assert main([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert "puzzles solved in %, by calls per puzzle (seeds: 1)" in out
    assert "no state" in out
    assert "rollout-0.001-seed0" in err
    ok("report", tmp_path, "--json")
    page = (tmp_path / "report.html").read_text()
    assert "Sudokus with and without a state" in page and "was not recorded" not in page
    assert "rates of rollout" in page and "Traceback" not in page
