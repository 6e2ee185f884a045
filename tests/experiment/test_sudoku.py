"""Sudoku with and without a state: rows, rates, controls, and that a stopped comparison goes on."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import oneblock as ob
from oneblock.data.sudoku import sudokus
from oneblock.experiment import sudoku
from oneblock.experiment.sudoku import AT, MASK, Trial, at_calls, decoded, network_of, reopen_relay, trained
from oneblock.report.comparison import report
from oneblock.sample.policy import Uncertainty

TINY = ob.SudokuRecipe(width=8, depth=1, heads=2, batch_size=4, calls=4, puzzles=12, held_out=6, rates=(1e-3, 1e-2))


def trial(arm: str, seed: int = 0) -> Trial:
    return Trial(arm=arm, rate=1e-3, seed=seed)


def test_arms_of_a_seed_start_alike_and_make_the_same_calls() -> None:
    weights = {arm: dict(network_of(TINY, trial(arm)).named_parameters()) for arm in ("mlm", "rollout", "relay")}
    for name, p in weights["mlm"].items():
        assert torch.equal(p, weights["rollout"][name])
        assert torch.equal(p, weights["relay"][name])
    assert {name for name in weights["relay"].keys() - weights["mlm"].keys()} == {
        "backbone.relay.norm.weight",
        "backbone.relay.norm.bias",
    }
    train, _ = sudokus(TINY.puzzles, TINY.held_out)
    spent = {arm: trained(TINY, trial(arm), train)[1] for arm in ("mlm", "rollout", "relay-sg", "rollout-wide")}
    assert {arm: row["steps"] for arm, row in spent.items()} == {
        "mlm": 4,
        "rollout": 2,
        "relay-sg": 2,
        "rollout-wide": 2,
    }
    assert {row["layer_evaluations"] for row in spent.values()} == {4 * 4 * 1}
    assert spent["mlm"]["fresh"] == 16
    assert spent["relay-sg"]["parameters"] - spent["rollout"]["parameters"] == 2 * TINY.width
    wider = 4 * TINY.width  # hidden numbers more, each with a row, a column and a bias
    assert spent["rollout-wide"]["parameters"] - spent["rollout"]["parameters"] == wider * (2 * TINY.width + 1)


def test_decoding_counts_calls_and_what_is_solved() -> None:
    """A denoiser that knows the answers solves all: one place a call at tau 0, everything in one at a large tau."""
    _, test = sudokus(TINY.puzzles, TINY.held_out)
    answers = {tuple(row[~free].tolist()): row for row, free in zip(test.puzzles, test.free, strict=True)}

    def knowing(z: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        rows = torch.stack(
            [answers[tuple(row[row >= sudoku.SIDE][row[row >= sudoku.SIDE] != MASK].tolist())] for row in z]
        )
        return 20.0 * torch.nn.functional.one_hot(rows, MASK).float()

    one_each = decoded(knowing, test, Uncertainty(tau=0.0, spread=0.0), False, 0)
    assert one_each["exact"] == one_each["digits"] == 1.0
    assert one_each["calls"] == pytest.approx(float(test.free.sum(1).double().mean()))
    assert decoded(knowing, test, Uncertainty(tau=99.0, spread=0.0), False, 0)["calls"] == 1.0


def test_scores_between_two_decodings_are_linear() -> None:
    rows = [{"calls": 10.0, "exact": 0.8}, {"calls": 4.0, "exact": 0.2}, {"calls": 6.0, "exact": 0.6}]
    assert at_calls(rows, 5.0, "exact") == pytest.approx(0.4)
    assert at_calls(rows, 8.0, "exact") == pytest.approx(0.7)
    assert at_calls(rows, 11.0, "exact") is None


def test_a_comparison_goes_on_and_takes_the_best_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ob.compare_relay(tmp_path, arms=("mlm", "relay"), recipe=TINY, seeds=2)
    assert [row["arm"] for row in first.rows] == ["mlm", "relay"] * 2
    assert [row["seed"] for row in first.rows] == [0, 0, 1, 1]
    assert len(first.rows[0]["exact_at"]) == len(AT)
    for row in first.rows:
        assert row["tried"].keys() == {"0.001", "0.01"}
        assert ("no state" in row["controls"]) == (row["arm"] == "relay")
    assert reopen_relay(tmp_path) == first
    monkeypatch.setattr(sudoku, "trained", lambda *args: pytest.fail("a model that is scored is not trained again"))
    assert ob.compare_relay(tmp_path, arms=("mlm", "relay"), recipe=TINY, seeds=2).rows == first.rows
    result = tmp_path / "relay-0.01-seed0" / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"exact": 0.9}))
    other = tmp_path / "relay-0.001-seed0" / "result.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"exact": 0.1}))
    mlm, relay = ob.compare_relay(tmp_path, arms=("mlm", "relay"), recipe=TINY, seeds=1).rows
    assert relay["rate"] == 0.01
    assert [row["rate"] for row in reopen_relay(tmp_path).rows if row["arm"] == "relay"] == [0.01], (
        "of seed 1 there is none"
    )
    assert relay["tried"] == {"0.001": 0.1, "0.01": 0.9}
    assert not any("relay against mlm" in line for line in report(first).lines), "neither makes so few calls"
    scored = dataclasses.replace(first, rows=[{**mlm, "exact": 0.2}, {**relay, "exact": 0.3}])
    assert "relay against mlm: more solved at 8 calls in 1 of 1 runs" in report(scored).lines


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rates=\(\) is not allowed"):
        ob.SudokuRecipe(rates=())
    with pytest.raises(ValueError, match="calls=1 is not allowed"):
        ob.SudokuRecipe(calls=1)
    with pytest.raises(ValueError, match="arms='best' is not allowed"):
        ob.compare_relay(tmp_path, arms=("best",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data='digits' is not allowed"):
        ob.compare_relay(tmp_path, data="digits")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
