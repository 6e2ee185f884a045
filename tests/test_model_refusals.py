"""Data and settings that do not fit a model: refused in plain words, or left out of the scores with a note."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SENTENCES
from torch.utils.data import Dataset, TensorDataset

import oneblock as ob
from oneblock.data import Bytes, Characters, TokenFile, load_images, write_tokens
from oneblock.evaluate.text import n_grams
from oneblock.metrics import text_quality
from oneblock.model import CausalModel, ClassifyModel, ImageModel, MaskedModel
from oneblock.presets.data import plan_text

pytest.importorskip("sklearn")
SMALL: dict[str, Any] = {
    "depth": 4,
    "width": 16,
    "heads": 2,
    "blocks": 2,
    "batch_size": 16,
    "block_batch_size": 16,
    "budget": 256,
}
TEXT = {**SMALL, "length": 16}
WORDS = "a b c d "
FEW: dict[str, Any] = {"num_samples": 60, "steps": 2}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    out = tmp_path_factory.mktemp("images")
    ob.train(ob.ImageRecipe(**SMALL), data="digits", out=out)
    return ImageModel.open(out)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> ClassifyModel:
    out = tmp_path_factory.mktemp("classify")
    ob.train(ob.ClassifyRecipe(**SMALL), data="digits", out=out)
    return ClassifyModel.open(out)


@pytest.fixture
def masked(tmp_path: Path, text: str) -> MaskedModel:
    ob.train(ob.MaskedRecipe(**TEXT), data=text, out=tmp_path / "masked")
    return MaskedModel.open(tmp_path / "masked")


@pytest.fixture
def causal(tmp_path: Path, text: str) -> CausalModel:
    ob.train(ob.CausalRecipe(**TEXT), data=text, out=tmp_path / "causal")
    return CausalModel.open(tmp_path / "causal")


def digits(split: Any = "test", count: int = 120) -> TensorDataset:
    found = load_images("digits", split).first(count)
    return TensorDataset(found.images, found.labels)


def items(shape: tuple[int, ...], classes: int = 10) -> Dataset[Any]:
    return TensorDataset(torch.zeros(20, *shape, dtype=torch.uint8), torch.arange(20) % classes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (items((1, 16, 16)), r"the data have shape \(1, 16, 16\), but the plan was made for \(1, 8, 8\); use data of"),
        (items((3, 8, 8)), r"the data have shape \(3, 8, 8\), but the plan was made for \(1, 8, 8\)"),
        (items((2, 8, 8)), r"the data have shape \(2, 8, 8\)"),
        (items((64,)), r"the data have shape \(64,\)"),
        (items((1, 8, 8), classes=4), "the data have 4 classes, but the plan has 10; use the same data"),
    ],
)
def test_data_of_another_kind(generator: ImageModel, classifier: ClassifyModel, data: Any, message: str) -> None:
    for model in (generator, classifier):
        with pytest.raises(ValueError, match=message):
            model.evaluate(data)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 16, 16), r"the data have shape \(1, 16, 16\), but the plan was made for \(1, 8, 8\)"),
        (torch.zeros(1, 8, 8), r"the data have shape \(8, 8\)"),
        (torch.tensor(1.0), "images is a single number; give a tensor"),
        (
            torch.zeros(2, 1, 8, 8, dtype=torch.int64),
            "images have dtype torch.int64; use torch.uint8, or floating point",
        ),
        ([[0]], "images is a list; give a tensor"),
    ],
)
def test_images_that_a_classifier_does_not_take(classifier: ClassifyModel, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.classify(images)


def test_a_classifier_takes_every_floating_point(classifier: ClassifyModel) -> None:
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64) * 2 - 1
    found = classifier.classify(images).probabilities
    assert found.equal(classifier.classify(images.float()).probabilities)


def test_the_users_own_images_are_held_out_beside_the_training_images(generator: ImageModel) -> None:
    ours, named = generator.evaluate(digits(), **FEW), generator.evaluate(**FEW)
    assert ours["num_reference"] == named["num_reference"] == len(load_images("digits", "train"))
    assert ours["frechet"] == named["frechet"] and ours["frechet_floor"] > 1.0
    given = generator.evaluate(digits(), train=digits("train", 300), **FEW)
    assert given["num_reference"] == 300 and given["frechet_floor"] > 1.0


def test_without_training_images_there_are_no_floors(tmp_path: Path, generator: ImageModel) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data=digits("train"), out=tmp_path)
    for row in (
        ImageModel.open(tmp_path).evaluate(digits(), extractor="digits-cnn", **FEW),
        generator.evaluate(digits(), train=digits(), **FEW),
    ):
        assert row["frechet_floor"] is None and row["kernel_floor"] is None
        assert row["num_held_out"] == 0 and row["num_reference"] == 120 and row["frechet"] > 0
        assert "no floors: there are no real images beside the reference images" in row["note"]


def test_training_images_of_another_size(generator: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"the training images have shape \(1, 16, 16\), but the held-out images"):
        generator.evaluate(digits(), train=items((1, 16, 16)), **FEW)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"labels": [0], "grid": "foo"}, "grid='foo' is not allowed in Sampling; use one of equal-mass, karras"),
        ({"labels": [0], "sampler": "foo"}, "sampler='foo' is not allowed in Sampling; use one of euler, heun"),
        ({"labels": [0], "guidance": -1.0}, "guidance=-1.0 is not allowed; use a number, 0 or more"),
        ({"labels": [0], "guidance_interval": (5.0, 0.5)}, r"guidance_interval=\(5.0, 0.5\) is not an interval"),
        ({"labels": [0], "steps": 2.5}, "steps=2.5 is not allowed in Sampling; use a whole number"),
        ({"labels": [1, 2], "count": 5}, "count=5 is given beside labels, which say how many; use one of them"),
        ({"labels": [1.7]}, "labels have dtype torch.float32; use whole numbers from 0 to 9"),
        ({"labels": [True]}, "labels have dtype torch.bool; use whole numbers from 0 to 9"),
        ({"labels": ["a"]}, r"classes=\['a'\] do not exist; use 0 to 9; the plan holds no names"),
        ({"labels": 3}, r"labels have shape \(\); give one class for each sample"),
        ({"count": 0}, "count=0 is not allowed; use a whole number, 1 or more"),
        ({"count": 2.5}, "count=2.5 is not allowed; use a whole number, 1 or more"),
    ],
)
def test_wishes_for_images(generator: ImageModel, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator.sample(**wish)


def test_counts_and_choices_of_scores(generator: ImageModel, classifier: ClassifyModel) -> None:
    scores: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
        (generator.evaluate, {"num_samples": -3}, "num_samples=-3 is not allowed; use a whole number, 0 or more"),
        (generator.evaluate, {"num_samples": 2.5}, "num_samples=2.5 is not allowed"),
        (generator.evaluate, {"num_samples": 3}, "num_samples=3 are too few to compare; use 6 or more, or 0 for the"),
        (generator.evaluate, {"report_bands": -1}, "report_bands=-1 is not allowed; use a whole number, 0 or more"),
        (generator.evaluate, {"sampler": "foo"}, "sampler='foo' is not allowed in Sampling"),
        (classifier.evaluate, {"path": "foo"}, "path='foo' is not allowed in Answers; use one of none, mean, euler"),
        (classifier.evaluate, {"draws": 1.5}, "draws=1.5 is not allowed in Answers; use a whole number"),
    ]
    for evaluate, wish, message in scores:
        with pytest.raises(ValueError, match=message):
            evaluate(**wish)
    with pytest.raises(ValueError, match="pool='foo' is not allowed in Answers; use one of auto, last, mean"):
        classifier.classify(torch.zeros(2, 1, 8, 8), pool="foo")  # type: ignore[arg-type]


def test_wishes_for_text(masked: MaskedModel, causal: CausalModel) -> None:
    wishes: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
        (masked.sample, {"order": "foo"}, "order='foo' is not allowed in Writing; use one of ancestral, confidence"),
        (masked.sample, {"reveals": 0}, "reveals=0 is not allowed; use a whole number, 1 or more"),
        (masked.evaluate, {"scorer": "foo"}, "scorer='foo' is not allowed in QualityOptions; use one of n-gram, smoll"),
        (masked.evaluate, {"texts": -1}, "texts=-1 is not allowed; use a whole number, 0 or more"),
        (masked.evaluate, {"times": 0}, "times=0 is not allowed; use a whole number, 1 or more"),
        (masked.evaluate, {"windows": 2.5}, "windows=2.5 is not allowed; use a whole number, 1 or more"),
        (causal.evaluate, {"texts": -1}, "texts=-1 is not allowed; use a whole number, 0 or more"),
        (masked.sample, {"reveals": 10**20}, "reveals=1.* is not allowed; use a whole number, 1 or more up to 1000000"),
        (masked.sample, {"temperature": math.inf}, "temperature=inf, top_p=1.0: use a temperature of 0 or more"),
        (masked.sample, {"sample_seed": 2**63}, "seed=9.* is not allowed; use a whole number from 0 to 9"),
        (masked.evaluate, {"times": 10**20}, "times=1.* is not allowed; use a whole number, 1 or more up to 1000000"),
        (masked.evaluate, {"texts": 2, "top_p": math.nan}, "top_p=nan: use a temperature of 0 or more, and a top_p"),
        (causal.evaluate, {"draws": 10**20}, "draws=1.* is not allowed; use a whole number, 1 or more up to 1000000"),
        (causal.evaluate, {"noise_seed": 2**64}, "noise_seed=1.* is not allowed; use a whole number from 0 to"),
        (causal.evaluate, {"sample_seed": 2**64}, "sample_seed=1.* is not allowed; use a whole number from 0 to"),
        (causal.evaluate, {"temperature": math.nan}, "temperature=nan, top_p=1.0: use a temperature of 0 or more"),
        (causal.sample, {"calls": 10**20}, "calls=1.* is not a number of calls; use 1 or more, up to 1000000"),
        (causal.sample, {"sample_seed": 2**64}, "seed=1.* is not allowed; use a whole number from 0 to"),
        (causal.sample, {"path": "foo"}, "path='foo' is not allowed in Asking"),
        (causal.sample, {"count": 1.5}, "count=1.5 is not allowed in Writing; use a whole number"),
        (causal.stream, {"temperature": "hot"}, "temperature='hot' is not allowed in Writing; use a number"),
    ]
    for ask, wish, message in wishes:
        with pytest.raises(ValueError, match=message):
            ask(**wish)


def test_the_texts_that_are_scored_are_those_of_sample(masked: MaskedModel, causal: CausalModel) -> None:
    for model in (masked, causal):
        row = model.evaluate(windows=8, texts=2, prompt=WORDS, sample_seed=3)["quality"][1]
        texts = model.sample(2, prompt=WORDS, sample_seed=3)
        assert texts[0] != texts[1]
        found = text_quality(texts, n_grams(plan_text(model.plan, "train"))).as_row()
        assert row == {"texts": "written", **found}
    assert causal.sample(2, sample_seed=3)[1] == "".join(causal.stream(sample_seed=3, index=1))
    assert causal.sample(2, sample_seed=3)[1] != causal.sample(1, sample_seed=4)[0]


def token_file(path: Path, vocabulary: Any, words: str = SENTENCES) -> TokenFile:
    write_tokens(path, [vocabulary.encode(words * 20)], vocabulary)
    return TokenFile(path)


def test_tokens_of_another_vocabulary(tmp_path: Path, causal: CausalModel, masked: MaskedModel) -> None:
    for model in (causal, masked):
        with pytest.raises(ValueError, match="holds tokens of another vocabulary; make it with that of the"):
            model.evaluate(token_file(tmp_path / "bytes.tokens", Bytes()))


def test_texts_are_not_scored_by_the_text_that_they_are_compared_with(tmp_path: Path, causal: CausalModel) -> None:
    held_out = token_file(tmp_path / "a.tokens", Characters(), SENTENCES.replace("cat", "mat"))
    few: dict[str, Any] = {"windows": 4, "texts": 2, "prompt": WORDS}
    scorer = n_grams(plan_text(causal.plan, "train"))
    row = causal.evaluate(held_out, **few)["quality"][1]
    assert row["bits_per_character"] == text_quality(causal.sample(2, WORDS), scorer).bits_per_character
    with pytest.raises(ValueError, match="n-grams of the training text, which is also the held-out text; give another"):
        causal.evaluate(held_out, train=held_out, **few)
    ob.train(ob.CausalRecipe(**TEXT), data=token_file(tmp_path / "b.tokens", Characters()), out=tmp_path / "own")
    own = CausalModel.open(tmp_path / "own")
    with pytest.raises(ValueError, match="texts=2 needs the training text, whose n-grams score them; give train too"):
        own.evaluate(held_out, **few)
    assert "quality" in own.evaluate(held_out, train=TokenFile(tmp_path / "b.tokens"), **few)
