"""Numbers that no option of sampling and scoring allows: NaN, infinities, what lies beyond a range."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import SMALL
from tiny import IMAGES

import oneblock as ob
from oneblock.checks import MOST_SEED, check_number
from oneblock.data import MemorySource
from oneblock.evaluate.images import MOST_SAMPLE_SEED, Sampling
from oneblock.evaluate.writing import CausalWriting, MaskedWriting, Writing
from oneblock.model import ClassifyModel, ImageModel
from oneblock.sample.calls import Answers

Refused = Callable[..., str]
NOT_FINITE = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("value", [*NOT_FINITE, -0.1])
def test_settings_of_sampling(value: float) -> None:
    for make, name in (
        (lambda: Sampling(guidance=value), "guidance"),
        (lambda: CausalWriting(temperature=value), "temperature"),
        (lambda: MaskedWriting(temperature=value), "temperature"),
        (lambda: Writing(temperature=value), "temperature"),
        (lambda: Writing(top_p=value), "top_p"),
        (lambda: ob.ImageRecipe(label_dropout=value), "label_dropout"),
        (lambda: ob.ImageRecipe(clip=value).optimizer_settings, "clip"),
    ):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            make()


@pytest.mark.parametrize(
    "interval",
    [(2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (0.0, -math.inf), (math.inf, math.inf)],
)
def test_an_interval_in_which_nothing_is_guided(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="is not an interval; use two noise levels from 0 on, the lower one first"):
        Sampling(guidance_interval=interval)


@pytest.mark.parametrize("seed", [-1, MOST_SEED + 1, 2**70, 1.5, True])
def test_seeds(seed: Any) -> None:
    for make in (lambda: Sampling(sample_seed=seed), lambda: Answers(noise_seed=seed)):
        with pytest.raises(ValueError, match=f"_seed={seed}"):
            make()


def test_the_largest_seed(tmp_path: Path) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data=MemorySource(IMAGES), out=tmp_path)
    assert len(ImageModel.open(tmp_path).sample([0], steps=2, sample_seed=MOST_SAMPLE_SEED)) == 1
    with pytest.raises(ValueError, match=f"sample_seed={MOST_SAMPLE_SEED + 1} is not allowed"):
        Sampling(sample_seed=MOST_SAMPLE_SEED + 1)


@pytest.mark.parametrize("value", [*NOT_FINITE, -0.1, 1.1])
def test_a_probability_that_is_none(tmp_path: Path, refused: Refused, value: float) -> None:
    ob.train(ob.ClassifyRecipe(**SMALL), data=MemorySource(IMAGES), out=tmp_path)
    model = ClassifyModel.open(tmp_path)
    for ask in (
        lambda: model.classify(torch.zeros(1, 1, 8, 8), confident=value),
        lambda: model.evaluate(MemorySource(IMAGES), confident=value),
    ):
        with pytest.raises(ValueError, match=rf"confident={value} is not allowed; use a number, 0 or more and up to 1"):
            ask()
    assert f"confident={value}" in refused(
        "evaluate", tmp_path, "--confident", str(value), "--data", "folder:/no/such/place"
    )
    words = ("--arms", "blockwise", "--out", tmp_path / "cmp", "--data", "digits", "--confident", str(value))
    assert f"confident={value}" in refused("compare", "classify", *words)
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_the_command_line_refuses_them_too(tmp_path: Path, refused: Refused, value: str) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data=MemorySource(IMAGES), out=tmp_path)
    out = ("--out", tmp_path / "x.png")
    shown = str(float(value))
    assert f"guidance={shown} is not allowed; use a number, 0 or more" in refused(
        "sample", tmp_path, *out, "--guidance", value
    )
    assert "is not an interval" in refused("sample", tmp_path, *out, "--guidance-interval", value, "0")
    assert f"guidance={shown}" in refused("evaluate", tmp_path, "--guidance", value)
    assert "--prompt" in refused("sample", tmp_path, *out, "--prompt", "a cat")
    assert not (tmp_path / "x.png").exists()


def test_bounds() -> None:
    check_number("x", 1.0, least=0, most=1)
    for value in (1.5, "1", None, True):
        with pytest.raises(ValueError, match="use a number, 0 or more and up to 1"):
            check_number("x", value, least=0, most=1)  # type: ignore[arg-type]


def test_a_grid_that_cannot_be_is_refused_before_any_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data=MemorySource(IMAGES), out=tmp_path, strategy="plan-only")
    model = ImageModel.open(tmp_path)  # without a trained block: any work would fail otherwise
    for grid, message in (("karras", "steps=1 is too small for a grid"), ("equal-mass", "steps=1 is not a multiple")):
        with pytest.raises(ValueError, match=message):
            model.evaluate(MemorySource(IMAGES), steps=1, grid=grid, num_samples=8, extractor="digits-cnn")
