import json
from pathlib import Path
from typing import Any

import pytest

from oneblock.cli.scores import SPREAD, crossing, crossings, draw, report, summaries, training_curve, wins

WORK = {"1k": 1000, "4k": 4000}


def row(arm: str, budget: str, seed: int, loss: float, frechet: float) -> dict[str, Any]:
    zeros = dict.fromkeys(SPREAD, 0.0)
    return {
        **zeros,
        "arm": arm,
        "budget": budget,
        "seed": seed,
        "run": f"{arm}-{budget}-seed{seed}",
        "layer_evaluations": WORK[budget] + len(arm),  # rounding to steps differs from arm to arm
        "extractor": "digits-cnn",
        "loss": loss,
        "frechet": frechet,
        "band_losses": [loss, 2 * loss],
        "train_seconds": None if seed else 5.0,
    }


ROWS = [
    row("end-to-end", "1k", 0, 1.0, 10.0),
    row("branched", "1k", 0, 1.5, 9.0),
    row("end-to-end", "1k", 1, 2.0, 14.0),
    row("branched", "1k", 1, 1.9, 15.0),
    row("end-to-end", "4k", 0, 0.8, 8.0),
    row("branched", "4k", 0, 0.5, 7.0),
]


def test_means_and_spreads_per_arm_and_budget() -> None:
    first, second, *_ = summaries(ROWS)
    assert (first["arm"], first["budget"], first["seeds"]) == ("end-to-end", "1k", 2)
    assert first["loss"] == (1.5, pytest.approx(0.5**0.5))
    assert first["band_losses"][1] == (3.0, pytest.approx(2**0.5))
    assert first["train_seconds"] == (5.0, 0.0)  # a resumed run does not know
    assert second["frechet"][0] == 12.0


def test_wins_pair_runs_of_one_seed_and_budget() -> None:
    assert wins(ROWS) == ["branched against end-to-end: lower loss in 2 of 3 runs, lower Frechet distance in 2 of 3"]


def test_crossing_is_interpolated_in_log_work() -> None:
    a, b = [(100.0, 3.0), (10_000.0, 1.0)], [(100.0, 2.0), (10_000.0, 2.0)]
    assert crossing(a, b) == "better from about 1,000 layer evaluations on"
    assert crossing(b, a) == "worse from about 1,000 layer evaluations on"
    assert crossing(a, [(100.0, 4.0), (10_000.0, 4.0)]) == "better at every budget"
    assert crossing(a, [(100.0, 0.0), (10_000.0, 0.0)]) == "not better at every budget"


def test_crossings_need_two_budgets() -> None:
    lines = crossings(summaries(ROWS))
    assert lines[0].startswith("loss of branched against end-to-end: better from about ")
    assert lines[1] == "frechet of branched against end-to-end: not better at every budget"
    assert crossings(summaries(ROWS[:4])) == []


def test_the_printed_tables_hold_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    report(ROWS)
    out = capsys.readouterr().out
    assert "1.5000 ± 0.7071" in out
    assert "features: digits-cnn" in out


def test_training_curve_adds_the_work_of_all_blocks(tmp_path: Path) -> None:
    rows = {
        "trunk": [(10, 100, 5.0), (20, 200, 4.0)],
        "block-0": [(30, 100, 2.0), (40, 200, 1.0)],
        "block-1": [(30, 100, 4.0), (40, 200, 3.0)],
    }
    for job, found in rows.items():
        (tmp_path / job).mkdir()
        lines = [json.dumps({"step": s, "layer_evaluations": w, "loss": loss}) for s, w, loss in found]
        (tmp_path / job / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert training_curve(tmp_path) == [(100, 5.0), (200, 4.0), (400, 3.0), (600, 2.0)]


def test_training_curve_of_an_ensemble_adds_the_work_of_its_networks(tmp_path: Path) -> None:
    for network, loss in (("network-0", 1.0), ("network-1", 4.0)):
        folder = tmp_path / network / "block-0"
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 10, "layer_evaluations": 100, "loss": loss}) + "\n")
    assert training_curve(tmp_path) == [(200, 2.5)]


def test_pictures_are_drawn_for_the_first_seed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for found in ROWS:
        (tmp_path / found["run"] / "block-0").mkdir(parents=True)
        line = {"step": 1, "layer_evaluations": 10, "loss": found["loss"]}
        (tmp_path / found["run"] / "block-0" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    pictures = draw(tmp_path, ROWS)
    drawn = {path.name for path in pictures if path.is_file()}
    assert drawn == {"training.png", "loss.png", "frechet.png"}
    assert tmp_path / "branched-4k-seed0" / "samples.png" in pictures
