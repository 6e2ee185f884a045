"""What generated images are compared with: any images, with and without labels, packages and many samples."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluate.test_images import by_class
from folders import SMALL, WORDS, class_folders
from tiny import IMAGES, tiny_plan
from torch import Tensor
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.data import DatasetSource, EncodedSource, ImageSet, MemorySource, Pixels, drawn, shuffled_if_sorted
from oneblock.evaluate import reference as real
from oneblock.evaluate.images import evaluate_images
from oneblock.evaluate.reference import check_features, held_out_targets, reference, told_classes
from oneblock.metrics import features
from oneblock.metrics.features import extractor_for
from oneblock.model import ImageModel
from oneblock.presets import ImageFacts
from oneblock.presets.splits import fitted

Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
GENERAL = "efficientnet-lite0"


def by_label(count: int, classes: int = 10, name: str = "sorted") -> ImageSet:
    """Images stored class after class, as folders are; each pixel says the class."""
    labels = torch.arange(count) * classes // count
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return ImageSet(images, labels, tuple(f"class {c}" for c in range(classes)), name)


def source(images: ImageSet) -> EncodedSource:
    return EncodedSource(MemorySource(images), Pixels())


class Batched:
    """A source of the user's own, which has nothing but batches and what is first."""

    name, shape, classes = "batched", (1, 8, 8), tuple(f"class {c}" for c in range(10))

    def __init__(self, images: ImageSet) -> None:
        self.source = MemorySource(images)
        self.batch, self.first, self.samples = self.source.batch, self.source.first, self.source.samples
        self.fingerprint = self.source.fingerprint


def test_more_images_than_are_compared_are_drawn_from_all_classes() -> None:
    images = by_label(1000)
    dataset = TensorDataset(images.images, images.labels)
    dataset.classes = list(images.classes)  # type: ignore[attr-defined]
    found = [drawn(one, 200) for one in (MemorySource(images), DatasetSource(dataset), Batched(images))]
    counts = found[0].labels.bincount(minlength=10)
    assert len(found[0]) == 200 and counts.min() >= 10
    assert found[0].images[:, 0, 0, 0].equal(found[0].labels.to(torch.uint8)), "labels stay with their images"
    for other in found[1:]:
        assert other.images.equal(found[0].images) and other.labels.equal(found[0].labels), "the same for every source"
    assert drawn(MemorySource(images), 1000) is not None
    assert drawn(MemorySource(images), 1000).images.equal(images.images), "small sets stay in their order"
    assert len(images.labels.unique()) == 10


def test_losses_references_and_floors_see_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "MOST_IMAGES", 100)
    train, test = by_label(400), by_label(300, name="test")
    known, held_out = reference(source(train), source(test), 50)
    assert held_out is not None and (len(known), len(held_out)) == (100, 50)
    for found in (known, held_out):
        assert len(found[:, 0, 0, 0].unique()) == 10
    targets, labels = held_out_targets(source(test))
    assert labels is not None and len(targets) == 100 and len(labels.unique()) == 10
    unlabelled = DatasetSource(TensorDataset(test.images))
    targets, labels = held_out_targets(EncodedSource(unlabelled, Pixels()))
    assert labels is None and len(targets.flatten(1)[:, 0].unique()) == 10
    monkeypatch.setattr(real, "MOST_IMAGES", 10_000)
    _, held_out = reference(source(train), source(test), 50)
    assert held_out is not None and len(held_out[:, 0, 0, 0].unique()) == 10, "a floor from a folder's first classes"


def test_sets_in_any_order_keep_it() -> None:
    mixed = replace(by_label(40), labels=torch.arange(40) % 10)
    assert shuffled_if_sorted(mixed, 20).images.equal(mixed.images[:20])
    whole = by_label(40)
    assert shuffled_if_sorted(whole, 40).images.equal(whole.images)


def test_a_single_held_out_image_gives_no_floor() -> None:
    one = source(IMAGES.take(torch.tensor([5])))
    scores = evaluate_images(by_class, tiny_plan(), source(IMAGES), one, num_samples=8, extractor="digits-cnn")
    assert scores["frechet_floor"] is None and "no floors" in scores["note"] and scores["num_reference"] == 48
    with pytest.raises(ValueError, match="the data have 5 training images, but comparing generated ones takes 6"):
        few = source(IMAGES.take(torch.arange(5)))
        evaluate_images(by_class, tiny_plan(), few, source(IMAGES), num_samples=8, extractor="digits-cnn")


def test_too_few_samples_are_refused_before_data_are_opened(tmp_path: Path) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data=MemorySource(IMAGES), out=tmp_path)
    for wish, message in (
        ({"num_samples": 2}, "num_samples=2 are too few to compare; use 6 or more, or 0 for the losses alone"),
        ({"extractor": "cats"}, "extractor name='cats' is unknown"),
        ({"num_samples": -1}, "num_samples=-1 is not allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageModel.open(tmp_path).evaluate("folder:/no/such/place", **wish)  # type: ignore[arg-type]


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages of the general features are not installed."""
    monkeypatch.setattr(features, "is_installed", lambda name: False)


def test_without_packages_the_losses_are_there_and_the_note(absent: None, tmp_path: Path, ok: Ok) -> None:
    data = class_folders(tmp_path / "data", ["cat", "dog"])
    chosen = ("--data", f"folder:{data}", "--image-size", "8")
    ok("train", "images", *chosen, "--out", tmp_path / "run", *WORDS)
    (row,) = ok("evaluate", tmp_path / "run", "--json")
    assert row.keys() == {"band_losses", "loss", "loss_protocol", "note"}
    assert row["note"].startswith(
        f"generated images are not compared: extractor {GENERAL} needs two packages; run: pip"
    )
    pytest.importorskip("matplotlib")
    with pytest.warns(UserWarning, match="scores are losses alone, generated images are not compared"):
        words = ("--out", tmp_path / "cmp", *WORDS, "--seeds", "1", "--arms", "blockwise", "--json")
        (found,) = ok("compare", "images", *chosen, *words)
    assert "frechet" not in found["runs"][0] and found["runs"][0]["loss"] > 0


def test_packages_that_were_asked_for_are_looked_for_first(absent: None, tmp_path: Path, refused: Refused) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data=MemorySource(IMAGES), out=tmp_path / "run")
    nowhere = ("--data", "folder:/no/such/place")
    needs = f"extractor {GENERAL} needs two packages"
    assert needs in refused("evaluate", tmp_path / "run", "--extractor", GENERAL, *nowhere)
    words = ("--extractor", GENERAL, "--out", tmp_path / "cmp", *WORDS)
    assert needs in refused("compare", "images", *nowhere, *words)
    assert not (tmp_path / "cmp").exists()


def test_the_published_score_needs_its_package_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data=MemorySource(IMAGES), out=tmp_path)
    (tmp_path / "weights.pth").touch()
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match="the published FID needs torch-fidelity"):
        ImageModel.open(tmp_path).evaluate("folder:/no/such/place", fid_weights=tmp_path / "weights.pth")


class Sums:
    """Features of any images, which know no classes."""

    name, dim = GENERAL, 3

    def __call__(self, images: Tensor) -> Tensor:
        rows = images.float().flatten(1)
        return torch.stack([rows.mean(1), rows.std(1), rows[:, 0]], 1)


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the general features where they are installed."""
    monkeypatch.setattr(features, "is_installed", lambda name: True)
    monkeypatch.setattr(features, "EfficientNetFeatures", Sums)


def test_a_folder_is_evaluated_and_compared(general: None, tmp_path: Path, ok: Ok) -> None:
    pytest.importorskip("matplotlib")
    data = class_folders(tmp_path / "data", ["cat", "dog", "frog"])
    chosen = ("--data", f"folder:{data}", "--image-size", "8")
    ok("train", "images", *chosen, "--out", tmp_path / "run", *WORDS)
    (row,) = ok("evaluate", tmp_path / "run", "--num-samples", "12", "--steps", "2", "--json")
    assert (row["extractor"], row["class_agreement"], row["num_reference"]) == (GENERAL, None, 36)
    assert "class_agreement_by_class" not in row and row["frechet_floor"] > 0
    words = ("--num-samples", "12", "--steps", "2", "--seeds", "1", "--arms", "shallow", "blockwise", "--json")
    (found,) = ok("compare", "images", *chosen, "--out", tmp_path / "cmp", *WORDS, *words)
    assert [run["frechet_floor"] for run in found["runs"]] == [row["frechet_floor"]] * 2, "the same real images"


def test_agreement_needs_a_classifier_of_these_classes() -> None:
    images, labels = IMAGES.images[:4], torch.arange(4) % 3
    digits = extractor_for("digits-cnn")
    assert told_classes(tiny_plan(), digits, images, labels) is None, "three classes are not ten digits"
    ten = tiny_plan(facts=ImageFacts(shape=(1, 8, 8), num_classes=10))
    assert told_classes(ten, digits, images, labels) is labels
    assert told_classes(ten, Sums(), images, labels) is None
    scores = evaluate_images(
        by_class, tiny_plan(), source(IMAGES), source(IMAGES), num_samples=9, extractor="digits-cnn"
    )
    assert scores["class_agreement"] is None


def test_agreement_by_name() -> None:
    names = tuple("abcdefghij")
    plan = tiny_plan(facts=ImageFacts(shape=(1, 8, 8), num_classes=10, classes=names))
    images = source(replace(IMAGES, classes=names))
    scores = evaluate_images(by_class, plan, images, images, num_samples=20, extractor="digits-cnn")
    assert list(scores["class_agreement_by_class"]) == list(names)
    assert sum(scores["class_agreement_by_class"].values()) / 10 == pytest.approx(scores["class_agreement"])


def test_held_out_classes_are_found_by_name() -> None:
    plan = tiny_plan(facts=ImageFacts(shape=(1, 8, 8), num_classes=3, classes=("cat", "dog", "frog")))
    two = ImageSet(IMAGES.images[:4], torch.tensor([0, 1, 1, 0]), ("frog", "cat"), "held out")
    assert fitted(plan, source(two)).first().labels.tolist() == [2, 0, 0, 2]
    with pytest.raises(ValueError, match="other classes than the plan: 1 is 'cow', not 'dog'; name them, or sort them"):
        fitted(plan, source(replace(IMAGES, classes=("cat", "cow", "frog"))))
    with pytest.raises(ValueError, match="the data have 2 classes, but the plan has 3"):
        fitted(plan, source(replace(two, classes=("cow", "cat"))))
    unnamed = source(replace(IMAGES, classes=("0", "1", "2")))
    assert fitted(plan, unnamed) is unnamed, "of another source, which has no names"


def test_a_model_without_classes_is_scored_on_any_classes(tmp_path: Path) -> None:
    ob.train(ob.ImageRecipe(**SMALL, conditional=False), data=MemorySource(IMAGES), out=tmp_path)
    model = ImageModel.open(tmp_path)
    other = MemorySource(replace(by_label(30), labels=torch.arange(30) % 7))
    assert model.evaluate(other, num_samples=0)["loss"] > 0
    told = ob.ImageRecipe(**SMALL)
    ob.train(told, data=MemorySource(IMAGES), out=tmp_path / "told")
    with pytest.raises(ValueError, match="the data have 10 classes, but the plan has 3"):
        ImageModel.open(tmp_path / "told").evaluate(other, num_samples=0)


def test_nothing_is_printed_where_features_are_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    check_features(tiny_plan(), GENERAL)
    extractor_for(GENERAL)
    assert capsys.readouterr().out == ""
