"""The words of order, bands and shares arrive, and what is learned depends on the right ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK
from tiny import last_files

from oneblock.plan import read_plan

pytest.importorskip("sklearn")
Ok = Callable[..., list[dict[str, Any]]]
TRAIN = ("train", "images", *TINY, *WORK)


def test_turns_and_the_old_name_of_all_give_the_same_bytes(tmp_path: Path, ok: Ok) -> None:
    ok(*TRAIN, "--out", tmp_path / "usual")
    ok(*TRAIN, "--out", tmp_path / "turns", "--order", "turns", "--turn-seconds", "0", "--idle", "disk")
    ok(*TRAIN, "--out", tmp_path / "old", "--strategy", "round-robin")
    expected = last_files(tmp_path / "usual")
    assert set(expected) == {"block-0", "block-1"}
    assert last_files(tmp_path / "turns") == last_files(tmp_path / "old") == expected


def test_bands_in_every_form(tmp_path: Path, ok: Ok) -> None:
    (tmp_path / "cuts.json").write_text("[0.4]")
    forms = {"text": "0.4", "file": str(tmp_path / "cuts.json"), "plan": str(tmp_path / "text" / "plan.json")}
    for name, form in forms.items():
        ok(*TRAIN, "--out", tmp_path / name, "--strategy", "plan-only", "--bands", form)
        assert read_plan(tmp_path / name).edges == (80.0, 0.4, 0.002)
    three = ("--depth", "6", "--blocks", "3", "--bands", "2.5", "0.4")
    ok(*TRAIN, "--out", tmp_path / "words", "--strategy", "plan-only", *three)
    assert read_plan(tmp_path / "words").edges == (80.0, 2.5, 0.4, 0.002)


def test_a_share_of_the_whole_range_changes_blocks(tmp_path: Path, ok: Ok) -> None:
    for share in ("0", "0.25"):
        ok(*TRAIN, "--out", tmp_path / share, "--whole-share", share)
    assert "whole_share" not in read_plan(tmp_path / "0").recipe
    assert last_files(tmp_path / "0") != last_files(tmp_path / "0.25")


def test_experts_are_trained_as_any_blocks(tmp_path: Path, ok: Ok) -> None:
    ok(*TRAIN, "--out", tmp_path / "run", "--depth", "8", "--layers", "4", "4")
    (row,) = ok("evaluate", tmp_path / "run", "--num-samples", "0", "--json")
    assert len(row["band_losses"]) == 2
