import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_plan

from oneblock.noise import LogUniform, law_to_dict
from oneblock.plan import PLAN_FILE, Plan, differences, read_plan, write_plan

OTHER: dict[str, Any] = {
    "task": "text",
    "architecture": {"name": "other"},
    "layers": (1, 3),
    "noise": law_to_dict(LogUniform()),
    "edges": (80.0, 1.0, 0.002),
    "overlap": 0.1,
    "sigma_data": 0.6,
    "recipe": {"data": "other"},
    "seed": 1,
    "shared": "joint",
}


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = tiny_plan()
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan
    assert read_plan(tmp_path).hash == plan.hash
    assert [path.name for path in tmp_path.iterdir()] == [PLAN_FILE]


@pytest.mark.parametrize("name", [field.name for field in fields(Plan) if field.name != "schema_version"])
def test_every_field_counts_in_the_hash(name: str) -> None:
    plan = tiny_plan()
    changed = replace(plan, **{name: OTHER[name]})
    assert changed.hash != plan.hash
    assert {found.partition(".")[0] for found in differences(plan, changed)} == {name}


def test_the_order_of_settings_does_not_count() -> None:
    plan = tiny_plan()
    assert replace(plan, recipe=dict(reversed(plan.recipe.items()))).hash == plan.hash


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        tiny_plan().seed = 3  # type: ignore[misc]


def test_layers_of_a_block() -> None:
    plan = replace(tiny_plan(), layers=(1, 3))
    assert [list(plan.layer_range(b)) for b in (0, 1)] == [[0], [1, 2, 3]]
    with pytest.raises(ValueError, match="block=2 does not exist"):
        plan.layer_range(2)


def test_derived_seeds_differ_by_use_block_and_step() -> None:
    plan = tiny_plan()
    names = [(use, job, step) for use in ("noise", "data") for job in ("block-1", "block-11") for step in (1, 11)]
    seeds = {plan.derive_seed(*name) for name in names} | {plan.derive_seed("noise", "block-1")}
    assert len(seeds) == len(names) + 1
    assert replace(plan, seed=1).derive_seed("noise") != plan.derive_seed("noise")
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"optimiser": "adam"}, r"unknown keys \['optimiser'\] and lacks \[\]"),
        ({"seed": None}, r"unknown keys \[\] and lacks \['seed'\]"),
        ({"schema_version": 2}, "has schema_version=2; this version of oneblock reads 1; use the version"),
        ({"schema_version": None}, "schema_version=None"),
        ({"layers": [2, 2, 2]}, "layers=.* makes 3 blocks, but edges make 2 bands; give one band per block"),
        ({"layers": [4, 0]}, "every block needs at least one layer"),
        ({"layers": []}, "every block needs at least one layer"),
        ({"shared": "maybe"}, "shared='maybe' is not a policy; use one of private, synced, joint"),
        ({"sigma_data": -1.0}, "sigma_data=-1.0 is not a standard deviation"),
        ({"overlap": 2.0}, "overlap=2.0 is outside"),
        (
            {"edges": 3},
            r"plan.json: edges=3 is not allowed in Plan; use a tuple, each item a number; restore it from a copy",
        ),
        ({"layers": ["2", "2"]}, r"layers=\('2', '2'\) is not allowed in Plan; use a tuple, each item a whole number"),
        ({"noise": {"law": "gamma"}}, "noise law 'gamma' is unknown"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    values = json.loads(tiny_plan().to_json()) | edit
    values = {key: value for key, value in values.items() if value is not None}
    (tmp_path / PLAN_FILE).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        read_plan(tmp_path)


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no plan.json; give the directory of a run \(its --out\)"):
        read_plan(tmp_path)
    (tmp_path / PLAN_FILE).write_text('{"task": "ima')
    with pytest.raises(ValueError, match=r"is not JSON .*restore it from a copy of the run"):
        read_plan(tmp_path)
    (tmp_path / PLAN_FILE).write_text("[1]")
    with pytest.raises(ValueError, match="holds a list; a plan is a JSON object"):
        read_plan(tmp_path)


def test_a_directory_belongs_to_one_plan(tmp_path: Path) -> None:
    plan = tiny_plan()
    write_plan(plan, tmp_path / "run")
    write_plan(plan, tmp_path / "run")
    with pytest.raises(ValueError, match=r"they differ in: recipe.learning_rate, seed\); use another directory"):
        recipe = {**plan.recipe, "learning_rate": 0.5}
        write_plan(replace(plan, seed=7, recipe=recipe), tmp_path / "run")
    assert read_plan(tmp_path / "run") == plan
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty and does not hold plan.json; use a new or empty directory"):
        write_plan(plan, tmp_path / "letters")


def test_a_run_killed_in_its_first_moment_starts_again(tmp_path: Path) -> None:
    (tmp_path / f"{PLAN_FILE}.partial").write_text("{")
    plan = tiny_plan()
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan
