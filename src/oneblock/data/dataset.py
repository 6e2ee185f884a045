"""A torch Dataset of the user's own as a source of training samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .imageset import ImageSet
from .memory import Samples
from .order import Order
from .transforms import to_float, to_uint8

LOOKED_AT = 16
"""Items whose shapes are compared before any work, spread over the set."""


class MapStyle(Protocol):
    """What is asked of a Dataset: a length, and item i."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DatasetSource:
    """A ``Source`` over a map-style ``torch.utils.data.Dataset`` whose items are ``(x, label)``, ``(x, caption)`` or
    ``(x,)``.

    ``x`` is a tensor or array of any shape, the same for all items; uint8 images become float32 in [-1, 1], floating
    point stays as it is. A caption is a text; labels then count through the different ones, sorted, and every item is
    looked at once to find them. Item i must be the same whenever it is asked for: random changes belong in the recipe.

    Args:
        dataset: indexable, with a length.
        classes: names of the labels 0, 1, ...; None takes the dataset's own ``classes``, and otherwise counts labels by
            looking at every item once.

    Raises:
        ValueError: not indexable, empty, or items that are not alike.
    """

    def __init__(self, dataset: MapStyle, classes: Sequence[str] | None = None) -> None:
        check_indexable(dataset)
        self.dataset = dataset
        self._order = Order(len(dataset))
        self._captions = self._found_captions()
        first, label = self._item(0)
        self.shape: tuple[int, ...] = tuple(first.shape)
        self.labelled = label is not None
        looked_at = torch.linspace(0, len(dataset) - 1, min(LOOKED_AT, len(dataset)), dtype=torch.float64)
        for index in looked_at.long().tolist():
            self._item(index)
        if self.captioned:
            self.classes = tuple(self._captions)
        else:
            self.classes = tuple(classes) if classes is not None else self._found_classes()

    @property
    def captioned(self) -> bool:
        """Whether ``classes`` are captions."""
        return bool(self._captions)

    @property
    def name(self) -> str:
        return f"dataset:{type(self.dataset).__name__}"

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        return self.take(self._order.indices(step, batch_size, seed))

    def take(self, indices: Tensor) -> Samples:
        """The samples (n, ...) at ``indices`` (n,), and their labels int64 (n,) if they have any."""
        items = [self._item(index) for index in indices.tolist()]
        labels = torch.tensor([label for _, label in items]) if self.labelled else None
        return Samples(torch.stack([x for x, _ in items]), labels)

    def first(self, count: int | None = None) -> ImageSet:
        """The first ``count`` items (None: all) as images of bytes; ``ValueError`` where they are not images."""
        values, labels = self.samples(count)
        if labels is None:
            labels = torch.zeros(len(values), dtype=torch.int64)
        classes = self.classes or ("unlabelled",)
        return ImageSet(to_uint8(values), labels, classes, self.name, captioned=self.captioned)

    def samples(self, count: int | None = None) -> Samples:
        """The first ``count`` items (None: all) as training sees them."""
        return self.take(torch.arange(len(self) if count is None else min(count, len(self))))

    def drawn(self, count: int) -> Samples:
        """``count`` items as training sees them, drawn from all as ``data.drawn`` does; all if there are no more."""
        return self.samples() if count >= len(self) else self.batch(0, count, 0)

    def fingerprint(self) -> str:
        """Of the length, the first and the last item; 16 hex digits."""
        digest = hashlib.sha256(repr((len(self), self.shape, self.classes)).encode())
        for index in (0, len(self) - 1):
            x, label = self._item(index)
            digest.update(repr((x.flatten().tolist(), label)).encode())
        return digest.hexdigest()[:16]

    def _item(self, index: int) -> tuple[Tensor, int | None]:
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) not in (1, 2):
            raise ValueError(
                f"item {index} of {type(self.dataset).__name__} is a {type(item).__name__}; items are (x, label), or "
                "(x,) without labels"
            )
        x = self._values(item[0], index)
        label = None if len(item) == 1 else self._label(item[1], index)
        if hasattr(self, "shape") and (tuple(x.shape) != self.shape or (label is not None) != self.labelled):
            raise ValueError(
                f"item {index} has shape {tuple(x.shape)} {'and' if label is not None else 'without'} a label, item 0 "
                f"has {self.shape} {'and' if self.labelled else 'without'} one; make all items alike, e.g. resize"
            )
        return x, label

    def _values(self, x: object, index: int) -> Tensor:
        try:
            values = torch.as_tensor(x)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"item {index} holds a {type(x).__name__}; give tensors or arrays, e.g. images as uint8 (c, h, w)"
            ) from error
        return to_float(values) if values.dtype == torch.uint8 else values.float()

    def _label(self, value: object, index: int) -> int:
        if not self._captions:
            return _label(value, index)
        if not isinstance(value, str) or value not in self._captions:
            raise ValueError(
                f"item {index} has {value!r} in the place of a caption; give all items a text, the same whenever it is "
                "asked for"
            )
        return self._captions[value]

    def _found_captions(self) -> dict[str, int]:
        """The place of each different caption; none where the first item has none."""
        if _caption(self.dataset[0]) is None:
            return {}
        every = {_caption(self.dataset[index]) for index in range(len(self.dataset))}
        return {text: place for place, text in enumerate(sorted(text for text in every if text is not None))}

    def _found_classes(self) -> tuple[str, ...]:
        if not self.labelled:
            return ()
        named = getattr(self.dataset, "classes", None)
        if named is not None:
            return tuple(map(str, named))
        labels = [self._item(index)[1] for index in range(len(self))]
        return tuple(map(str, range(1 + max(label for label in labels if label is not None))))


def _caption(item: object) -> str | None:
    """The caption of an item, if it has one."""
    found = item[1] if isinstance(item, tuple | list) and len(item) == 2 else None
    return found if isinstance(found, str) else None


def check_indexable(dataset: object) -> None:
    """Refuse what cannot be indexed: a resumed run must find its samples again."""
    kind = type(dataset).__name__
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise ValueError(f"data is a {kind}; give the Dataset inside it (loader.dataset): batches are made here")
    iterable = isinstance(dataset, torch.utils.data.IterableDataset)
    if iterable or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(
            f"data is a {kind}, which has no length or cannot be indexed; give a map-style Dataset of (x, label) or "
            "(x,): a resumed run must find its samples again"
        )
    if len(dataset) < 1:
        raise ValueError(f"data is a {kind} without items; give one item or more")


def _label(value: object, index: int) -> int:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not hasattr(number, "__index__") or int(number) < 0:
        raise ValueError(f"item {index} has label {value!r}; labels are whole numbers from 0 on")
    return int(number)
