"""Recipes own every default: Python and the command line train the same."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK

from oneblock.checks import check_fields
from oneblock.data import Bytes, synthetic_images
from oneblock.plan import read_plan
from oneblock.presets import (
    CausalRecipe,
    ClassifyRecipe,
    ImageFacts,
    ImageRecipe,
    MaskedRecipe,
    Recipe,
    TextFacts,
    end_to_end,
    make_plan,
    parse_count,
    recurrent_recipe,
    shallow,
    train,
)
from oneblock.train.machine import Machine
from oneblock.train.strategy import plan_budget, plan_optimizer

FACTS = ImageFacts(shape=(1, 8, 8), num_classes=10)
TEXT = TextFacts(vocabulary=Bytes())
RECIPES: list[tuple[Recipe, Any]] = [
    (ImageRecipe(), FACTS),
    (ClassifyRecipe(), FACTS),
    (MaskedRecipe(), TEXT),
    (CausalRecipe(), TEXT),
    (recurrent_recipe(), TEXT),
]


@pytest.mark.parametrize(("width", "rate"), [(96, 0.4 / 96), (32, 0.4 / 32), (64, 0.4 / 64)])
def test_the_rate_of_images_follows_from_the_width(width: int, rate: float) -> None:
    assert plan_optimizer(ImageRecipe(width=width, heads=2).plan(FACTS)).learning_rate == rate
    assert plan_optimizer(ImageRecipe(width=width, heads=2, learning_rate=3e-4).plan(FACTS)).learning_rate == 3e-4


@pytest.mark.parametrize(("recipe", "facts"), RECIPES)
def test_every_recipe_has_a_budget_and_a_rate(recipe: Recipe, facts: Any) -> None:
    plan = recipe.plan(facts)
    assert plan_budget(plan).layer_evaluations == 1_150_000
    scale = 0.4 if isinstance(recipe, ImageRecipe) else 0.128
    assert plan_optimizer(plan).learning_rate == scale / 96
    assert recipe.plan(facts).hash == plan.hash


def test_patches_follow_from_the_size_of_the_images() -> None:
    sizes = {side: ImageRecipe().plan(replace(FACTS, shape=(1, side, side))) for side in (8, 16, 28)}
    assert {side: plan.architecture["patch"] for side, plan in sizes.items()} == {8: 2, 16: 4, 28: 4}
    assert ImageRecipe(patch=8).plan(FACTS).architecture["patch"] == 8


@pytest.mark.parametrize(
    ("written", "number"), [(800, 800), ("800", 800), ("200k", 200_000), ("1.15M", 1_150_000), ("2g", 2 * 10**9)]
)
def test_budgets_are_numbers_or_words(written: int | str, number: int) -> None:
    assert parse_count(written) == number
    assert plan_budget(ImageRecipe(budget=written, batch_size=1).plan(FACTS)).layer_evaluations == number


@pytest.mark.parametrize("wrong", ["many", 0, -5, "", "1.2X", "nan"])
def test_other_budgets_are_refused(wrong: int | str) -> None:
    with pytest.raises(ValueError, match=r"budget=.* is not a number of layer evaluations; write 800000, 300k or 1.2M"):
        ImageRecipe(budget=wrong).plan(FACTS)


def test_the_controls_are_written_once() -> None:
    whole = end_to_end(ImageRecipe(layers=(1, 2, 3), branch=0.5))
    assert (whole.plan(FACTS).layers, whole.branch) == ((6,), 0.0)
    assert shallow(ImageRecipe(layers=(1, 2, 3))).plan(FACTS).layers == (3,)
    assert shallow(ImageRecipe(blocks=3)).plan(FACTS).layers == (2,)
    vit = end_to_end(ClassifyRecipe(modulated=True, recipe="paper"))
    assert vit.plan(FACTS).architecture["noisy_token"] == "none"
    assert vit.plan(FACTS).shared == "private", "an ordinary network has nothing of the paper's recipe"
    gpt = shallow(CausalRecipe(streams="two", clean=0.5)).plan(TEXT)
    assert (gpt.architecture["streams"], gpt.recipe["inputs"], gpt.recipe["clean"]) == ("none", "evidence", 0.0)
    assert gpt.layers == (2,)
    assert shallow(ClassifyRecipe(settings="cifar100")).plan(replace(FACTS, shape=(3, 32, 32))).layers == (4,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"blocks": "3"}, "blocks='3' is not allowed in ImageRecipe; use a whole number"),
        ({"blocks": True}, "blocks=True is not allowed"),
        ({"blocks": 3.0}, "blocks=3.0 is not allowed"),
        ({"learning_rate": "fast"}, "learning_rate='fast' is not allowed in ImageRecipe; use a number"),
        ({"shared": "all"}, "shared='all' is not allowed in ImageRecipe; use one of private, synced, joint"),
        ({"size": "huge"}, "use one of nano, micro, tiny, S, B, L, XL"),
        ({"layers": ("1",)}, r"layers=\('1',\) is not allowed in ImageRecipe; use a tuple, each item a whole number"),
        ({"layers": 3}, "layers=3 is not allowed"),
        ({"flip": 1}, "flip=1 is not allowed in ImageRecipe; use True or False"),
        ({"budget": None}, "budget=None is not allowed in ImageRecipe; use a whole number or text"),
        ({"seed": [1]}, r"seed=\[1\] is not allowed"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageRecipe(**wrong)


def test_a_list_may_stand_for_a_tuple_and_a_whole_number_for_a_number() -> None:
    assert ImageRecipe(layers=[1, 2, 3]).layers == (1, 2, 3)  # type: ignore[arg-type]
    assert ImageRecipe(overlap=0).overlap == 0
    check_fields(ImageRecipe())


def test_every_field_of_every_recipe_is_explained() -> None:
    """The help of the command line is read from the words below each field."""
    for recipe, _ in RECIPES:
        kinds = [kind for kind in type(recipe).__mro__ if "__dataclass_fields__" in vars(kind)]
        text = "".join(map(inspect.getsource, kinds))
        for field in fields(recipe):
            assert re.search(rf'\n    {field.name}: .*\n    """[^"]', text), field.name


def same_files(ours: Path, theirs: Path) -> None:
    found = {path.relative_to(ours) for path in ours.rglob("*.safetensors")}
    assert found == {path.relative_to(theirs) for path in theirs.rglob("*.safetensors")} and found
    for name in found:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


TINY_RECIPE = {"size": "nano", "depth": 4, "width": 16, "heads": 2, "blocks": 2}
TINY_WORK = {"batch_size": 16, "block_batch_size": 16, "budget": 256}


@pytest.mark.parametrize(
    ("verb", "words", "recipe"),
    [
        ("images", [], ImageRecipe(**TINY_RECIPE, **TINY_WORK)),  # type: ignore[arg-type]
        ("images", ["--branch", "0.5", "--flip"], ImageRecipe(**TINY_RECIPE, **TINY_WORK, branch=0.5, flip=True)),  # type: ignore[arg-type]
        ("classify", ["--table", "random"], ClassifyRecipe(**TINY_RECIPE, **TINY_WORK, table="random")),  # type: ignore[arg-type]
    ],
)
def test_python_and_the_command_line_give_the_same_bytes(
    verb: str, words: list[str], recipe: Recipe, tmp_path: Path, ok: Callable[..., Any]
) -> None:
    pytest.importorskip("sklearn")
    ok("train", verb, "--out", tmp_path / "line", *TINY, *WORK, *words)
    done = train(recipe, data="digits", out=tmp_path / "python", machine=Machine(threads=1))
    assert done.plan == read_plan(tmp_path / "line") == read_plan(tmp_path / "python")
    same_files(tmp_path / "python", tmp_path / "line")


@pytest.mark.parametrize(
    ("verb", "words", "recipe"),
    [
        ("masked-text", ["--length", "16"], MaskedRecipe(**TINY_RECIPE, **TINY_WORK, length=16)),  # type: ignore[arg-type]
        ("text", ["--length", "16"], CausalRecipe(**TINY_RECIPE, **TINY_WORK, length=16)),  # type: ignore[arg-type]
        (
            "recurrent-text",
            ["--length", "16", "--blocks", "1"],
            replace(recurrent_recipe(), **TINY_RECIPE | TINY_WORK | {"blocks": 1}, length=16),  # type: ignore[arg-type]
        ),
    ],
)
def test_so_they_do_of_text(
    verb: str, words: list[str], recipe: Recipe, tmp_path: Path, ok: Callable[..., Any], text: str
) -> None:
    ok("train", verb, "--data", text, "--out", tmp_path / "line", *TINY, *WORK, *words)
    train(recipe, data=text, out=tmp_path / "python", machine=Machine(threads=1))
    same_files(tmp_path / "python", tmp_path / "line")


def test_a_run_of_another_plan_and_data_of_another_kind_are_refused(tmp_path: Path, text: str) -> None:
    pytest.importorskip("sklearn")
    tiny = ImageRecipe(**TINY_RECIPE, **TINY_WORK)  # type: ignore[arg-type]
    train(tiny, data="digits", out=tmp_path / "run", strategy="plan-only")
    with pytest.raises(ValueError, match=r"belongs to plan .* \(they differ in: seed\)"):
        train(replace(tiny, seed=1), data="digits", out=tmp_path / "run")
    with pytest.raises(ValueError, match="data='books' is unknown; digits, fashion"):
        make_plan(tiny, "books")
    with pytest.raises(ValueError, match="data is a ImageSet, which has no length"):
        make_plan(tiny, synthetic_images(4, 8, 1, 3, seed=0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this recipe trains on text: give a name"):
        make_plan(MaskedRecipe(), [1, 2])
    with pytest.raises(ValueError, match=r"branch=0\.5 needs two blocks or more"):
        make_plan(replace(tiny, branch=0.5), "digits", strategy="end-to-end")


@pytest.mark.parametrize("recipe", [CausalRecipe, MaskedRecipe])
def test_no_window_is_refused(recipe: Callable[..., Recipe]) -> None:
    for length in (0, -1):
        with pytest.raises(ValueError, match=f"length={length} is not allowed; use a whole number, 1 or more"):
            recipe(length=length)


def test_vectors_of_no_length_are_refused() -> None:
    for width in (-1, 10**20):
        with pytest.raises(ValueError, match=f"label_width={width} is not allowed; use a whole number, 0 or more"):
            CausalRecipe(label_width=width)
