import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import tyro
from commands import TINY

from oneblock.cli.__main__ import main
from oneblock.cli.plan import PlanImages, PlanRecurrentText
from oneblock.cli.train import TrainRecurrentText
from oneblock.cli.words import CONFIG
from oneblock.launch.words import changed_words
from oneblock.memory import PeakBytes
from oneblock.presets import ImageRecipe, recurrent_recipe
from oneblock.presets.fit import Cost, Fit, Strategy
from oneblock.presets.rivals import RivalName

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
    recipe = ImageRecipe(size="nano", width=16, heads=2, layers=(1, 3), depth=4, branch=0.5)
    own = ["--size", "nano", "--depth", "4", "--width", "16", "--heads", "2"]

    def words(strategy: Strategy, number: int, checkpointing: bool, **changes: Any) -> list[str]:
        cost = Cost(strategy, number, checkpointing, 1, PeakBytes(0, {}), 0, 0)
        return PlanImages(model=recipe).words(Fit(cost, replace(recipe, **changes)))

    assert words("own block", 2, False) == [*own, "--layers", "1", "3", "--branch", "0.5"]
    whole = words("end-to-end", 1, True, layers=(), branch=0.0)
    assert whole == [*own, "--strategy", "end-to-end", "--checkpointing"]
    even = [*own, "--branch", "0.5", "--accumulate", "2", "--blocks", "4", "--checkpointing"]
    assert words("own block", 4, True, layers=(), blocks=4, accumulate=2) == even


def test_the_answer_for_recurrent_depth_starts_from_its_own_usual_settings() -> None:
    """No prelude is a setting there, and four layers are none; end-to-end would be another network."""
    verb = PlanRecurrentText(model=replace(recurrent_recipe(), prelude=0, size="nano"))
    words = verb.words(Fit(Cost("own block", 1, False, 1, PeakBytes(0, {}), 0, 0), verb.model))
    assert words == ["--size", "nano", "--prelude", "0", "--blocks", "1"]
    assert tyro.cli(TrainRecurrentText, args=[*words, "--out", "run"], config=CONFIG).model == verb.model


def test_the_command(tmp_path: Path, ok: Callable[..., list[dict[str, Any]]]) -> None:
    words = ("plan", "images", *TINY, "--layers", "1", "3", "--image-size", "8", "--channels", "1")
    (found,) = ok(*words, "--json", "--fit", "1GiB", "--chart", tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert found["fit"] == {"limit": 2**30, "options": [*TINY[:-2], "--strategy", "end-to-end"]}
    assert {row["blocks"] for row in found["costs"]} == {1, 2}
    assert found["left_out"] == []


def test_rivals_are_rows_to_look_at(
    capsys: pytest.CaptureFixture[str], ok: Callable[..., list[dict[str, Any]]], refused: Callable[..., str]
) -> None:
    words = ("plan", "images", *TINY, "--image-size", "8", "--channels", "1", "--precision", "bf16")
    (found,) = ok(*words, "--json")
    assert found["precision"] == "bf16"
    names = [f"{name}{more}" for more in ("", ", checkpointing") for name in get_args(RivalName)]
    assert [row["name"] for row in found["rivals"]] == names
    assert {row["host"] + row["bus"] for row in found["costs"]} == {0}
    least = min(row["peak"]["total"] for row in found["rivals"])
    assert least < min(row["peak"]["total"] for row in found["costs"] if row["blocks"] == 1)
    (offload,) = (row for row in found["rivals"] if row["name"] == "FSDP2 offload, checkpointing")
    assert found["costs"][0]["samples_per_step"] == offload["samples_per_step"]
    assert main([*words, "--fit", str(least)]) == 0
    said = capsys.readouterr().out
    (row,) = (line.split("│") for line in said.splitlines() if "FSDP2 offload" in line and " yes " in line)
    assert [cell.strip() for cell in row[12:14]] == [f"{offload[key] / 2**20:.2f}" for key in ("host", "bus")]
    assert f"fits {least}, with " in said and "--blocks " in said
    assert said.index("end-to-end") < said.index("FSDP2 offload") < said.index("own block")


SMALL = ("--size", "nano", "--width", "16", "--heads", "2")


def test_what_cannot_be_trained_is_said_beside_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    words = (*SMALL, "--depth", "2", "--batch-size", "4", "--accumulate", "3", "--image-size", "8", "--channels", "1")
    assert main(["plan", "images", *words, "--fit", "1MB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 2 blocks: block-0: a batch of 2 cannot be cut for 1 processes x accumulate=3" in said
    assert "fits 1MB, with " in said
    assert said.endswith("--strategy end-to-end")


@pytest.mark.parametrize(
    ("verb", "asked"),
    [
        ("images", ("--depth", "1", "--batch-size", "2", "--image-size", "8", "--channels", "1", "--shared", "joint")),
        ("recurrent-text", ("--depth", "1", "--length", "4", "--batch-size", "2", "--streams", "two")),
    ],
)
def test_the_least_that_a_refusal_names_fits(
    verb: str, asked: tuple[str, ...], refused: Callable[..., str], ok: Callable[..., list[dict[str, Any]]]
) -> None:
    said = refused("plan", verb, *SMALL, *asked, "--fit", "1")
    found = re.search(r"the least, (\d+) bytes, needs (.*): use a smaller network", said)
    assert found is not None, said
    (answer,) = ok("plan", verb, *SMALL, *asked, "--json", "--fit", found[1])
    assert answer["fit"]["limit"] == int(found[1])
    assert ("end-to-end" in answer["fit"]["options"]) == (verb == "images")


def test_nothing_fits(refused: Callable[..., str]) -> None:
    said = refused("plan", "images", *TINY, "--batch-size", "2", "--image-size", "8", "--channels", "1", "--fit", "1kB")
    assert "nothing here fits into --fit 1kB, not even one sample at a time; the least, " in said
    assert "--blocks 4 --checkpointing: use a smaller network or a larger device" in said
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
