import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY
from oneblock.cli.text_options import CausalOptions, TextOptions

from oneblock.cli.compare_text import CompareRecurrentText, CompareText
from oneblock.cli.comparison import Cell
from oneblock.plan import Plan
from oneblock.presets import gpt_config, plan_budget
from oneblock.train.record import METRICS_FILE, read_rows
from oneblock.train.strategy import job_specs

Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
SMALL = (*TINY, "--length", "16", "--batch-size", "4", "--threads", "1", "--windows", "6", "--seeds", "1", "--json")
MODEL = CausalOptions(depth=4, width=16, heads=2, blocks=2, length=16, batch_size=4, block_batch_size=4, branch=0.5)


def plans_of(options: CompareText | CompareRecurrentText) -> dict[str, Plan]:
    file = options.open()
    return {arm: options.plans(Cell(arm=arm, budget="1k", seed=3), file)[0] for arm in options.arms}


def test_the_arms_are_what_they_are_called(tmp_path: Path, text: str) -> None:
    plans = plans_of(CompareText(out=tmp_path, data=TextOptions(data=text), model=MODEL))
    assert {arm: (plan.layers, gpt_config(plan).streams) for arm, plan in plans.items()} == {
        "end-to-end": ((4,), "none"),
        "shallow": ((2,), "none"),
        "ensemble": ((2, 2), "none"),
        "branched-ensemble": ((2, 2), "none"),
        "blockwise": ((2, 2), "one"),
        "branched": ((2, 2), "one"),
        "two-streams": ((2, 2), "two"),
        "n-gram": ((2, 2), "none"),
    }
    assert {arm: plan_budget(plan).branch for arm, plan in plans.items() if plan_budget(plan).branch} == {
        "branched": 0.5,
        "branched-ensemble": 0.5,
    }
    assert {arm for arm, plan in plans.items() if plan.recipe["inputs"] == "bayes"} == {
        "blockwise",
        "branched",
        "two-streams",
    }
    assert {plan_budget(plan).hold for plan in plans.values()} == {0.5}
    spent = {arm: sum(job.evaluations for job in job_specs(plan, plan_budget(plan))) for arm, plan in plans.items()}
    assert all(abs(work - 1000) <= 32 for work in spent.values()), spent


def test_a_comparison_of_autoregressive_models(tmp_path: Path, text: str, ok: Ok) -> None:
    words = ("compare", "text", "--data", text, "--out", tmp_path / "out", *SMALL, "--budget", "512", "--tokens", "4")
    arms = ("--arms", "end-to-end", "ensemble", "blockwise", "n-gram")
    (found,) = ok(*words, *arms)
    rows = {row["arm"]: row for row in found["runs"]}
    assert {arm: len(row["bits_after_calls"]) for arm, row in rows.items()} == {
        "end-to-end": 1,
        "ensemble": 2,
        "blockwise": 2,
        "n-gram": 1,
    }
    assert rows["n-gram"]["bits_per_character"] < 1.0 < rows["end-to-end"]["bits_per_character"]  # sentences repeat
    written = [row["samples"] for arm, row in rows.items() if arm != "n-gram"]
    assert all(len(texts) == 2 and len(texts[0]) == 4 for texts in written)
    assert all(Path(picture).stat().st_size > 1000 for picture in found["pictures"])
    stored = json.loads((tmp_path / "out" / "blockwise-512-seed0" / "result.json").read_text())
    assert stored["bits_per_character"] == rows["blockwise"]["bits_per_character"]
    (again,) = ok(*words, *arms)
    assert again["runs"] == found["runs"]


def test_a_comparison_of_recurrent_depth(tmp_path: Path, text: str, ok: Ok) -> None:
    words = ("compare", "recurrent-text", "--data", text, "--out", tmp_path / "out", *SMALL[-9:])
    size = (
        "--depth",
        "1",
        "--width",
        "16",
        "--heads",
        "2",
        "--budget",
        "480",
        "--iterations",
        "4",
        "--back",
        "2",
        "--tokens",
        "4",
    )
    (found,) = ok(*words, *size, "--token-calls", "3", "--bptt-batch-size", "4")
    rows = {row["arm"]: row for row in found["runs"]}
    assert {arm: len(row["bits_after_calls"]) for arm, row in rows.items()} == {
        "single-pass": 3,
        "feed-forward": 1,
        "truncated-bptt": 3,  # after 1, 2 and 4 iterations
    }
    assert rows["single-pass"]["layer_evaluations"] == rows["feed-forward"]["layer_evaluations"] == 480
    assert rows["truncated-bptt"]["layer_evaluations"] == pytest.approx(3 * 480, abs=4 * (2 + 12))
    assert rows["truncated-bptt"]["peak_bytes"] > rows["feed-forward"]["peak_bytes"]
    assert rows["truncated-bptt"]["listed_at"] == [1, 2, 4]
    assert all([len(text) for text in row["samples"]] == [4, 4] for row in rows.values())
    assert all(row["characters_per_second"] > 0 for row in rows.values())
    (alone,) = ok(*words, *size, "--bptt-batch-size", "4", "--arms", "truncated-bptt")
    assert [Path(picture).name for picture in alone["pictures"]] == ["bits_after_calls.png"]
    assert len(list(read_rows(tmp_path / "out" / "truncated-bptt-480-seed0" / "truncated-bptt" / METRICS_FILE))) >= 1


def test_bad_options_are_refused(tmp_path: Path, text: str, refused: Refused) -> None:
    words = ("compare", "text", "--data", text, "--out", tmp_path / "out", *SMALL)
    assert "token_calls=-2" in refused(*words, "--token-calls", "-2")
    assert "windows=0 leaves nothing to score" in refused(*words, "--windows", "0")
    assert "arm 'branched-ensemble' needs --branch above 0" in refused(*words, "--branch", "0")
    alone = refused(*words, "--branch", "0", "--arms", "shallow", "branched")
    assert "arm 'branched' needs --branch above 0" in alone
    assert "tokens=99 are asked for, and the network sees 16" in refused(*words, "--tokens", "99")
    recurrent = ("compare", "recurrent-text", "--data", text, "--out", tmp_path / "out", *SMALL[-9:])
    assert "back=0: nothing is trained" in refused(*recurrent, "--back", "0")
    assert "batch_size=0 is no batch" in refused(*recurrent, "--bptt-batch-size", "0")
