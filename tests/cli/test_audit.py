import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK

from oneblock.model import ImageModel

pytest.importorskip("sklearn")
Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
FAST = ("--chains", "20", "--cycles", "2", "--cycle-steps", "3", "--start-steps", "4", "--amplitudes", "0.2", "1.0")


def test_the_command_line_is_one_call(
    trained: Path, tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (row,) = ok("audit", trained, "--data", "digits", *FAST, "--out", tmp_path / "a", "--json")
    called = ImageModel.open(trained).audit(
        "digits", chains=20, cycles=2, cycle_steps=3, start_steps=4, amplitudes=(0.2, 1.0)
    )
    assert row == called.row == json.loads((tmp_path / "a" / "audit.json").read_text())
    assert not (tmp_path / "a" / "recovered.png").exists()
    ok("audit", trained, *FAST, "--show", "--out", tmp_path / "b")
    assert json.loads((tmp_path / "b" / "audit.json").read_text()) == row, "the plan's own data are the same"


def test_tables_and_a_verdict_are_printed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from oneblock.cli.__main__ import main

    assert main(["audit", str(trained), *FAST, "--held-out", "digits"]) == 0
    out, err = capsys.readouterr()
    assert "VERDICT: no more copies" in out and "cycles of amplitude sigma = 0.2" in err


def test_refusals(trained: Path, tmp_path: Path, ok: Ok, refused: Refused) -> None:
    assert "show=True writes recovered images into --out; give --out DIR too" in refused("audit", trained, "--show")
    said = refused("audit", trained, *FAST[:-3], "--amplitudes", "100")
    assert "amplitude=100 is a noise level that the model was not trained on; use sigma above 0.002, up to 80" in said
    ok("train", "classify", "--out", tmp_path / "labels", *TINY, *WORK)
    said = refused("audit", tmp_path / "labels")
    assert "is a run of task 'classify', which oneblock audit does not support; it supports image" in said


def test_audits_while_training(tmp_path: Path, ok: Ok) -> None:
    ok("train", "images", "--out", tmp_path, *TINY, *WORK, "--audit-every", "4", "--json")
    (row,) = [json.loads(line) for line in (tmp_path / "audits.jsonl").read_text().splitlines()]
    assert (row["job"], row["step"]) == ("block-1", 4)


def test_compare(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "audit", "--out", tmp_path, *TINY, *WORK, "--seeds", "1", "--arms", "shallow", "blockwise")
    words = (*words, "--images", "30", "--planted", "2", "--copies", "3", *FAST)
    (found,) = ok(*words, "--json")
    assert [row["run"] for row in found["runs"]] == ["shallow-256-seed0", "blockwise-256-seed0"]
    from oneblock.cli.__main__ import main

    assert main([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert "memory of 30 images, 2 of them 3 times (seeds: 1)" in out
    assert "% copies after cycles, AUC" in err
