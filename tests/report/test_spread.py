from typing import Any

import pytest

from oneblock.experiment.images import SCORES
from oneblock.experiment.summary import Scores, Spread, pairs, spread, summaries
from oneblock.report.images import WINS
from oneblock.report.spread import cost_table, crossing, crossings, plus_minus, seeds_note, wins, with_range

ALONE, SEVERAL = Spread(1.0, 0.0, 1.0, 1.0), Spread(0.5, 0.125, 0.4, 0.62)
WORK = {"1k": 1000, "4k": 4000}


def row(arm: str, budget: str, seed: int, loss: float, frechet: float) -> dict[str, Any]:
    return {
        **dict.fromkeys(SCORES.spread, 0.0),
        "arm": arm,
        "budget": budget,
        "seed": seed,
        "run": f"{arm}-{budget}-seed{seed}",
        "layer_evaluations": WORK[budget] + len(arm),  # rounding to steps differs from arm to arm
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
    first, second, *_ = summaries(ROWS, SCORES)
    assert (first["arm"], first["budget"], first["seeds"]) == ("end-to-end", "1k", 2)
    assert first["loss"] == (1.5, pytest.approx(0.5**0.5), 1.0, 2.0)
    assert first["band_losses"][1] == (3.0, pytest.approx(2**0.5), 2.0, 4.0)
    assert first["train_seconds"] == (5.0, 0.0, 5.0, 5.0)  # a resumed run does not know
    assert second["frechet"][0] == 12.0


def test_a_spread_of_nothing_is_none() -> None:
    assert spread([None, None]) is None
    assert (plus_minus(None, 2), plus_minus(ALONE, 2), plus_minus(SEVERAL, 1, 100)) == (
        "-",
        "1.00",
        "50.0 ± 12.5",
    )


def test_a_range_stands_beside_a_spread_of_several() -> None:
    assert (with_range(None, 2), with_range(ALONE, 2)) == ("-", "1.00")
    assert with_range(SEVERAL, 1, 100) == "50.0 ± 12.5 (40.0 to 62.0)"


@pytest.mark.parametrize(
    ("seeds", "words"), [(2, "0.4 to 31.9 times"), (3, "0.5 to 6.3 times"), (6, "0.6 to 2.5 times")]
)
def test_what_so_many_seeds_can_say(seeds: int, words: str) -> None:
    """Against tables of the chi-square law: 0.0506 and 7.378 for two degrees of freedom, 0.831 and 12.83 for five."""
    (note,) = seeds_note(seeds)
    assert f"of {seeds} seeds" in note and words in note
    assert seeds_note(1) == []


def test_wins_pair_runs_of_one_seed_and_budget() -> None:
    assert wins(ROWS, SCORES, WINS) == [
        "branched against end-to-end: lower loss in 2 of 3 runs, lower Frechet distance in 2 of 3"
    ]
    assert [(a["seed"], b["seed"]) for a, b in pairs(ROWS[:4], "branched", "end-to-end")] == [(0, 0), (1, 1)]


def test_where_higher_is_better_more_wins() -> None:
    scores = Scores(judged={"loss": "higher"}, spread=(), listed="", ours=("branched",), rivals=("end-to-end",))
    assert wins(ROWS, scores, {"loss": "more"}) == ["branched against end-to-end: more in 1 of 3 runs"]
    assert crossings(summaries(ROWS, SCORES), scores) == []


def test_crossing_is_interpolated_in_log_work() -> None:
    a, b = [(100.0, 3.0), (10_000.0, 1.0)], [(100.0, 2.0), (10_000.0, 2.0)]
    assert crossing(a, b) == "better from about 1,000 layer evaluations on"
    assert crossing(b, a) == "worse from about 1,000 layer evaluations on"
    assert crossing(a, [(100.0, 4.0), (10_000.0, 4.0)]) == "better at every budget"
    assert crossing(a, [(100.0, 0.0), (10_000.0, 0.0)]) == "not better at every budget"


def test_crossings_need_two_budgets() -> None:
    lines = crossings(summaries(ROWS, SCORES), SCORES)
    assert lines[0].startswith("loss of branched against end-to-end: better from about ")
    assert lines[1] == "frechet of branched against end-to-end: not better at every budget"
    assert crossings(summaries(ROWS[:4], SCORES), SCORES) == []


def test_costs_are_counted_in_megabytes_with_columns_of_the_task() -> None:
    found = summaries([{**ROWS[0], "peak_bytes": 2_500_000, "speed": 12.0, "parameters": None}], SCORES)
    table = cost_table([{**found[0], "speed": Spread(12.0, 0.0, 12.0, 12.0)}], {"images/s": "speed"})
    assert table.columns == (
        "arm",
        "layer evals",
        "parameters",
        "train s",
        "images/s",
        "peak MB",
        "with checkpointing",
    )
    assert table.rows == [("end-to-end", "1,010", "-", "5", "12", "2.5", "0.0")]
