from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro
from commands import TINY

from oneblock.cli.plan import PlanImages
from oneblock.cli.words import CONFIG
from oneblock.launch.words import changed_words
from oneblock.presets import ImageRecipe
from oneblock.presets.cost import Fit, cost

pytest.importorskip("torch.distributed._tools.mem_tracker")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--size", "XL", "--patch", "2", "--budget", "300k"],
        ["--layers", "1", "2", "3", "--overlap", "0.1", "--flip", "--precision", "bf16", "--seed", "7"],
        ["--optimizer", "adamw8bit"],
        ["--no-conditional"],
    ],
)
def test_the_words_of_a_recipe_give_the_recipe(words: list[str]) -> None:
    recipe = tyro.cli(ImageRecipe, args=words, config=CONFIG)
    found = changed_words(recipe, ImageRecipe())
    assert tyro.cli(ImageRecipe, args=found, config=CONFIG) == recipe
    assert sorted(found) == sorted(words)


def test_the_answer_leaves_out_what_it_decides() -> None:
    recipe = ImageRecipe(size="nano", width=16, heads=2, layers=(1, 3), depth=4, blocks=2)
    rows = {row.name: row for row in cost(recipe, image_size=8, channels=1).rows}
    recipe = replace(recipe, branch=0.5)
    verb, own = PlanImages(model=recipe), ["--size", "nano", "--depth", "4", "--width", "16", "--heads", "2"]
    two, whole = Fit(rows["own block, 2 blocks"], recipe), Fit(rows["end-to-end, checkpointing"], recipe)
    assert verb.words(two) == [*own, "--layers", "1", "3", "--branch", "0.5"]
    assert verb.words(whole) == [*own, "--strategy", "end-to-end", "--checkpointing"]
    four = Fit(replace(two.cost, blocks=4, checkpointing=True), replace(recipe, layers=(), accumulate=2))
    even = [*own, "--branch", "0.5", "--accumulate", "2", "--blocks", "4", "--checkpointing"]
    assert PlanImages(model=four.recipe).words(four) == even


def test_the_command(tmp_path: Path, ok: Callable[..., list[dict[str, Any]]]) -> None:
    words = ("plan", "images", *TINY, "--layers", "1", "3", "--image-size", "8", "--channels", "1")
    (found,) = ok(*words, "--json", "--fit", "1GiB", "--chart", tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert found["fit"] == {"limit": 2**30, "options": [*TINY[:-2], "--strategy", "end-to-end"]}
    assert {row["blocks"] for row in found["costs"]} == {1, 2}


def test_nothing_fits(refused: Callable[..., str]) -> None:
    said = refused("plan", "images", *TINY, "--batch-size", "2", "--image-size", "8", "--channels", "1", "--fit", "1kB")
    assert "nothing here fits into --fit 1kB, not even one sample at a time" in said
    assert "24 quid" in refused("plan", "images", "--fit", "24 quid")


def test_the_command_for_text(ok: Callable[..., list[dict[str, Any]]], refused: Callable[..., str]) -> None:
    words = ("plan", "masked-text", *TINY, "--length", "16", "--vocabulary", "bpe:300")
    (found,) = ok(*words, "--json", "--fit", "1GiB")
    own = [*TINY[:-2], "--vocabulary", "bpe:300", "--length", "16", "--strategy", "end-to-end"]
    assert found["fit"] == {"limit": 2**30, "options": own}
    assert [cost["samples_per_step"] for cost in found["costs"] if cost["strategy"] != "all resident"] == [
        *(48, 48),
        *(24, 24),
        *(12, 12),
    ]
    assert "vocabulary='bpe:256' is unknown; use characters, bytes or bpe:4096" in refused(*words[:-1], "bpe:256")
