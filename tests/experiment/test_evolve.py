"""A classifier with and without a backward pass, at equal steps and at equal processor time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import IMAGES

import oneblock as ob
from oneblock.data import MemorySource, synthetic_images
from oneblock.experiment import evolve
from oneblock.experiment.evolve import ARMS, TIMED, TIMING_FILE, WAYS, EvolveExperiment, usual_rate
from oneblock.report.comparison import report
from oneblock.train.drive import Watch
from oneblock.train.evolve import UpdateSettings, plan_update

DATA, HELD_OUT = MemorySource(IMAGES), MemorySource(synthetic_images(40, 8, 1, 3, seed=1))
RECIPE = replace(
    EvolveExperiment().usual,
    depth=2,
    width=8,
    population=8,
    chunk=8,
    batch_size=8,
    budget=3 * 8 * 2,
    learning_rate=0.01,
)


def compared(out: Path, *arms: str, **changes: Any) -> Any:
    return ob.compare(
        changes.pop("experiment", EvolveExperiment(cpu_seconds=1.0)),
        out=out,
        data=DATA,
        held_out=HELD_OUT,
        recipe=replace(RECIPE, **changes),
        arms=arms,
        seeds=1,
        watch=Watch(bars=False),
    )


def test_arms_are_ways_to_find_gradients() -> None:
    facts = EvolveExperiment().open(RECIPE, DATA, HELD_OUT).facts
    found = {name: plan_update(arm.plans(RECIPE, facts)[0]) for name, arm in ARMS.items()}
    ours = UpdateSettings(update="evolution", population=8, weight_noise=0.05, chunk=8)
    assert found["backpropagation"] == UpdateSettings()
    assert [found[name] for name in ("rank-1", "rank-4", "full-rank")] == [
        replace(ours, noise_rank=rank) for rank in (1, 4, 0)
    ]
    assert found["two-members"] == replace(ours, noise_rank=0, population=2, chunk=2, shaping="none")
    assert all(found[name] == found[name + TIMED] for name in WAYS)


def test_every_arm_has_a_rate_of_its_own_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(rates.keys() == ARMS.keys() for rates in evolve.RATES.values())
    monkeypatch.setattr(evolve, "RATES", {"a": dict.fromkeys(ARMS, 0.1), "synthetic": dict.fromkeys(ARMS, 0.2)})
    assert (usual_rate("rank-1", "a"), usual_rate("rank-1", "other")) == (0.1, 0.1)
    known = EvolveExperiment().open(RECIPE, DATA, HELD_OUT)
    facts = replace(known.facts, data="synthetic")
    for given, expected in ((0.0, 0.2), (0.03, 0.03)):
        (plan,) = ARMS["rank-4"].plans(replace(RECIPE, learning_rate=given), facts)
        assert plan.recipe["learning_rate"] == expected


def test_equal_steps(tmp_path: Path) -> None:
    found = compared(tmp_path, "backpropagation", "rank-1")
    assert [row["steps"] for row in found.rows] == [3, 3]
    assert [row["layer_evaluations"] for row in found.rows] == [48, 48]
    assert [row["update"] for row in found.rows] == ["backpropagation", "evolution"]
    assert all(row["cpu_seconds"] > 0 and 0 <= row["accuracy"] <= 1 for row in found.rows)
    assert found.rows[0]["parameters"] == 64 * 8 + 8 + 8 * 3 + 3
    shown = report(found)
    assert [table.title for table in shown.tables] == ["held-out images at equal steps (seeds: 1)"]
    assert [line.partition(":")[0] for line in shown.lines] == ["rank-1 against backpropagation"]
    assert compared(tmp_path, "backpropagation", "rank-1").rows == found.rows, "a result is taken as it is"


def test_equal_processor_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of steps is what the time pays for, and stays when the run goes on."""
    seconds = iter((0.25, 0.1))
    monkeypatch.setattr(evolve, "step_seconds", lambda *given, **_: next(seconds))
    found = compared(tmp_path, "backpropagation-timed", "rank-1-timed")
    assert [row["steps"] for row in found.rows] == [4, 10]
    assert [row["cpu_limit"] for row in found.rows] == [1.0, 1.0]
    assert report(found).tables[0].title == "held-out images at equal processor time (seeds: 1)"
    run = tmp_path / found.rows[1]["run"]
    assert json.loads((run / TIMING_FILE).read_text()) == {"steps": 10, "seconds_each": 0.1}
    (run / "result.json").unlink()
    (again,) = compared(tmp_path, "rank-1-timed").rows
    assert (again["steps"], again["accuracy"]) == (10, found.rows[1]["accuracy"])
    assert again["cpu_seconds"] is None, "it was trained before"
    (run / "result.json").unlink()
    (run / TIMING_FILE).write_text("{}")
    with pytest.raises(ValueError, match="does not say how many steps the run has"):
        compared(tmp_path, "rank-1-timed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_rank": 4}, "noise_rank=4 means nothing here"),
        ({"heads": 4}, "heads=4 means nothing here"),
        ({"experiment": EvolveExperiment(cpu_seconds=0.0)}, "cpu_seconds=0.0 is not a time"),
        ({"budget": 3}, "budget=3 does not pay for one step"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared(tmp_path / "out", "rank-1", **changes)
    assert not (tmp_path / "out").exists()
