from pathlib import Path
from typing import Any

import pytest
from report.test_spread import ROWS
from tiny import tiny_plan

from oneblock.experiment.reopened import reopen
from oneblock.experiment.results import record
from oneblock.plan import write_plan
from oneblock.train.session import in_session


def placed(place: Path, rows: list[dict[str, Any]]) -> Path:
    for row in rows:
        record(place / row["run"], {key: value for key, value in row.items() if key not in ("budget", "run")})
    return place


def test_rows_are_those_of_the_comparison_in_its_order(tmp_path: Path) -> None:
    found = reopen(placed(tmp_path, ROWS[::-1])).comparison
    assert found.task == "images"
    assert [(row["budget"], row["seed"], row["arm"]) for row in found.rows] == [
        ("1k", 0, "end-to-end"),
        ("1k", 0, "branched"),
        ("1k", 1, "end-to-end"),
        ("1k", 1, "branched"),
        ("4k", 0, "end-to-end"),
        ("4k", 0, "branched"),
    ]
    assert found.rows[0] == ROWS[0]


def test_without_a_session_the_grid_says_what_is_absent(tmp_path: Path) -> None:
    found = reopen(placed(tmp_path, [row for row in ROWS if row["run"] != "branched-1k-seed1"]))
    assert (found.absent, found.unfinished) == (["branched-1k-seed1"], [])
    write_plan(tiny_plan(), tmp_path / "branched-1k-seed1")
    again = reopen(tmp_path)
    assert (again.absent, again.unfinished) == ([], ["branched-1k-seed1"])


def test_a_session_says_what_was_asked(tmp_path: Path) -> None:
    with in_session(tmp_path, {"task": "audit", "runs": ["shallow-9k-seed4", 7, "../x"]}):
        pass
    found = reopen(tmp_path)
    assert (found.comparison.task, found.absent, found.comparison.rows) == ("audit", ["shallow-9k-seed4"], [])


@pytest.mark.parametrize(
    ("arms", "more", "task"),
    [
        (("shallow", "blockwise"), {"auditing": {}}, "audit"),
        (("single-pass",), {}, "recurrent-text"),
        (("paper",), {}, "classify"),
        (("two-streams",), {}, "text"),
    ],
)
def test_the_task_follows_from_the_results(tmp_path: Path, arms: tuple[str, ...], more: Any, task: str) -> None:
    for arm in arms:
        record(tmp_path / f"{arm}-1k-seed0", {"arm": arm, "seed": 0, **more})
    assert reopen(tmp_path).comparison.task == task


def test_results_of_other_runs_and_programs_are_left_out(tmp_path: Path) -> None:
    placed(tmp_path, ROWS[:2])
    record(tmp_path / "shallow-1k-seed0", {"arm": "experts", "seed": 0})
    (tmp_path / "model").mkdir()
    found = reopen(tmp_path)
    assert [row["run"] for row in found.comparison.rows] == [row["run"] for row in ROWS[:2]]
    (problem,) = found.problems
    assert "is the result of another run (experts); it is left out" in problem


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run of a comparison; give the --out of oneblock compare"):
        reopen(tmp_path)
    record(tmp_path / "bogus-1k-seed0", {"arm": "bogus", "seed": 0})
    with pytest.raises(ValueError, match=r"the runs \(bogus\) are of no comparison that this version"):
        reopen(tmp_path)


@pytest.mark.parametrize(
    ("key", "problem"),
    [("calls", []), ("bits_in", ["the runs were not all scored with the same bits_in (end-to-end-1k-seed0: 1.0; "])],
)
def test_settings_of_scoring_must_be_the_same_and_scores_need_not(tmp_path: Path, key: str, problem: list[str]) -> None:
    """The calls that a run has taken are a score."""
    for arm, calls in (("end-to-end", 1.0), ("blockwise", 2.0)):
        record(tmp_path / f"{arm}-1k-seed0", {"arm": arm, "seed": 0, key: calls})
    found = reopen(tmp_path).problems
    assert [one[: len(known)] for one, known in zip(found, problem, strict=True)] == problem
