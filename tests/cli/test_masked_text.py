import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SENTENCES, TINY, WORK
from torch import Tensor

from oneblock.cli.__main__ import main
from oneblock.condition import Condition
from oneblock.data import Characters
from oneblock.evaluate.masked import evaluate_masked
from oneblock.partition import make_partition
from oneblock.presets import MaskedRecipe, TextFacts
from oneblock.train.checkpoint import checkpoints

Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
LENGTH = ("--length", "16")


def test_train_status_merge_evaluate_sample(
    tmp_path: Path, text: str, ok: Ok, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    ok("train", "masked-text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK)
    states = ok("status", run, "--json")
    assert [(s["job"], s["step"], s["state"]) for s in states] == [("block-0", 4, "done"), ("block-1", 4, "done")]
    ok("merge", run, "--json")
    words = ("--windows", "8", "--times", "2", "--json")
    scores = [ok("evaluate", model, *words)[0] for model in (run, run / "model")]
    assert scores[0] == scores[1]
    assert len(scores[0]["nats_per_band"]) == 2
    assert scores[0]["nats_per_token"] == pytest.approx(sum(scores[0]["nats_per_band"]))
    assert scores[0]["tokens_per_byte"] == 1.0
    (finer,) = ok("evaluate", run, "--report-bands", "5", *words)
    assert len(finer["nats_per_band"]) == 5
    assert finer["nats_per_token"] == pytest.approx(scores[0]["nats_per_token"], rel=0.2)
    rows = ok("sample", run, "--count", "2", "--reveals", "3", "--prompt", "the cat", "--json")
    assert all(row["text"].startswith("the cat") and len(row["text"]) == 16 for row in rows)
    assert main(["sample", str(run), "--count", "1", "--reveals", "2"]) == 0
    assert len(capsys.readouterr().out.strip("\n")) <= 16


def test_a_run_with_relay_is_sampled_by_its_policy_and_counts_calls(tmp_path: Path, text: str, ok: Ok) -> None:
    run = tmp_path / "run"
    work = ("--budget", "128", "--batch-size", "8", "--block-batch-size", "8")
    ok("train", "masked-text", "--out", run, "--data", text, *LENGTH, *TINY, *work, "--relay", "relay")
    rows = ok("sample", run, "--count", "3", "--order", "policy", "--reveals", "5", "--prompt", "the ", "--json")
    assert all(row["text"].startswith("the ") and 1 <= row["calls"] <= 5 for row in rows)
    words = ("--windows", "4", "--times", "1", "--texts", "2", "--reveals", "3", "--order", "policy", "--json")
    (scores,) = ok("evaluate", run, *words)
    assert 1 <= scores["calls"] <= 3
    assert "calls" not in ok("sample", run, "--count", "1", "--reveals", "2", "--json")[0]


def test_the_noisiest_band_comes_first() -> None:
    """A denoiser that knows nothing above time 2/3 and everything below, on a text of one letter."""
    plan = MaskedRecipe(depth=4, width=16, heads=2, blocks=2, length=200).plan(TextFacts(vocabulary=Characters()))
    tokens = torch.full((50, 200), 1)

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        sure = torch.where(torch.arange(27) == 1, 0.0, -1e9).expand(*z.shape, 27)
        return torch.where(sigma[:, None, None] > 2 / 3, 0.0, sure)

    row = evaluate_masked(denoiser, plan, tokens, bands=make_partition(plan.partition.law, 3), times=2)
    assert row["nats_per_band"] == pytest.approx([math.log(27) / 3, 0.0, 0.0], rel=0.01)
    assert row["bits_per_byte"] == pytest.approx(math.log2(27) / 3, rel=0.01)


def test_blocks_trained_by_their_own_jobs_are_those_of_one_process(tmp_path: Path, text: str, ok: Ok) -> None:
    words = ("--data", text, *LENGTH, "--schedule", "cosine", "--vocabulary", "bytes", *TINY, *WORK)
    ok("train", "masked-text", "--out", tmp_path / "one", *words)
    ok("train", "masked-text", "--out", tmp_path / "many", *words, "--strategy", "plan-only")
    for block in (1, 0):
        ok("job", tmp_path / "many", "--block", str(block), "--threads", "1")
    for name in ("block-0", "block-1"):
        one, many = (checkpoints(tmp_path / run / name)[-1].read_bytes() for run in ("one", "many"))
        assert one == many


def test_byte_pairs_stand_in_the_plan_and_are_scored_per_byte(tmp_path: Path, text: str, ok: Ok) -> None:
    pytest.importorskip("tokenizers")
    words = ("--data", text, "--vocabulary", "bpe:264", "--strategy", "end-to-end", *LENGTH, *TINY, *WORK)
    ok("train", "masked-text", "--out", tmp_path / "run", *words)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert len(plan["recipe"]["merges"]) == 8
    assert (plan["architecture"]["vocabulary"], plan["layers"]) == (264, [4])
    (row,) = ok("evaluate", tmp_path / "run", "--windows", "4", "--json")
    assert row["tokens_per_byte"] < 1.0
    assert row["bits_per_byte"] < row["nats_per_token"] / 0.693


def test_bad_input_is_refused(tmp_path: Path, text: str, ok: Ok, refused: Refused) -> None:
    train = ("train", "masked-text", "--out", tmp_path / "run", *TINY, *WORK)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"ab\x00cd" * 200)
    for name, words in (("empty", "empty.txt"), ("binary", "binary.txt"), ("absent", "nothing.txt")):
        message = refused(*train, "--data", f"file:{tmp_path / words}")
        assert words in message, name
    assert "vocabulary='words' is unknown; use characters, bytes or bpe:4096" in refused(
        *train, "--data", text, "--vocabulary", "words"
    )
    assert "5000" in refused(*train, "--data", text, "--length", "5000")
    ok(*train, "--data", text, *LENGTH)
    run = tmp_path / "run"
    assert "cut the prompt" in refused("sample", run, "--prompt", "the cat sat on the mat")
    assert "has no symbol of the vocabulary" in refused("sample", run, "--prompt", "!!!")
    assert "count=0 writes nothing" in refused("sample", run, "--count", "0")
    assert "windows=0 is not allowed; use a whole number, 1 or more" in refused("evaluate", run, "--windows", "0")
    assert "reveals=0 is not allowed; use a whole number, 1 or more" in refused("sample", run, "--reveals", "0")
    assert "times=-1 is not allowed; use a whole number, 1 or more" in refused("evaluate", run, "--times", "-1")
    assert "temperature=nan, top_p=1.0: use a temperature" in refused("sample", run, "--temperature", "nan")
    (tmp_path / "cats.txt").write_text(SENTENCES * 61)
    assert "has changed since the plan was made" in refused("job", run, "--block", "0")
