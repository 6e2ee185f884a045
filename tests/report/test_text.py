from pathlib import Path
from typing import Any

import pytest
from tiny import metrics_line

from oneblock.experiment.summary import COSTS, Scores, summaries
from oneblock.report.spread import wins
from oneblock.report.text import WINS, TextReport

SCORES = Scores(
    judged={"bits_per_byte": "lower"},
    spread=("bits_per_byte", "error", "characters_per_second", *COSTS),
    listed="nats",
    ours=("blockwise",),
    rivals=("shallow",),
)
VIEW = TextReport(items="band, noisiest first", unit="nats per token")
WORK = {"1k": 1000, "4k": 4000}


def row(arm: str, budget: str, seed: int, bits: float) -> dict[str, Any]:
    return {
        **dict.fromkeys(SCORES.spread, 0.0),
        "arm": arm,
        "budget": budget,
        "seed": seed,
        "run": f"{arm}-{budget}-seed{seed}",
        "layer_evaluations": WORK[budget],
        "bits_per_byte": bits,
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
    first, *_ = summaries(ROWS, SCORES)
    assert (first["arm"], first["seeds"]) == ("shallow", 2)
    assert first["bits_per_byte"] == (3.0, pytest.approx(2**0.5), 2.0, 4.0)
    assert first["nats"][1] == (9.0, pytest.approx(3 * 2**0.5), 6.0, 12.0)


def test_fewer_bits_win() -> None:
    assert wins(ROWS, SCORES, WINS) == ["blockwise against shallow: fewer bits in 2 of 3 runs"]
    assert wins(ROWS[:2], SCORES, WINS) == ["blockwise against shallow: fewer bits in 0 of 1 runs"]
    assert wins(ROWS[:1], SCORES, WINS) == []


def test_the_tables_hold_the_scores() -> None:
    shown = VIEW.report(ROWS, SCORES)
    quality, costs, samples = shown.tables
    assert quality.columns[-1] == "nats per token: band, noisiest first"
    assert quality.rows[0][2:] == ("3.0000 ± 1.4142 (2.0000 to 4.0000)", "0.2500", "3.0000 ± 1.4142 / 9.0000 ± 4.2426")
    assert "characters/s" in costs.columns
    assert samples.rows == [("shallow", f"[b]shallow writes {'x' * 82}")]
    assert any(
        line.startswith("bits_per_byte of blockwise against shallow: better from about ") for line in shown.lines
    )


def test_where_nothing_is_written_no_table_stands() -> None:
    assert len(VIEW.report(ROWS[1:2], SCORES).tables) == 2


def test_listed_scores_stand_where_the_row_says() -> None:
    shown = VIEW.report([{**row("truncated-bptt", "1k", 0, 2.0), "listed_at": [1, 32]}], SCORES)
    assert shown.tables[0].rows[0][-1] == "1: 2.0000 / 32: 6.0000"


def test_one_budget_draws_no_budgets(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for found in ROWS:
        (tmp_path / found["run"] / "block-0").mkdir(parents=True)
        (tmp_path / found["run"] / "block-0" / "metrics.jsonl").write_text(metrics_line())
    assert [path.name for path in VIEW.draw(tmp_path, ROWS[:2], SCORES)] == ["nats.png", "training.png"]
    assert [path.name for path in VIEW.draw(tmp_path, ROWS, SCORES)] == ["nats.png", "training.png", "budgets.png"]
