from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import TINY

import oneblock as ob
from oneblock.data import EncodedSource, Pixels, captions_of
from oneblock.data.hub import HubSource
from oneblock.data.progress import listening
from oneblock.data.sources import load_images, open_source

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")

NUM = 23


def rows(num: int = NUM, grey_at: int | None = None) -> Iterator[dict[str, object]]:
    for number in range(num):
        mode = "L" if number == grey_at else "RGB"
        value = number if mode == "L" else (number, 100, 200)
        yield {"picture": Image.new(mode, (8, 8), value), "kind": number % 3, "note": "text"}


def features(**more: object) -> object:
    label = datasets.ClassLabel(names=["a", "b", "c"])
    return datasets.Features(picture=datasets.Image(), kind=label, note=datasets.Value("string"), **more)


def serve(monkeypatch: pytest.MonkeyPatch, stream: object) -> None:
    def load_dataset(name: str, *, split: str, streaming: bool) -> object:
        assert (name, streaming) == ("someone/set", True)
        return stream

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, datasets.IterableDataset.from_generator(rows, features=features()))


def numbers(source: HubSource, step: int, batch_size: int, seed: int = 5) -> list[int]:
    images, labels = source.batch(step, batch_size, seed)
    found = ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    assert labels.tolist() == [number % 3 for number in found]
    return found


def open_hub() -> HubSource:
    return HubSource("someone/set", size=8, buffer_size=6)


def test_each_epoch_shows_each_row_once(stream: None) -> None:
    source = open_hub()
    found = [number for step in range(10) for number in numbers(source, step, 7)]
    for epoch in range(3):
        assert sorted(found[epoch * NUM : (epoch + 1) * NUM]) == list(range(NUM))
    assert found[:NUM] != found[NUM : 2 * NUM]
    assert found[:NUM] != list(range(NUM))


def test_a_step_depends_on_its_number_alone(stream: None) -> None:
    source = open_hub()
    in_turn = [numbers(source, step, 7) for step in range(10)]
    for step in (9, 2, 3, 0, 6):
        assert numbers(open_hub(), step, 7) == in_turn[step]
        assert numbers(source, step, 7) == in_turn[step]


def test_seed_and_batch_size(stream: None) -> None:
    source = open_hub()
    joined = [number for step in range(7) for number in numbers(source, step, 7)]
    assert numbers(source, 1, 10) == joined[10:20]
    assert numbers(source, 0, 49, seed=6) != joined
    assert numbers(source, 0, 49) == joined


def test_seeds_in_turn_are_read_on_without_skipping(stream: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source, opened = open_hub(), []
    rows_from = source._rows_from
    monkeypatch.setattr(source, "_rows_from", lambda seed, start: opened.append(seed) or rows_from(seed, start))
    turns = [(seed, numbers(source, step, 3, seed)) for step in range(4) for seed in (5, 6)]
    assert opened == [5, 6]
    assert [found for seed, found in turns if seed == 6] == [numbers(open_hub(), step, 3, 6) for step in range(4)]


def test_first_rows_and_fingerprint(stream: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_hub()
    assert source.first(4).images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert len(source.first()) == NUM
    assert source.fingerprint() == open_hub().fingerprint()
    assert source.fingerprint() != HubSource("someone/set", size=4, buffer_size=6).fingerprint()


def test_what_it_says_of_itself(stream: None) -> None:
    source = open_hub()
    assert (source.name, source.shape, source.classes) == ("hf:someone/set", (3, 8, 8), ("a", "b", "c"))
    assert open_source("hf:someone/set", channels=1).shape == (1, 32, 32)
    assert source.batch(0, 2, 0)[0].dtype == torch.float32


def test_load_images_reads_all_rows(stream: None) -> None:
    images = load_images("hf:someone/set,image=picture,label=kind", size=8)
    assert images.images[:, 0, 0, 0].tolist() == list(range(NUM))
    assert images.labels.tolist() == [number % 3 for number in range(NUM)]


def test_ambiguous_columns_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled() -> Iterator[dict[str, object]]:
        yield from ({**row, "other": row["picture"], "coarse": 1} for row in rows())

    more = {"other": datasets.Image(), "coarse": datasets.ClassLabel(names=["x", "y"])}
    serve(monkeypatch, datasets.IterableDataset.from_generator(doubled, features=features(**more)))
    message = r"2 image columns \(picture, other\) among .*exactly one is allowed; pass image_column=NAME"
    with pytest.raises(ValueError, match=message):
        open_hub()
    with pytest.raises(ValueError, match=r"2 label columns \(kind, coarse\)"):
        HubSource("someone/set", image_column="other")
    chosen = HubSource("someone/set", image_column="other", label_column="coarse")
    assert chosen.classes == ("x", "y")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_column": "photo"}, "0 image columns named 'photo'"),
        ({"image_column": "note"}, "column 'note' holds str; decoded images"),
        ({"label_column": "note"}, "label_column='note' of hf:someone/set does not name classes; .*one of kind"),
        ({"buffer_size": 0}, "buffer_size=0 is too small"),
    ],
)
def test_wrong_arguments_are_refused(stream: None, columns: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubSource("someone/set", **columns)


def test_a_late_grey_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"grey_at": 11}
    served = datasets.IterableDataset.from_generator(rows, features=features(), gen_kwargs=arguments)
    serve(monkeypatch, served)
    with pytest.raises(ValueError, match=r"mixes grey and colour images \(mode L after images with 3 channels\)"):
        open_hub().batch(0, NUM, 0)
    assert HubSource("someone/set", size=8, channels=3).batch(0, NUM, 0)[0].shape[1] == 3


def test_rows_without_label_and_empty_streams_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unlabelled() -> Iterator[dict[str, object]]:
        yield from ({**row, "kind": -1} for row in rows())

    serve(monkeypatch, datasets.IterableDataset.from_generator(unlabelled, features=features()))
    with pytest.raises(ValueError, match=r"has the label -1; 0\.\.2 is allowed"):
        open_hub().batch(0, 1, 0)
    empty = datasets.IterableDataset.from_generator(rows, features=features(), gen_kwargs={"num": 0})
    serve(monkeypatch, empty)
    with pytest.raises(ValueError, match="has no rows in split 'train'"):
        open_hub()


def test_values_of_unknown_meaning_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured() -> Iterator[dict[str, object]]:
        yield {"picture": Image.new("F", (8, 8), 0.5), "kind": 0, "note": "text"}

    serve(monkeypatch, datasets.IterableDataset.from_generator(measured, features=features()))
    with pytest.raises(ValueError, match=r"hf:someone/set has an image of floating point without a known range \(save"):
        open_hub().first(1)


def told(num: int = NUM, gap: int | None = None) -> Iterator[dict[str, object]]:
    """Rows with a caption in the column ``note``, for every third image the same; none at ``gap``."""
    for number, row in enumerate(rows(num)):
        yield {**row, "note": None if number == gap else f"  a picture\n of {number % 3} "}


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, datasets.IterableDataset.from_generator(told, features=features()))


def test_labels_count_through_captions(captions: None) -> None:
    source = open_source("hf:someone/set,caption=note", size=8)
    different = ("a picture of 0", "a picture of 1", "a picture of 2")
    assert source.classes == different == captions_of(source)
    assert captions_of(EncodedSource(source, Pixels())) == different
    found = source.first(5)
    assert found.captioned and found.labels.tolist() == [0, 1, 2, 0, 1]
    for step in (0, 2, 1):
        images, labels = source.batch(step, 10, 3)
        assert labels is not None
        assert labels.tolist() == [round(number) % 3 for number in ((images[:, 0, 0, 0] + 1) * 127.5).tolist()], (
            "the caption of each image"
        )
    classes = HubSource("someone/set", size=8)
    assert captions_of(classes) is None and not classes.first(2).captioned
    assert source.fingerprint() != classes.fingerprint()


def test_rows_without_a_caption_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"gap": 0}
    serve(monkeypatch, datasets.IterableDataset.from_generator(told, features=features(), gen_kwargs=arguments))
    heard: list[str] = []
    with listening(note=heard.append):
        source = HubSource("someone/set", size=8, caption_column="note", buffer_size=6)
    assert heard == ["hf:someone/set: 1 of 23 rows of the train split have no caption; left out"]
    assert source.first().images[:, 0, 0, 0].tolist() == list(range(1, NUM))
    values, _ = source.batch(0, 2 * NUM - 2, 5)
    assert sorted(((values[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()) == sorted([*range(1, NUM)] * 2)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"caption_column": "text"},
            r"0 caption columns named 'text' \(none\) among picture, kind, note; .*caption=COLUMN",
        ),
        ({"caption_column": "kind"}, "column 'kind' of hf:someone/set holds int; a text for each image is allowed"),
        ({"caption_column": "note", "label_column": "kind"}, "labels count through captions: leave label out"),
        ({"caption_column": "note", "image_column": "photo"}, "0 image columns named 'photo'"),
    ],
)
def test_wrong_caption_columns_are_refused(captions: None, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubSource("someone/set", **columns)  # type: ignore[arg-type]


def test_streams_without_any_caption_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"num": 1, "gap": 0}
    serve(monkeypatch, datasets.IterableDataset.from_generator(told, features=features(), gen_kwargs=arguments))
    with pytest.raises(
        ValueError, match=r"has no caption in column 'note' of split 'train'; .*another of picture, kind"
    ):
        HubSource("someone/set", caption_column="note")


def test_a_network_is_trained_on_captions_of_a_stream(captions: None, tmp_path: Path) -> None:
    data = ob.ImageData(data="hf:someone/set,caption=note", image_size=8)
    run = ob.train(ob.ImageRecipe(**TINY), data=data, out=tmp_path / "run")
    assert run.plan.recipe["words"] == ["0", "1", "2", "a", "of", "picture"]
    assert run.plan.architecture["tokens"] == 4
    model = ob.Model.open(tmp_path / "run")
    assert model.evaluate(num_samples=0)["loss"] > 0
