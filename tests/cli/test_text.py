import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SENTENCES, TINY, WORK

from oneblock.cli.__main__ import main
from oneblock.data import Bytes, Characters
from oneblock.evaluate.causal import bits_row, plan_calls, token_nats
from oneblock.model import CausalModel
from oneblock.plan import Plan, nth_seed
from oneblock.presets import CausalRecipe, TextFacts, blockwise, cost, recurrent_recipe, token_table, training_flops
from oneblock.sample.calls import Answers
from oneblock.train.checkpoint import checkpoints
from oneblock.train.shards import open_denoiser, open_plan

Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
LENGTH = ("--length", "16")
MODEL = CausalRecipe(size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16, length=16)


def planned(recipe: CausalRecipe) -> Plan:
    return recipe.plan(TextFacts(vocabulary=Characters()))


@pytest.mark.parametrize("streams", ["two", "one", "none"])
def test_train_status_merge_evaluate_sample(tmp_path: Path, text: str, ok: Ok, streams: str) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK, "--streams", streams)
    steps = 2 if streams == "two" else 4  # two streams are twice the work
    states = ok("status", run, "--json")
    assert [(s["job"], s["step"], s["state"]) for s in states] == [
        ("block-0", steps, "done"),
        ("block-1", steps, "done"),
    ]
    ok("merge", run, "--json")
    words = ("--windows", "8", "--json")
    scores = [ok("evaluate", model, *words)[0] for model in (run, run / "model")]
    assert scores[0] == scores[1]
    assert len(scores[0]["bits_after_calls"]) == 2
    assert scores[0]["bits_after_calls"][-1] == scores[0]["bits_per_byte"]
    rows = ok("sample", run, "--count", "2", "--prompt", "the cat", "--tokens", "5", "--json")
    assert all(row["text"].startswith("the cat") and len(row["text"]) == 12 for row in rows)


def test_text_appears_as_it_is_written(
    tmp_path: Path, text: str, ok: Ok, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK)
    pieces: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: pieces.extend(words))
    assert main(["sample", str(run), "--count", "1", "--prompt", "a", "--tokens", "4"]) == 0
    assert [len(piece) for piece in pieces] == [1, 1, 1, 1, 1, 1] and pieces[0] == "a"


def test_blocks_trained_by_their_own_jobs_are_those_of_one_process(tmp_path: Path, text: str, ok: Ok) -> None:
    words = ("--data", text, *LENGTH, "--vocabulary", "bytes", "--branch", "0.5", "--clean", "0.25", *TINY, *WORK)
    ok("train", "text", "--out", tmp_path / "one", *words)
    ok("train", "text", "--out", tmp_path / "many", *words, "--strategy", "plan-only")
    for block in (-1, 1, 0):
        ok("job", tmp_path / "many", "--block", str(block), "--threads", "1")
    for name in ("trunk", "block-0", "block-1"):
        one, many = (checkpoints(tmp_path / run / name)[-1].read_bytes() for run in ("one", "many"))
        assert one == many


def test_recurrent_depth_is_one_block_that_is_called_often(tmp_path: Path, text: str, ok: Ok) -> None:
    run = tmp_path / "run"
    size = ("--size", "nano", "--width", "16", "--heads", "2", "--batch-size", "16", "--budget", "384")
    ok("train", "recurrent-text", "--out", run, "--data", text, *LENGTH, *size, "--threads", "1")
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["layers"], plan["architecture"]["prelude"], plan["architecture"]["coda"]) == ([4], 1, 1)
    assert [s["step"] for s in ok("status", run, "--json")] == [4]  # 6 layers x 16 texts a step
    rows = [ok("evaluate", run, "--windows", "8", "--calls", str(calls), "--json")[0] for calls in (1, 5)]
    assert [len(row["bits_after_calls"]) for row in rows] == [1, 5]
    (row,) = ok("sample", run, "--count", "1", "--calls", "3", "--json")
    assert len(row["text"]) == 16


def test_a_table_of_cooccurrence_stands_in_the_plan(tmp_path: Path, text: str, ok: Ok) -> None:
    run = tmp_path / "run"
    words = ("--table", "co-occurrence", "--label-width", "5", *LENGTH, *TINY, *WORK)
    ok("train", "text", "--out", run, "--data", text, *words)
    plan = open_plan(run)
    table = token_table(plan)
    assert table.shape == (27, 5) and len(plan.recipe["rows"]) == 27 * 5  # type: ignore[arg-type]
    torch.testing.assert_close(table.norm(dim=-1), torch.ones(27))
    (row,) = ok("evaluate", run, "--windows", "4", "--json")
    assert 0 < row["bits_per_byte"] < 10


def test_bits_are_those_of_the_answers(tmp_path: Path, text: str, ok: Ok) -> None:
    """An untrained network answers 1 / 27 to everything."""
    run = tmp_path / "run"
    ok(
        "train",
        "text",
        "--out",
        run,
        "--data",
        text,
        *LENGTH,
        *TINY,
        *WORK,
        "--learning-rate",
        "1e-30",
        "--inputs",
        "evidence",
    )
    (row,) = ok(
        "evaluate",
        run,
        "--windows",
        "8",
        "--path",
        "redraw",
        "--pool",
        "mean",
        "--draws",
        "3",
        "--json",
    )
    assert row["bits_after_calls"] == pytest.approx([torch.tensor(27.0).log2().item()] * 2)
    assert row["error"] == pytest.approx(0.0, abs=1e-6)


def test_more_draws_shorten_the_code(tmp_path: Path, text: str, ok: Ok) -> None:
    run = tmp_path / "run"
    words = (*TINY, "--batch-size", "16", "--block-batch-size", "16", "--budget", "20k", "--threads", "1")
    ok("train", "text", "--out", run, "--data", text, *LENGTH, "--inputs", "evidence", *words)
    plan = open_plan(run)
    denoiser = open_denoiser(run, blockwise(plan), torch.device("cpu"))
    tokens = torch.stack([Characters().encode(SENTENCES)[i : i + 16] for i in range(8)])
    lengths = [
        float(token_nats(denoiser, plan, tokens, Answers(path="redraw", pool="last", draws=draws))[-1].mean())
        for draws in (1, 16)
    ]
    assert lengths[1] < lengths[0] - 0.01
    assert lengths[1] < 2.6  # far below ln 27 = 3.3


def test_draws_have_noise_of_their_own(tmp_path: Path, text: str, ok: Ok) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, "--inputs", "evidence", *TINY, *WORK)
    plan = open_plan(run)
    denoiser = open_denoiser(run, blockwise(plan), torch.device("cpu"))
    tokens = Characters().encode(SENTENCES)[:16][None]
    one, two, both = (
        token_nats(denoiser, plan, tokens, Answers(path="redraw", pool="last", draws=draws, noise_seed=seed))
        for draws, seed in ((1, 5), (1, nth_seed(5, 1, "draw")), (2, 5))
    )
    assert not one.equal(two)
    torch.testing.assert_close((-both).exp(), ((-one).exp() + (-two).exp()) / 2)
    next_seed = token_nats(denoiser, plan, tokens, Answers(path="redraw", pool="last", noise_seed=6))
    assert not two.equal(next_seed)


def test_what_is_written_is_scored_beside_held_out_text(tmp_path: Path, text: str, ok: Ok) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK)
    (row,) = ok("evaluate", run, "--windows", "8", "--texts", "5", "--prompt", "a b c d ", "--tokens", "4", "--json")
    real, written = row["quality"]
    assert (real["texts"], written["texts"]) == ("held-out", "written")
    assert real["num_texts"] == written["num_texts"] == 5
    assert real["num_characters"] == written["num_characters"] == 60
    assert real["bits_per_character"] < 1.0 < written["bits_per_character"]  # the sentences stand in the training text


def test_texts_that_cannot_be_compared_are_refused_before_any_work(
    tmp_path: Path, text: str, ok: Ok, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK)
    (row,) = ok("evaluate", run, "--windows", "2", "--texts", "5", "--tokens", "4", "--json")
    assert [each["num_texts"] for each in row["quality"]] == [5, 5]  # more texts than windows, and as many to compare
    monkeypatch.setattr("oneblock.evaluate.text.evaluate_causal", lambda *_: pytest.fail("scored before the check"))
    few = refused("evaluate", run, "--texts", "16")
    assert "texts=16 are to be compared with as many windows of held-out text, but it has 13 of 16 tokens" in few
    assert "use texts=13 or fewer" in few
    assert "cut the prompt" in refused("evaluate", run, "--texts", "2", "--prompt", "the cat sat on the mat")


def test_short_and_chinese_texts_are_scored_by_characters(tmp_path: Path, ok: Ok, text: str) -> None:
    path, run = tmp_path / "chinese.txt", tmp_path / "run"
    path.write_text("天地玄黄宇宙洪荒日月盈昃辰宿列张" * 80, "utf-8")
    words = ("--vocabulary", "bytes", *LENGTH, *TINY, *WORK)
    ok("train", "text", "--out", run, "--data", f"file:{path}", *words)
    for tokens in ("2", "5", "16"):
        (row,) = ok("evaluate", run, "--windows", "8", "--texts", "4", "--tokens", tokens, "--json")
        assert row["tokens_per_byte"] == 1.0
        assert {each["unit"] for each in row["quality"]} == {"characters"}
    (row,) = ok("evaluate", run, "--windows", "8", "--texts", "4", "--unit", "words", "--json")
    assert row["quality"][0]["unit"] == "words" and row["quality"][0]["distinct_4"] is None


def test_a_test_split_below_a_window_is_told_before_training(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few.txt").write_text(SENTENCES * 4)
    words = ["train", "text", "--out", str(tmp_path / "run"), "--data", f"file:{tmp_path / 'few.txt'}", *LENGTH]
    assert main([*words, *TINY, *WORK]) == 0
    shown = capsys.readouterr().err
    assert "has 13 tokens, fewer than a window of length=16: the model can be trained but not evaluated" in shown


def test_near_copies_stand_beside_the_scores(tmp_path: Path, text: str, ok: Ok) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK)
    (row,) = ok("evaluate", run, "--windows", "4", "--json")
    assert row["near_copies"] == {"passages": 1.0, "documents": 1.0}  # the same sentences again and again


@pytest.mark.parametrize("json_words", [(), ("--json",)])
def test_scores_are_shown_even_if_writing_fails(
    tmp_path: Path,
    text: str,
    ok: Ok,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    json_words: tuple[str, ...],
) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("oneblock.evaluate.text.write_causal", stopped)
    assert main(["evaluate", str(run), "--windows", "4", "--texts", "2", *json_words]) == 130
    shown = capsys.readouterr()
    assert "bits_per_byte" in shown.out
    assert shown.err == "oneblock: stopped\n"


def test_texts_of_neighbouring_seeds_have_none_in_common(tmp_path: Path, text: str, ok: Ok) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK)
    few = ("sample", run, "--count", "3", "--json")
    texts = [row["text"] for seed in range(3) for row in ok(*few, "--sample-seed", str(seed))]
    assert len(set(texts)) == 9
    model = CausalModel.open(run)
    assert texts[3:6] == model.sample(3, sample_seed=1)
    assert texts[5] == "".join(model.stream(sample_seed=1, index=2))


def test_scorers_of_the_evaluation_extra_say_what_to_install(
    tmp_path: Path, text: str, ok: Ok, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    ok("train", "text", "--out", run, "--data", text, *LENGTH, *TINY, *WORK)
    words = ("evaluate", run, "--windows", "8", "--texts", "2", "--prompt", "a b c d e ", "--tokens", "4")
    for missing, option in (("gguf", ("--scorer", "smollm2")), ("mauve", ("--mauve",))):
        monkeypatch.setitem(sys.modules, missing, None)
        assert "pip install 'oneblock[evaluation]'" in refused(*words, *option)


def test_rows_of_bytes_count_bytes() -> None:
    nats = torch.full((2, 3, 4), 2.0)
    tokens = Bytes().encode("abcdefghijkl").view(3, 4)
    row = bits_row(nats, tokens, Bytes())
    assert row["bits_per_byte"] == pytest.approx(2.0 / 0.6931472)
    assert (row["error"], row["tokens_per_byte"]) == pytest.approx((0.0, 1.0), abs=1e-9)
    assert row["tokens"] == 12


def test_levels_are_the_upper_edges_or_equal_steps_of_mass() -> None:
    plan = planned(MODEL)
    assert plan_calls(plan, Answers()).levels == plan.edges[:-1]
    law, four = plan.partition.law, plan_calls(plan, Answers(calls=4)).levels
    torch.testing.assert_close(law.cdf(torch.tensor(four)).float(), torch.tensor([1.0, 0.75, 0.5, 0.25]))
    ensemble = planned(CausalRecipe(size="nano", blocks=3).ordinary())
    assert plan_calls(ensemble, Answers(calls=9)).pool == "mean"
    assert len(plan_calls(ensemble, Answers()).levels) == 3


@pytest.mark.parametrize("wrong", [{"calls": -1}, {"draws": 0}])
def test_no_call_and_no_draw_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="use 1 or more"):
        Answers(**wrong)  # type: ignore[arg-type]


def test_what_planning_counts() -> None:
    ordinary = planned(replace(MODEL.ordinary(), blocks=1))
    assert ordinary.architecture["streams"] == "none"
    blocks = planned(replace(MODEL, streams="two"))
    assert training_flops(planned(MODEL)).layer == training_flops(ordinary).layer
    # a layer works on twice the tokens, and attention does three times the work
    assert 2.0 < training_flops(blocks).layer / training_flops(ordinary).layer < 3.0
    many = {row.name: row.peak for row in cost(replace(MODEL, vocabulary="bpe:300")).rows}
    assert many["own block, 2 blocks"].by_kind["Buffer"] == 300 * 300 * 4 + 64 * 4
    recurrent = planned(recurrent_recipe())
    assert (recurrent.num_blocks, recurrent.sample_evaluations(4)) == (1, 6)


def test_bad_input_is_refused(tmp_path: Path, text: str, ok: Ok, refused: Refused) -> None:
    run = tmp_path / "run"
    train = ("train", "text", "--out", run, "--data", text, *TINY, *WORK)
    assert "5000" in refused(*train, "--length", "5000")
    assert "clean=2.0 is not a share; use 0 to 1" in refused(*train, *LENGTH, "--clean", "2")
    ok(*train, *LENGTH)
    message = "has 22 tokens, but the network sees only 16; cut the prompt"
    assert message in refused("sample", run, "--prompt", "the cat sat on the mat")
    assert "tokens=20 more are asked for, but the network sees only" in refused("sample", run, "--tokens", "20")
    assert "has no symbol of the vocabulary" in refused("sample", run, "--prompt", "!!!")
    assert "count=0 writes nothing" in refused("sample", run, "--count", "0")
    assert "temperature=-1.0" in refused("sample", run, "--temperature", "-1")
    assert "draws=0 is too small; use 1 or more" in refused("evaluate", run, "--draws", "0")
