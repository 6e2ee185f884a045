"""Images streamed through the ``datasets`` library, row after row, without holding them all.

Epoch e is the stream shuffled by a buffer under a seed hashed from (seed, e); step s of batch size n covers
rows s n .. s n + n - 1 of the endless row of epochs. For every seed, the step after the last one is read
where the stream stands; any other step is reached by skipping rows.

With a column of captions labels count through the different ones of the split, sorted: all rows are read once for them,
without their images. Rows without a caption are left out.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from .errors import MissingExtraError
from .imageset import ImageSet, Split, check_channels, check_size
from .memory import Samples
from .order import check_position, epoch_seed
from .pixels import DEFAULT_SIZE, choose_channels, require_pillow, to_pixels
from .progress import note
from .transforms import to_float

if TYPE_CHECKING:
    from PIL.Image import Image

Row = Mapping[str, object]
# numpy, which shuffles the stream, takes seeds of 32 bits everywhere
SEED_BITS = 32


class RowStream(Protocol):
    """What this module needs of a ``datasets.IterableDataset``."""

    features: Mapping[str, object] | None

    def shuffle(self, seed: int, *, buffer_size: int) -> RowStream:
        """The rows in another order."""

    def skip(self, n: int) -> RowStream:
        """The rows after the first ``n``."""

    def select_columns(self, names: list[str]) -> RowStream:
        """The same rows with these columns alone."""

    def filter(self, function: Callable[[object], bool], *, input_columns: str) -> RowStream:
        """The rows for whose value in a column ``function`` holds."""

    def __iter__(self) -> Iterator[Row]:
        """The rows from the beginning."""


@dataclass(frozen=True)
class Columns:
    """Names of the image and the label column, and of the classes; of captions their column, and the captions."""

    image: str
    label: str
    classes: tuple[str, ...]


class HubSource:
    """A ``Source`` over a streamed data set.

    Args:
        name: as ``datasets.load_dataset`` takes it, for example ``owner/name``.
        split: ``train`` or ``test``.
        size: side of the square images; None is ``DEFAULT_SIZE``.
        channels: 1 or 3; None takes what the first image is, and refuses a later one of the other kind.
        image_column: None finds the only column of images.
        label_column: None finds the only column of class labels.
        caption_column: of texts, in the place of class labels.
        buffer_size: rows held for shuffling, once for every seed in use.

    Raises:
        ValueError: columns are missing or ambiguous, or the stream has no rows.
        MissingExtraError: ``datasets`` or Pillow is not installed.
    """

    def __init__(
        self,
        name: str,
        split: Split = "train",
        *,
        size: int | None = None,
        channels: int | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        caption_column: str | None = None,
        buffer_size: int = 2000,
    ) -> None:
        check_size(size)
        check_channels(channels)
        if buffer_size < 1:
            raise ValueError(f"buffer_size={buffer_size} is too small; 1 or more is allowed; use for example 2000")
        self.name = f"hf:{name}"
        self._stream = _open_stream(name, split)
        self._split = split
        first = next(iter(self._stream), None)
        if first is None:
            raise ValueError(f"{self.name} has no rows in split {split!r}; 1 or more are allowed; use another split")
        self._captions: dict[str, int] = {}
        if caption_column is None:
            self._columns = find_columns(self._stream.features, first, self.name, image_column, label_column)
        else:
            self._columns = self._captioned(first, image_column, label_column, caption_column)
            first = next(iter(self._stream))
        self._channels = choose_channels({_image(first, self._columns).mode: 1}, channels, self.name)
        self._strict = channels is None
        self._size = size or DEFAULT_SIZE
        self._buffer_size = buffer_size
        self._num_rows: int | None = None
        self._open: dict[int, tuple[int, Iterator[Row]]] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._channels, self._size, self._size

    @property
    def classes(self) -> tuple[str, ...]:
        return self._columns.classes

    @property
    def captioned(self) -> bool:
        """Whether ``classes`` are captions."""
        return bool(self._captions)

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        check_position(step, batch_size)
        start = step * batch_size
        # taken out while in use: a failure half-way through the batch must not leave a position that looks valid
        position, rows = self._open.pop(seed, (-1, iter(())))
        if position != start:
            rows = self._rows_from(seed, start)
        images, labels = self._convert(itertools.islice(rows, batch_size))
        self._open[seed] = (start + batch_size, rows)
        return Samples(to_float(images), labels)

    def first(self, count: int | None = None) -> ImageSet:
        """The first ``count`` rows of the stream (None: all of it), in memory."""
        images, labels = self._convert(itertools.islice(self._stream, count))
        return ImageSet(images, labels, self.classes, self.name, captioned=self.captioned)

    def samples(self, count: int | None = None) -> Samples:
        found = self.first(count)
        return Samples(to_float(found.images), found.labels)

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of name, split, shape, columns and the first image: what is known
        without reading the whole stream."""
        head = self.first(1)
        digest = hashlib.sha256(repr((self.name, self._split, self.shape, self._columns)).encode())
        digest.update(head.fingerprint().encode())
        return digest.hexdigest()[:16]

    def _convert(self, rows: Iterable[Row]) -> tuple[Tensor, Tensor]:
        pairs = [(self._pixels(row), self._label(row)) for row in rows]
        return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])

    def _pixels(self, row: Row) -> Tensor:
        image = _image(row, self._columns)
        if self._strict and choose_channels({image.mode: 1}, None, self.name) != self._channels:
            raise ValueError(
                f"{self.name} mixes grey and colour images (mode {image.mode} after images with "
                f"{self._channels} channels); one kind is allowed when channels is None; "
                "pass channels=1 or channels=3 (--channels)"
            )
        try:
            return to_pixels(image, self._size, self._channels)
        except ValueError as error:
            raise ValueError(f"{self.name} has an image of {error}; or choose another image column") from error

    def _captioned(self, first: Row, image: str | None, label: str | None, caption: str) -> Columns:
        """Find the captions, and leave out the rows without one."""
        if label is not None:
            raise ValueError(
                f"label_column={label!r} and caption_column={caption!r} of {self.name} are given; labels count through "
                "captions: leave label out"
            )
        image = _choose(image, [column for column in first if _holds_image(first[column])], first, "image", self.name)
        _choose(caption, [], first, "caption", self.name)
        texts = [_caption(row[caption], caption, self.name) for row in self._stream.select_columns([caption])]
        different = tuple(sorted(set(texts) - {""}))
        if not different:
            raise ValueError(
                f"{self.name} has no caption in column {caption!r} of split {self._split!r}; texts are allowed; choose "
                f"another of {_quote(first)}"
            )
        empty = texts.count("")
        if empty:
            note(f"{self.name}: {empty} of {len(texts)} rows of the {self._split} split have no caption; left out")
            self._stream = self._stream.filter(
                lambda value: bool(_caption(value, caption, self.name)), input_columns=caption
            )
        self._captions = {text: place for place, text in enumerate(different)}
        return Columns(image, caption, different)

    def _label(self, row: Row) -> int:
        label = row[self._columns.label]
        if self._captions:
            return self._captions[_caption(label, self._columns.label, self.name)]
        if not isinstance(label, int) or not 0 <= label < len(self.classes):
            raise ValueError(
                f"{self.name} has the label {label!r}; 0..{len(self.classes) - 1} is allowed; use a split with labels"
            )
        return label

    def _rows_from(self, seed: int, start: int) -> Iterator[Row]:
        """The endless rows from ``start`` on; an epoch is counted only when a start lies beyond the first."""
        if self._num_rows is None:
            rows = iter(self._shuffled(seed, 0).skip(start))
            first = next(rows, None)
            if first is not None:
                return itertools.chain([first], rows, self._epochs(seed, 1))
            self._num_rows = sum(1 for _ in self._stream)
        epoch, offset = divmod(start, self._num_rows)
        return itertools.chain(self._shuffled(seed, epoch).skip(offset), self._epochs(seed, epoch + 1))

    def _epochs(self, seed: int, first: int) -> Iterator[Row]:
        for epoch in itertools.count(first):
            yield from self._shuffled(seed, epoch)

    def _shuffled(self, seed: int, epoch: int) -> RowStream:
        return self._stream.shuffle(epoch_seed(seed, epoch, SEED_BITS), buffer_size=self._buffer_size)


def _open_stream(name: str, split: Split) -> RowStream:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "hub") from error
    require_pillow()
    return cast(RowStream, datasets.load_dataset(name, split=split, streaming=True))


def find_columns(
    features: Mapping[str, object] | None, first: Row, name: str, image: str | None, label: str | None
) -> Columns:
    """The image and the label column of a stream.

    Args:
        features: column types as ``datasets`` declares them, None where it does not know.
        first: a row, which tells the images when the types do not.
        name: the data set, for error messages.
        image: the user's choice, None to find it.
        label: the user's choice, None to find it.

    Raises:
        ValueError: not exactly one column fits, a chosen one does not exist, or the label column names no
            classes.
    """
    features = features or {}
    named = {column: _class_names(features.get(column)) for column in first}
    image = _choose(image, [column for column in first if _holds_image(first[column])], first, "image", name)
    label = _choose(label, [column for column in first if named[column]], first, "label", name)
    if not named[label]:
        raise ValueError(
            f"label_column={label!r} of {name} does not name classes; a column of class labels is allowed; choose "
            f"one of {_quote(column for column in first if named[column])}"
        )
    return Columns(image, label, named[label])


def _caption(value: object, column: str, name: str) -> str:
    """A caption with one space between two words; empty where a row has none."""
    if value is not None and not isinstance(value, str):
        raise ValueError(
            f"column {column!r} of {name} holds {type(value).__name__}; a text for each image is allowed; choose "
            "another caption column"
        )
    return " ".join((value or "").split())


def _choose(choice: str | None, fitting: list[str], first: Row, kind: str, name: str) -> str:
    if choice is not None:
        fitting = [choice] if choice in first else []
    if len(fitting) != 1:
        asked = "" if choice is None else f" named {choice!r}"
        texts = ", or of texts caption_column=NAME (hf:NAME,caption=COLUMN)" if kind == "label" else ""
        raise ValueError(
            f"{name} has {len(fitting)} {kind} columns{asked} ({_quote(fitting)}) among {_quote(first)}; "
            f"exactly one is allowed; pass {kind}_column=NAME (hf:NAME,{kind}=COLUMN){texts}"
        )
    return fitting[0]


def _quote(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _class_names(feature: object) -> tuple[str, ...]:
    names = getattr(feature, "names", None) if type(feature).__name__ == "ClassLabel" else None
    return tuple(str(name) for name in names or ())


def _holds_image(value: object) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image)


def _image(row: Row, columns: Columns) -> Image:
    value = row[columns.image]
    if not _holds_image(value):
        raise ValueError(
            f"column {columns.image!r} holds {type(value).__name__}; decoded images are allowed; choose "
            "another image column"
        )
    return cast("Image", value)
