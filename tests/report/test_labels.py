from pathlib import Path
from typing import Any

import pytest

from oneblock.experiment.classify import SCORES
from oneblock.report.labels import draw, report


def row(arm: str, budget: str, accuracy: float, calls: int) -> dict[str, Any]:
    return {
        **dict.fromkeys(SCORES.spread, 0.0),
        "arm": arm,
        "budget": budget,
        "seed": 0,
        "run": f"{arm}-{budget}-seed0",
        "layer_evaluations": 1000 if budget == "1k" else 4000,
        "accuracy": accuracy,
        "accuracies": [accuracy * i / calls for i in range(1, calls + 1)],
    }


ROWS = [row("shallow", "1k", 0.5, 1), row("blockwise", "1k", 0.6, 6)]


def test_of_many_calls_the_first_and_the_last_are_shown() -> None:
    shown = report(ROWS, SCORES)
    assert [line[2:4] for line in shown.tables[0].rows] == [
        ("50.00", "50.00"),
        ("60.00", "10.00 / 20.00 / ... / 50.00 / 60.00"),
    ]
    assert shown.lines == ["blockwise against shallow: right more often in 1 of 1 runs"]


def test_several_budgets_are_drawn_against_work(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert [path.name for path in draw(tmp_path, ROWS, SCORES)] == ["accuracy.png"]
    more = [*ROWS, row("shallow", "4k", 0.7, 1), row("blockwise", "4k", 0.8, 2)]
    assert [path.name for path in draw(tmp_path, more, SCORES)] == ["accuracy.png", "budgets.png"]
    assert report(more, SCORES).lines == ["blockwise against shallow: right more often in 2 of 2 runs"]
