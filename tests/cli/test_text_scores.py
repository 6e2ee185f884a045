import json
from pathlib import Path
from typing import Any

import pytest

from oneblock.cli.text_scores import SPREAD, TextScores

SCORES = TextScores(
    ours=("blockwise",), rivals=("shallow",), listed="nats", items="band, noisiest first", unit="nats per token"
)
WORK = {"1k": 1000, "4k": 4000}


def row(arm: str, budget: str, seed: int, bits: float) -> dict[str, Any]:
    return {
        **dict.fromkeys(SPREAD, 0.0),
        "arm": arm,
        "budget": budget,
        "seed": seed,
        "run": f"{arm}-{budget}-seed{seed}",
        "layer_evaluations": WORK[budget],
        "bits_per_character": bits,
        "error": 0.25,
        "nats": [bits, 3 * bits],
        "samples": [f"[b]{arm} writes {'x' * 100}"] if arm == "shallow" else [],
    }


ROWS = [
    row("shallow", "1k", 0, 2.0),
    row("blockwise", "1k", 0, 3.0),
    row("shallow", "1k", 1, 4.0),
    row("blockwise", "1k", 1, 3.5),
    row("shallow", "4k", 0, 2.0),
    row("blockwise", "4k", 0, 1.0),
]


def test_means_and_spreads() -> None:
    first, *_ = SCORES.summaries(ROWS)
    assert (first["arm"], first["seeds"]) == ("shallow", 2)
    assert first["bits_per_character"] == (3.0, pytest.approx(2**0.5))
    assert first["nats"][1] == (9.0, pytest.approx(3 * 2**0.5))


def test_fewer_bits_win() -> None:
    assert SCORES.wins(ROWS) == ["blockwise against shallow: fewer bits in 2 of 3 runs"]
    assert SCORES.wins(ROWS[:2]) == ["blockwise against shallow: fewer bits in 0 of 1 runs"]
    assert SCORES.wins(ROWS[:1]) == []


def test_the_printed_tables_hold_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    SCORES.report(ROWS)
    out = capsys.readouterr().out
    assert "3.0000 ± 1.4142" in out
    assert "0.2500" in out
    assert "3.0000 ± 1.4142 / 9.0000 ± 4.2426" in out
    assert "[b]shallow writes xxx" in out  # not as markup
    assert "x" * 85 not in out and "blockwise writes" not in out
    assert "bits_per_character of blockwise against shallow: better from about " in out


def test_listed_scores_stand_where_the_row_says(capsys: pytest.CaptureFixture[str]) -> None:
    SCORES.report([{**row("truncated-bptt", "1k", 0, 2.0), "listed_at": [1, 32]}])
    assert "1: 2.0000 / 32: 6.0000" in capsys.readouterr().out


def test_one_budget_draws_no_budgets(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for found in ROWS:
        (tmp_path / found["run"] / "block-0").mkdir(parents=True)
        line = {"step": 1, "layer_evaluations": 10, "loss": 1.0, "plain": 0.5}
        (tmp_path / found["run"] / "block-0" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert [path.name for path in SCORES.draw(tmp_path, ROWS[:2])] == ["nats.png", "training.png"]
    assert [path.name for path in SCORES.draw(tmp_path, ROWS)] == ["nats.png", "training.png", "budgets.png"]
