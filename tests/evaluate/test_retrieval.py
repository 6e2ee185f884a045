"""Agreement of images with captions by retrieval: what is ranked, beside what, and by whom."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny import TINY
from torch import Tensor

import oneblock as ob
from oneblock.condition import Condition, Tokens, told
from oneblock.data import EncodedSource, ImageData, MemorySource, Pixels, captions_of
from oneblock.data.scenes import captioned_scenes
from oneblock.evaluate import retrieval
from oneblock.evaluate.images import evaluate_images
from oneblock.evaluate.protocol import RETRIEVAL_PROTOCOL, Protocol, read_protocol
from oneblock.evaluate.retrieval import RETRIEVAL, Judge, encoders_folder, retrieval_judge
from oneblock.experiment.protocols import check_protocols
from oneblock.metrics import caption_features
from oneblock.model import ImageModel
from oneblock.plan import Plan
from oneblock.presets.captions import word_table
from oneblock.presets.data import plan_images
from oneblock.report.scores import image_tables

DATA = ImageData(data="scenes,images=120", image_size=24)
SAMPLES = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    out = tmp_path_factory.mktemp("ranked") / "run"
    ob.train(ob.ImageRecipe(**TINY | {"patch": 8}), data=DATA, out=out)
    return ImageModel.open(out)


@pytest.fixture(scope="module", autouse=True)
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A short training, of which all tests have the same file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEBLOCK_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setattr(caption_features, "MOST_STEPS", 50)
        yield


def drawing(model: ImageModel, monkeypatch: pytest.MonkeyPatch, shift: int = 0) -> None:
    """Generated pictures are the held-out ones with the captions that are told, or those of ``shift`` samples later."""
    test = plan_images(model.plan, "test")
    table, held = word_table(model.plan), test.first()

    def drawn(denoiser: Any, plan: Plan, asked: Condition, *args: Any, **kwargs: Any) -> Tensor:
        known = table.read([held.classes[label] for label in held.labels.tolist()]).ids
        rows = told(asked, Tokens).values.roll(-shift, 0)
        return torch.stack([held.images[int((known == row).all(1).nonzero()[0, 0])] for row in rows])

    monkeypatch.setattr("oneblock.evaluate.images.sample_images", drawn)


def test_the_held_out_pictures_score_what_real_ones_do(model: ImageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(model, monkeypatch)
    row = model.evaluate(num_samples=SAMPLES)
    test = plan_images(model.plan, "test")
    captions = captions_of(test)
    assert captions is not None
    different = {captions[label] for label in test.first(SAMPLES).labels.tolist()}
    assert row["caption_retrieval_captions"] == len(different)
    assert row["caption_retrieval_chance"] == pytest.approx(1 / len(different))
    assert row["caption_retrieval_at_5_chance"] == pytest.approx(5 / len(different))
    for score in (RETRIEVAL, f"{RETRIEVAL}_at_5"):
        assert row[score] == row[f"{score}_real"] > 2 * row[f"{score}_chance"] * (score == RETRIEVAL)
        assert row[f"{score}_low"] <= row[score] <= row[f"{score}_high"]
    assert row[RETRIEVAL] <= row[f"{RETRIEVAL}_at_5"]
    assert row == json.loads(json.dumps(row))


def test_pictures_of_other_captions_do_not_find_their_own(model: ImageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(model, monkeypatch, shift=5)
    row = model.evaluate(num_samples=SAMPLES)
    assert row[RETRIEVAL] < row["caption_retrieval_real"] / 2


def test_the_encoder_is_trained_once_and_again_if_its_file_is_damaged(
    model: ImageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path))
    monkeypatch.setattr(caption_features, "MOST_STEPS", 2)
    train, test = (plan_images(model.plan, split) for split in ("train", "test"))

    def judge(source: EncodedSource) -> Judge:
        return cast(Judge, retrieval_judge(model.plan, source, test, ["a", "b"]))

    first, calls = judge(train), list[int]()
    usual = caption_features.train_caption_features

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return usual(*args, **kwargs)

    monkeypatch.setattr(retrieval, "train_caption_features", counted)
    images = train.first(4).images
    assert judge(train).features(images).equal(first.features(images)) and not calls
    (file,) = encoders_folder().iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        assert judge(train).features(images).equal(first.features(images))
    assert calls == [1]
    monkeypatch.setattr(caption_features, "MOST_STEPS", 1)
    assert judge(train).features.weights_hash != first.features.weights_hash
    held = train.first()
    for changed in (replace(held, images=255 - held.images), replace(held, labels=held.labels.roll(1))):
        other = judge(EncodedSource(MemorySource(changed), Pixels()))
        assert other.features.weights_hash != first.features.weights_hash
    assert len(list(encoders_folder().iterdir())) == 4 == len(calls)


def test_scores_by_another_encoder_or_of_other_captions_are_not_compared(
    model: ImageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing(model, monkeypatch)
    row = model.evaluate(num_samples=SAMPLES) | {"run": "one"}
    protocol = read_protocol(row[RETRIEVAL_PROTOCOL], Protocol)
    assert (protocol.extractor, protocol.num_reference) == ("captions-cnn", SAMPLES)
    assert len(protocol.extractor_hash) == 16
    assert row["protocol"]["extractor"] != "captions-cnn", "the other scores keep theirs"
    check_protocols([row, row | {"run": "two"}])
    for field in ("extractor_hash", "reference_hash"):
        other = row | {"run": "two", RETRIEVAL_PROTOCOL: replace(protocol, **{field: "0" * 16}).as_row()}
        with pytest.raises(ValueError, match=f"{field}=.* in the protocol of one, but '0{{16}}' in that of two"):
            check_protocols([row, other])
        guided = [one | {"guided": {RETRIEVAL_PROTOCOL: one[RETRIEVAL_PROTOCOL]}} for one in (row, other)]
        guided[1][RETRIEVAL_PROTOCOL] = row[RETRIEVAL_PROTOCOL]
        with pytest.raises(ValueError, match=f"{field}="):
            check_protocols(guided)


def test_the_table_shows_it_beside_the_checker(model: ImageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(model, monkeypatch)
    row = model.evaluate(num_samples=SAMPLES)
    lines = dict(image_tables(row, model.plan.partition)[1].rows)
    name = "caption_retrieval / by chance / of real images"
    interval = f"{row[RETRIEVAL]:.4f} ({row['caption_retrieval_low']:.4f} to {row['caption_retrieval_high']:.4f})"
    assert lines[name] == f"{interval} / {row['caption_retrieval_chance']:.4f} / {interval}"
    assert str(lines["caption_retrieval: captions are read by"]).startswith("words and pairs of words")
    assert "caption_agreement of all_of_it / by chance / of real images" in lines
    assert not {"caption_retrieval_low", "retrieval_protocol"} & set(lines)


def test_what_cannot_be_ranked_is_said(model: ImageModel) -> None:
    train, test = (plan_images(model.plan, split) for split in ("train", "test"))
    captions = cast(tuple[str, ...], captions_of(test))
    alone = EncodedSource(MemorySource(train.first().take(torch.zeros(3, dtype=torch.int64))), Pixels())
    classes = EncodedSource(MemorySource(replace(train.first(), captioned=False)), Pixels())
    needs = "caption_retrieval is left out: it needs training images with captions beside the held-out ones; give both"
    single = "caption_retrieval is left out: the {} images have a single caption; 2 or more are ranked"
    for given, asked, said in (
        (train, captions[:1] * 3, single.format("held-out")),
        (alone, captions, single.format("training")),
        *((other, captions, needs) for other in (None, test, classes)),
    ):
        assert retrieval_judge(model.plan, given, test, asked) == said
    row = model.evaluate(_items(test), train=_items(test), num_samples=8, steps=2)
    assert RETRIEVAL not in row and row["note"].endswith(needs)
    assert "caption_agreement" in row, "the checker needs no training images"


def _items(source: EncodedSource) -> list[tuple[Tensor, str]]:
    images, captions = source.first(), cast(tuple[str, ...], captions_of(source))
    return [(image, captions[label]) for image, label in zip(images.images, images.labels.tolist(), strict=True)]


def test_of_few_captions_the_five_nearest_say_nothing(model: ImageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(model, monkeypatch)
    train, whole = plan_images(model.plan, "train"), plan_images(model.plan, "test").first()
    few = whole.take(torch.isin(whole.labels, whole.labels[:5].unique()[:3]).nonzero()[:, 0].repeat(4))
    test = EncodedSource(MemorySource(few), Pixels())
    row = evaluate_images(model.denoiser, model.plan, train, test, num_samples=10)
    assert row["caption_retrieval_chance"] == pytest.approx(1 / 3)
    assert not any(name.startswith("caption_retrieval_at_5") for name in row)
    assert "caption_retrieval_at_5" not in str(image_tables(row, model.plan.partition)[1].rows)


def test_a_distance_needs_enough_images() -> None:
    scenes = captioned_scenes(260, 24, seed=1)
    features = caption_features.CaptionFeatures(caption_features.CaptionNetwork(3))
    known, others = scenes.images[:130], scenes.images[130:]
    found = retrieval._frechet(features, known, known[:127], others)
    assert found["caption_frechet_floor"] is None
    distance = found["caption_frechet"]
    assert distance is not None and distance > 0
    same = retrieval._frechet(features, known, None, known)
    assert same == {"caption_frechet": pytest.approx(0.0, abs=1e-6), "caption_frechet_floor": None}
    assert retrieval._frechet(features, known[:100], others, others)["caption_frechet"] is None
