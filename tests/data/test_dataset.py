"""Datasets of the user's own as sources."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from oneblock.data import DatasetSource, EncodedSource, ImageSet, MemorySource, Pixels, captions_of, to_float


class Items(Dataset[Any]):
    """Items as they are given."""

    def __init__(self, *items: Any, classes: tuple[str, ...] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def bytes_images(count: int = 10) -> Tensor:
    return torch.randint(256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_it_gives_the_batches_of_the_same_images_in_memory() -> None:
    images, labels = bytes_images(), torch.arange(10) % 3
    memory = MemorySource(ImageSet(images, labels, ("a", "b", "c"), "x"))
    source = DatasetSource(TensorDataset(images, labels))
    for step in (0, 1, 7):
        ours, theirs = source.batch(step, 4, seed=5), memory.batch(step, 4, seed=5)
        assert ours[0].equal(theirs[0]) and ours[1] is not None and ours[1].equal(theirs[1])
    assert source.shape == (3, 4, 4)
    assert source.classes == ("0", "1", "2")
    assert source.first(4).images.equal(images[:4])
    assert source.name == "dataset:TensorDataset"


def test_classes_may_be_named() -> None:
    items = [(torch.zeros(2), 0), (torch.ones(2), 1)]
    assert DatasetSource(Items(*items, classes=("cat", "dog"))).classes == ("cat", "dog")
    assert DatasetSource(Items(*items), classes=("x", "y", "z")).classes == ("x", "y", "z")


def test_targets_of_any_shape_without_labels() -> None:
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    source = DatasetSource(TensorDataset(points))
    assert (source.shape, source.classes, source.labelled) == ((2,), (), False)
    values, labels = source.batch(0, 20, seed=0)
    assert labels is None
    assert sorted(values.tolist()) == sorted(points.tolist())
    with pytest.raises(ValueError, match="images has shape"):
        source.first()


def test_arrays_and_floats_are_taken_as_they_are() -> None:
    numpy = pytest.importorskip("numpy")
    source = DatasetSource(Items((numpy.full((1, 2, 2), 0.25), numpy.int64(1)), (numpy.zeros((1, 2, 2)), 0)))
    values, labels = source.take(torch.tensor([0, 1]))
    assert values.dtype == torch.float32
    assert values[0].unique().tolist() == [0.25]
    assert labels is not None and labels.tolist() == [1, 0]
    assert DatasetSource(Items((bytes_images(1)[0], 0))).take(torch.tensor([0]))[0].equal(to_float(bytes_images(1)))


def test_the_fingerprint_tells_data_sets_apart() -> None:
    images, labels = bytes_images(), torch.arange(10) % 3
    prints = {DatasetSource(TensorDataset(images, labels)).fingerprint() for _ in range(2)}
    assert len(prints) == 1
    prints.add(DatasetSource(TensorDataset(images[:9], labels[:9])).fingerprint())
    prints.add(DatasetSource(TensorDataset(images.flip(0), labels)).fingerprint())
    prints.add(DatasetSource(TensorDataset(images, (labels + 1) % 3)).fingerprint())
    assert len(prints) == 4


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(2), 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataLoader(TensorDataset(torch.zeros(4, 2))), r"data is a DataLoader; give the Dataset inside it"),
        (Stream, "data is a Stream, which has no length or cannot be indexed; give a map-style Dataset"),
        (lambda: iter([1]), "data is a list_iterator, which has no length"),
        (lambda: Items(), "data is a Items without items; give one item or more"),
        (lambda: Items(torch.zeros(2)), r"item 0 of Items is a Tensor; items are \(x, label\), or \(x,\)"),
        (lambda: Items((1, 2, 3)), "item 0 of Items is a tuple; items are"),
        (lambda: Items(("text", 0)), "item 0 holds a str; give tensors or arrays"),
        (lambda: Items((torch.zeros(2), b"cat")), "item 0 has label b'cat'; labels are whole numbers from 0 on"),
        (lambda: Items((torch.zeros(2), -1)), "item 0 has label -1; labels are whole numbers"),
        (
            lambda: Items((torch.zeros(3, 4, 4), 0), (torch.zeros(3, 5, 4), 0)),
            r"item 1 has shape \(3, 5, 4\) and a label, item 0 has \(3, 4, 4\) and one; make all items alike",
        ),
        (lambda: Items((torch.zeros(2), 0), (torch.zeros(2),)), r"item 1 has shape \(2,\) without a label, item 0 has"),
    ],
)
def test_what_is_no_map_style_dataset_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetSource(make())


def test_texts_in_the_place_of_labels_are_captions() -> None:
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    source = DatasetSource(list(zip(images, ["b", "a", "b", "c d"], strict=True)))
    assert source.captioned and source.classes == ("a", "b", "c d")
    assert source.take(torch.arange(4)).labels.tolist() == [1, 0, 1, 2]  # type: ignore[union-attr]
    assert captions_of(EncodedSource(source, Pixels())) == ("a", "b", "c d")
    assert source.first(2).captioned and not DatasetSource(list(zip(images, range(4), strict=True))).captioned
    with pytest.raises(ValueError, match="item 3 has 7 in the place of a caption; give all items a text"):
        DatasetSource(list(zip(images, ["b", "a", "b", 7], strict=True)))
