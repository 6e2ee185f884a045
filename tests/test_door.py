"""Plans that are altered: refused with the file, the key and the value, before anything is trained."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import FACTS, TINY, tiny_classify_plan, tiny_plan

import oneblock as ob
from oneblock.data import BytePair, Characters
from oneblock.launch.start import commands
from oneblock.plan import PLAN_FILE, Plan
from oneblock.presets import TextFacts, cnn_plan
from oneblock.presets.base import OwnBackbone
from oneblock.presets.door import check_plan, open_plan, read_plan
from oneblock.presets.tasks import block_parameters
from oneblock.train.shards import CONFIG_FILE

SMALL = {name: value for name, value in TINY.items() if name != "patch"} | {"length": 8}
TEXT = TextFacts(vocabulary=Characters(), data="books")
PAIRS = TextFacts(vocabulary=BytePair(merges=("t h", "th e")))
ROWS = tuple(float(i % 7 + 1) for i in range(27 * 4))
MAKE: dict[str, Callable[[], Plan]] = {
    "image": tiny_plan,
    "classify": tiny_classify_plan,
    "prototypes": lambda: tiny_classify_plan(tuple(map(float, range(1, 7))), table="prototypes", label_width=2),
    "masked": lambda: ob.MaskedRecipe(**SMALL).plan(TEXT),
    "text": lambda: ob.CausalRecipe(**SMALL).plan(TEXT),
    "pairs": lambda: ob.CausalRecipe(**SMALL, table="random").plan(PAIRS),
    "rows": lambda: ob.CausalRecipe(**SMALL, table="co-occurrence").plan(TextFacts(vocabulary=Characters(), rows=ROWS)),
    "cnn": lambda: cnn_plan(ob.ClassifyRecipe(**TINY, label_width=3), FACTS),
    "own": lambda: ob.ImageRecipe(**TINY).plan(FACTS, OwnBackbone("own:Own")),
}


def altered(plan: Plan, place: str, value: Any) -> str:
    """The text of a plan with another value at ``recipe.heads``; ``...`` deletes it."""
    values = json.loads(plan.to_json())
    *inside, key = place.split(".")
    holder = values[inside[0]] if inside else values
    if value is ...:
        del holder[key]
    else:
        holder[key] = value
    return json.dumps(values)


@pytest.mark.parametrize("kind", MAKE)
def test_every_kind_of_plan_comes_in(kind: str, tmp_path: Path) -> None:
    plan = MAKE[kind]()
    check_plan(plan)
    (tmp_path / PLAN_FILE).write_text(plan.to_json())
    assert read_plan(tmp_path) == open_plan(tmp_path) == plan


@pytest.mark.parametrize(
    ("kind", "place", "value", "message"),
    [
        ("image", "architecture.heads", None, "architecture.heads=None is not allowed in DiTConfig; use a whole"),
        ("image", "architecture.heads", 3, "architecture.heads=3 does not divide width=16"),
        ("image", "architecture.heads", True, "architecture.heads=True is not allowed"),
        ("image", "architecture.width", 16.0, "architecture.width=16.0 is not allowed"),
        ("image", "architecture.width", -16, "architecture.width=-16 is not allowed; use 1 or more"),
        ("image", "architecture.patch", 3, "architecture.patch=3 does not divide image_size=8"),
        ("image", "architecture.depth", 6, r"layers=\(2, 2\) add up to 4, but architecture.depth=6"),
        ("image", "architecture.mlp_ratio", ..., None),
        ("image", "architecture.channels", ..., "architecture lacks channels"),
        ("image", "architecture.experts", 2, "architecture has the unknown keys experts"),
        ("image", "architecture.name", "vit", "architecture 'vit' is unknown for task 'image'"),
        ("image", "architecture.name", ["dit"], r"architecture \['dit'\] is unknown"),
        ("image", "recipe.label_dropout", ..., "recipe lacks label_dropout"),
        ("image", "recipe.label_dropout", 1.0, "recipe.label_dropout=1.0 is not allowed"),
        ("image", "recipe.precision", "x", "recipe.precision='x' is not allowed in OptimizerSettings; use one of fp32"),
        ("image", "recipe.accumulate", 0, "recipe.accumulate=0 is not allowed"),
        ("image", "recipe.branch", "half", "recipe.branch='half' is not allowed in Budget"),
        ("image", "recipe.batch_size", True, "recipe.batch_size=True is not allowed in Budget"),
        ("image", "recipe.layer_evaluations", 10**18, "layer_evaluations=1000000000000000000 are .* steps of a block"),
        ("image", "recipe.layer_evaluations", -5, "recipe.layer_evaluations=-5 is not allowed; use a whole number, 1"),
        ("image", "recipe.layer_evaluations", 5, "budget=5 does not pay for one step of every block"),
        ("image", "recipe.sync_every", 0, "recipe.sync_every=0 is not allowed; use 1 or more"),
        ("image", "recipe.fingerprint", "../x", "recipe.fingerprint='../x' is not a fingerprint; it has 16 hex digits"),
        ("image", "recipe.autoencoder", None, "recipe.autoencoder=None is not allowed"),
        ("image", "recipe.typo", 1, "recipe has the unknown keys typo"),
        ("image", "recipe.data", "a\0b", "recipe.data='a.x00b' holds characters that no file can"),
        ("image", "recipe.data", "\ud800", "recipe.data=.* holds characters that no file can"),
        ("image", "recipe.flip", ..., None),
        ("image", "recipe.autoencoder", ..., "recipe lacks autoencoder"),
        ("classify", "recipe.flip", ..., "recipe lacks flip"),
        ("text", "architecture.coda", ..., None),
        ("image", "recipe.classes", ["a", "b", "c"], None),
        ("image", "recipe.classes", ["a", "b"], "recipe.classes names 2 classes, but architecture.num_classes=3"),
        ("image", "recipe.classes", [1, 2, 3], r"recipe.classes=\(1, 2, 3\) is not allowed in ImageSettings"),
        ("image", "seed", [], r"seed=\[\] is not allowed in Plan; use a whole number"),
        ("image", "seed", 2**70, "is not JSON as oneblock writes it .*has more than 64 bits"),
        ("image", "schema_version", True, "has schema_version=True; this version of oneblock reads 1"),
        ("image", "schema_version", 1.0, "has schema_version=1.0"),
        ("image", "overlap", float("nan"), "NaN is not a finite number"),
        ("image", "sigma_data", float("inf"), "Infinity is not a finite number"),
        ("image", "layers", [1, 3], None),
        ("image", "layers", [1, 1], r"layers=\(1, 1\) add up to 2, but architecture.depth=4"),
        ("image", "layers", [2.0, 2.0], r"layers=\(2.0, 2.0\) is not allowed in Plan"),
        ("image", "edges", [80.0, 90.0, 0.002], "edges=.* do not descend"),
        ("image", "task", "audio", "task='audio' is unknown"),
        ("image", "task", "classify", "architecture 'dit' is unknown for task 'classify'"),
        ("image", "noise", {"law": "linear-mask"}, "edges run from 80.0 to 0.002"),
        ("classify", "recipe.table", "circle", "recipe.table='circle' is not allowed in ClassifySettings"),
        ("classify", "recipe.table_width", 4, "recipe.table_width=4 does not fit 3 vectors; use 3"),
        ("classify", "recipe.magnitude", 99, "recipe.magnitude=99"),
        ("classify", "architecture.label_width", 5, "architecture.label_width=5, but recipe.inputs='evidence' shows"),
        ("classify", "architecture.num_classes", 1, "architecture.num_classes=1 leaves nothing to tell apart"),
        ("prototypes", "recipe.prototypes", [1.0] * 5, "recipe.prototypes has 5 numbers; 3 vectors of 2 have 6"),
        ("prototypes", "recipe.prototypes", [1.0] * 5 + [None], r"recipe.prototypes=.* is not allowed in a plan"),
        ("masked", "recipe.vocabulary", "klingon", "recipe.vocabulary='klingon' is not allowed"),
        ("masked", "recipe.vocabulary", "bytes", "architecture.vocabulary=27, but the vocabulary of the recipe has"),
        ("masked", "recipe.merges", ["t h"], "recipe.merges do not go with recipe.vocabulary='characters'"),
        ("masked", "recipe.weighting", "odd", "recipe.weighting='odd' is not allowed in MaskedSettings"),
        ("masked", "architecture.kv_heads", -1, "architecture.kv_heads=-1 is not allowed; use 0 or more"),
        ("masked", "architecture.context", 0, "architecture.context=0 leaves nothing to learn"),
        ("text", "recipe.passes", 5, "recipe.passes=5, recipe.end_layers=0 do not count the work of this network"),
        ("text", "recipe.clean", 2.0, "recipe.clean=2.0 is not a share"),
        ("text", "architecture.streams", "three", "architecture.streams='three' is not allowed in GPTConfig"),
        ("pairs", "recipe.merges", ["t h", "q"], r"merges\[1\]='q' is not a merge"),
        ("pairs", "recipe.merges", ["t h"], "architecture.vocabulary=258, but the vocabulary of the recipe has 257"),
        ("rows", "recipe.rows", [1.0, 2.0], "recipe.rows has 2 numbers; 27 vectors of 4 have 108"),
        ("cnn", "architecture.filters", 0, "architecture.filters=0 leaves nothing to compute with"),
        ("own", "architecture.shape", [1, -8, 8], r"architecture.shape=\(1, -8, 8\) is not the shape of a sample"),
        ("own", "architecture.depth", 3, r"layers=\(2, 2\) add up to 4, but architecture.depth=3"),
    ],
)  # fmt: skip
def test_altered_plans(kind: str, place: str, value: Any, message: str | None, tmp_path: Path) -> None:
    file = tmp_path / PLAN_FILE
    file.write_text(altered(MAKE[kind](), place, value))
    if message is None:
        assert read_plan(tmp_path).depth == 4
        return
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}.*{message}") as caught:
        read_plan(tmp_path)
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON as oneblock writes it"),
        (b'{"seed": 1, "seed": 2}', "the key 'seed' stands twice"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"seed": 1e999}', "1e999 is not a finite number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "has more than 64 bits"),
        (b'\xff\xfe{"seed": 1}', "byte 0 is not UTF-8"),
        (b'\xef\xbb\xbf{"seed": 1}', "is not JSON as oneblock writes it"),
        (b"[1]", "holds a list; a plan is a JSON object"),
    ],
)
def test_what_is_no_plan(text: bytes, message: str, tmp_path: Path) -> None:
    for name in (PLAN_FILE, CONFIG_FILE):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / name))} .*{message}"):
            open_plan(tmp_path)


def test_every_door_asks(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / PLAN_FILE).write_text(altered(MAKE["image"](), "recipe.precision", "x"))
    doors: list[Callable[[], object]] = [
        lambda: ob.read_plan(tmp_path),
        lambda: ob.Model.open(tmp_path),
        lambda: ob.status(tmp_path),
        lambda: ob.merge(tmp_path),
        lambda: ob.run_job(tmp_path, 0),
        lambda: ob.launch(tmp_path),
        lambda: commands(tmp_path),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=r"plan.json: recipe.precision='x' is not allowed"):
            door()
    for words in (("status",), ("sample",), ("evaluate",), ("merge",), ("launch",), ("job", "--block", "0")):
        assert "recipe.precision='x' is not allowed" in refused(words[0], tmp_path, *words[1:])
    assert [path.name for path in tmp_path.iterdir()] == [PLAN_FILE]


def test_networks_beyond_64_bits_are_not_built(tmp_path: Path) -> None:
    text = altered(MAKE["image"](), "architecture.mlp_ratio", 1e300)
    (tmp_path / PLAN_FILE).write_text(text)
    plan = read_plan(tmp_path)
    with pytest.raises(ValueError, match=r"the network cannot be built \(.*\); make it smaller, or restore its plan"):
        block_parameters(plan)(0)  # type: ignore[misc]


def test_plans_made_in_python_are_checked_too(tmp_path: Path) -> None:
    from dataclasses import replace

    from tiny import IMAGES

    from oneblock.data import MemorySource
    from oneblock.presets.run import start_run

    plan = tiny_plan()
    wrong = replace(plan, recipe={**plan.recipe, "precision": "x"})
    with pytest.raises(ValueError, match=r"recipe.precision='x'"):
        start_run(wrong, tmp_path / "run", MemorySource(IMAGES))
    wide = replace(plan, architecture={**plan.architecture, "width": 2**18})
    with pytest.raises(ValueError, match=r"the largest block of the plan has .* GB of weights, more than this machine"):
        start_run(wide, tmp_path / "run", MemorySource(IMAGES))
    assert not (tmp_path / "run").exists()
