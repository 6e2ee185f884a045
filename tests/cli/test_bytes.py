from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
SMALL = ("--width", "16", "--steps", "6", "--population", "16", "--group-size", "4", "--tokens", "5")


def test_train_status_evaluate_sample(
    tmp_path: Path, text: str, ok: Ok, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    *rows, last = ok("train", "bytes", "--integer", "--out", run, "--data", text, *SMALL, "--json")
    assert [(row["job"], row["step"], row["num_steps"]) for row in rows] == [("egg", 6, 6)]
    (state,) = ok("status", run, "--json")
    assert (state["job"], state["step"], state["state"], state["plan"]) == ("egg", 6, "done", last["plan"])
    assert all(file["good"] for file in ok("fsck", run, "--json"))
    (scores,) = ok("evaluate", run, "--scored", "64", "--pieces", "4", "--json")
    assert scores["bytes"] == 60
    ok("evaluate", "--pieces", "4", "--scored", "64", run)
    texts = ok("sample", run, "--count", "2", "--prompt", "the cat", "--tokens", "5", "--json")
    assert [row["text"][:7] for row in texts] == ["the cat", "the cat"]
    ok("sample", run, "--tokens", "3")
    assert "an option for image; the task of this run is bytes" in refused("evaluate", run, "--num-samples", "3")
    assert "which has no blocks" in refused("merge", run)


def test_tables_name_every_reference(tmp_path: Path, text: str, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    from oneblock.cli.__main__ import main

    ok("train", "bytes", "--integer", "--out", tmp_path / "run", "--data", text, *SMALL)
    assert main(["evaluate", str(tmp_path / "run"), "--scored", "64", "--pieces", "4"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("the model", "unigram", "bigram", "gzip", "6 of 6", "60 bytes"))


def test_whole_numbers_must_be_asked_for(tmp_path: Path, text: str, refused: Refused) -> None:
    said = refused("train", "bytes", "--out", tmp_path / "run", "--data", text, *SMALL)
    assert "say so with --integer" in said and "oneblock train text --vocabulary bytes" in said
    assert not (tmp_path / "run").exists()
