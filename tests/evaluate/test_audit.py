"""The audit of models whose memory is known: denoisers in closed form."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import gaussian, with_canary
from tiny import IMAGES, TINY, tiny_plan
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.data import EncodedSource, ImageSet, MemorySource, Pixels, synthetic_images, to_float
from oneblock.evaluate.audit import Audit, audit_images
from oneblock.evaluate.auditing import Audited, Auditing
from oneblock.model import CausalModel, ImageModel
from oneblock.report import audit as shown

COPIES = 5
CANARY = to_float(IMAGES.images)[7]
FAST: dict[str, Any] = {"chains": 40, "cycles": 6, "cycle_steps": 4, "start_steps": 24, "amplitudes": (0.3, 1.0)}
PLAN = tiny_plan()
HELD_OUT = synthetic_images(60, 8, 1, 3, seed=1)


def source(images: ImageSet) -> EncodedSource:
    return EncodedSource(MemorySource(images), Pixels())


def planted() -> Audited:
    """48 images, of which number 7 stands there five times."""
    again = torch.cat([torch.arange(len(IMAGES)), torch.full((COPIES - 1,), 7)])
    return Audited(source(IMAGES.take(again)), source(HELD_OUT))


@pytest.fixture(scope="module")
def memorised() -> Audit:
    denoiser: Any = with_canary(0.5, CANARY, 0.3)
    return audit_images(denoiser, PLAN, planted(), Auditing(**FAST), show=True)


@pytest.fixture(scope="module")
def clean() -> Audit:
    denoiser: Any = gaussian(0.5)
    return audit_images(denoiser, PLAN, planted(), Auditing(**FAST), show=True)


def test_a_planted_image_is_found(memorised: Audit) -> None:
    row = memorised.row
    assert memorised.verdict == "copies"
    assert (row["training_images"], row["different_images"], row["held_out_images"]) == (52, 48, 60)
    (memory,) = row["memories"]
    assert (memory["image"], memory["copies"]) == (7, COPIES)
    for one in row["rows"]:
        assert one["distinct"] == 1 and one["false_copies"][0] == 0.0
        assert one["copies"][1] < 0.3 < one["copies"][2], "the share of the law that the denoiser is exact for"
    small = row["rows"][2]
    assert (small["attractors"], small["copied_attractors"]) == (1, 1)
    assert small["return_time"] == 1.0
    assert memory["samples"] == sum(round(one["copies"][0] * one["samples"]) for one in row["rows"])


def test_rows_are_at_equal_calls(memorised: Audit) -> None:
    rows = memorised.row["rows"]
    assert [one["how"] for one in rows] == ["one-shot", "one-shot", "cycles", "cycles"]
    assert [one["sampler"] for one in rows] == ["dpm++2m", "ancestral", "ancestral", "ancestral"]
    assert {one["calls"] for one in rows} == {40 * (24 + 6 * 4)}
    assert [one["samples"] for one in rows] == [80, 80, 40, 40]
    assert [one.get("q") for one in rows[2:]] == pytest.approx([0.09, 1.0])


def test_chains_stay_at_what_was_memorised_alone(memorised: Audit) -> None:
    small, _ = memorised.row["survival"]
    assert small["found"][-1] == 1.0
    assert small["training"][-1] == small["held_out"][-1] == 0.0
    assert memorised.row["memories"][0]["half_at"] > 0.3


def test_nothing_is_found_without_memory(clean: Audit) -> None:
    row = clean.row
    assert clean.verdict == "nothing found"
    assert row["memories"] == [] and "found" not in row["survival"][0]
    assert all(one["copies"][0] == 0.0 for one in row["rows"])
    assert clean.recovered is not None and len(clean.recovered) == 0
    assert row["membership"]["auc"] < row["membership"]["chance"]


def test_a_model_that_knows_its_images_without_giving_them_back_is_overfitted() -> None:
    """It denoises training images better, and its samples are noise all the same."""
    trained = to_float(IMAGES.images)

    def denoiser(z: torch.Tensor, sigma: torch.Tensor, condition: ob.Condition) -> torch.Tensor:
        near = torch.cdist(z.flatten(1), trained.flatten(1)).amin(1) < 1.2 * sigma * 8
        return torch.where(near.view(-1, 1, 1, 1), 0.1, 0.0) * torch.randn(z.shape, generator=NOISE)

    found = audit_images(denoiser, PLAN, Audited(source(IMAGES), source(HELD_OUT)), Auditing(**FAST))
    assert found.verdict == "overfitted"


NOISE = torch.Generator().manual_seed(0)


def test_images_are_given_only_where_they_are_asked_for(memorised: Audit) -> None:
    assert memorised.recovered is not None
    pair = memorised.recovered
    assert (pair.dtype, pair.shape) == (torch.uint8, (1, 2, 1, 8, 8))
    assert pair[0, 1].equal(IMAGES.images[7])
    assert (pair[0, 0].int() - pair[0, 1].int()).abs().max() < 20
    denoiser: Any = with_canary(0.5, CANARY, 0.3)
    unasked = audit_images(denoiser, PLAN, planted(), Auditing(**FAST))
    assert unasked.recovered is None and unasked.row == memorised.row


def test_held_out_images_that_were_trained_are_left_out() -> None:
    mixed = replace(HELD_OUT, images=torch.cat([HELD_OUT.images[:50], IMAGES.images[:10]]))
    denoiser: Any = gaussian(0.5)
    found = audit_images(denoiser, PLAN, Audited(source(IMAGES), source(mixed)), Auditing(**FAST))
    assert (found.row["held_out_images"], found.row["held_out_copies"]) == (50, 10)
    assert "10 held-out images are training images too, and were left out." in shown.lines(found)
    few = Audited(source(IMAGES), source(IMAGES.first(30)))
    with pytest.raises(ValueError, match="0 held-out images are left that are not training images too; give 20"):
        audit_images(denoiser, PLAN, few, Auditing(**FAST))


def test_the_verdict_in_words(memorised: Audit, clean: Audit) -> None:
    said = shown.lines(memorised)
    assert said[0].startswith("VERDICT: this model has memorised training images.")
    assert "copies of 1 different training images" in said[0]
    assert "one-shot samples of the same sampler" in said[1]
    assert "no more copies" in shown.lines(clean)[0] and "This is no proof" in shown.lines(clean)[0]
    tables = {table.title: table for table in shown.report(memorised).tables}
    first = next(iter(tables.values()))
    assert first.title == "copies of training images, at 1,920 calls of the network each"
    assert [row[0] for row in first.rows][:2] == ["one-shot, dpm++2m", "  kept by who has the images"]
    assert first.rows[1][3] == "100"
    assert tables["images that were found"].rows[0][:2] == ("7", "5")


def test_files(memorised: Audit, clean: Audit, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ["audit.json", "sweep.png", "coverage.png", "survival.png"]
    assert [path.name for path in shown.write(memorised, tmp_path / "a")] == [*names, "recovered.png"]
    assert json.loads((tmp_path / "a" / "audit.json").read_text()) == memorised.row
    assert [path.name for path in shown.write(clean, tmp_path / "b")] == names
    assert [path.name for path in shown.write(replace(memorised, recovered=None), tmp_path / "c")] == names
    assert not (tmp_path / "c" / "recovered.png").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"amplitudes": (90.0,)}, r"amplitude=90 is a noise level that the model was not trained on; use sigma above"),
        ({"chains": 5}, "chains=5 is not allowed; use a whole number, 20 or more"),
        ({"amplitudes": (2.0,), "unit": "gamma"}, r"amplitude=2.0 is not allowed; use a number, above 0 and up to 1"),
        ({"kappa": 1.5}, r"kappa=1.5 is not allowed; use a number, above 0 and up to 1"),
        ({"reverse": "ddim"}, r"reverse='ddim' is not allowed in Auditing; use one of ancestral, churn"),
    ],
)
def test_settings_that_are_refused(asked: dict[str, Any], message: str) -> None:
    denoiser: Any = gaussian(0.5)
    with pytest.raises(ValueError, match=message):
        audit_images(denoiser, PLAN, planted(), Auditing(**{**FAST, **asked}))


def test_amplitudes_are_fitted_to_the_data_unless_they_are_given() -> None:
    assert Auditing().sigmas(8.0) == [0.5, 1.0, 2.0, 4.0]
    assert Auditing(amplitudes=(0.25, 0.04), unit="q").sigmas(8.0) == pytest.approx([0.2, 0.5])


def test_what_the_network_is_told() -> None:
    """Classes in turn, or the class that stands for nothing; a network that always knew a class is refused."""
    told: list[torch.Tensor] = []

    def spy(z: torch.Tensor, sigma: torch.Tensor, condition: Any) -> torch.Tensor:
        told.append(condition.ids)
        return 0.5 * z

    audit_images(spy, PLAN, planted(), Auditing(**FAST))
    assert told[0].tolist() == (torch.arange(80) % 3).tolist()
    told.clear()
    audit_images(spy, PLAN, planted(), Auditing(**FAST, told="nothing"))
    assert {int(i) for ids in told for i in ids} == {3}
    with pytest.raises(ValueError, match="told='nothing', but the network was trained with label_dropout=0"):
        audit_images(spy, tiny_plan(label_dropout=0.0), planted(), Auditing(**FAST, told="nothing"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    out = tmp_path_factory.mktemp("run")
    ob.train(ob.ImageRecipe(**TINY), data=MemorySource(IMAGES), out=out)
    return ImageModel.open(out)


def test_a_trained_model(model: ImageModel) -> None:
    told: list[str] = []
    found = model.audit(MemorySource(IMAGES), held_out=MemorySource(HELD_OUT), said=told.append, **FAST)
    assert found.verdict == "nothing found"
    assert told[0] == "one-shot samples" and len(told) == 5
    again = model.audit(MemorySource(IMAGES), held_out=MemorySource(HELD_OUT), **FAST)
    assert again.row == found.row


def test_data_that_are_refused(model: ImageModel) -> None:
    dataset = TensorDataset(IMAGES.images, IMAGES.labels)
    for data, held_out, message in (
        (MemorySource(HELD_OUT), None, "data is a MemorySource, which has no held-out part; give held_out=... too"),
        (dataset, None, "data is a TensorDataset, which has no held-out part"),
        (MemorySource(HELD_OUT), MemorySource(IMAGES), "have fingerprint .*, but the plan was made for"),
        ("digits", None, "the images of digits have fingerprint"),
        (MemorySource(IMAGES), MemorySource(IMAGES), "the held-out images are the training images"),
        (MemorySource(IMAGES), "digits", "have 10 classes, but the plan has 3"),
    ):
        with pytest.raises(ValueError, match=message):
            model.audit(data, held_out=held_out, **FAST)


def test_models_of_other_tasks_are_refused(tmp_path: Path) -> None:
    ob.train(ob.ClassifyRecipe(**TINY), data=MemorySource(IMAGES), out=tmp_path)
    with pytest.raises(ValueError, match="this is a model of task 'classify'; audit takes generators of images"):
        ob.Model.open(tmp_path).audit()
    assert CausalModel.audit is ob.Model.audit
