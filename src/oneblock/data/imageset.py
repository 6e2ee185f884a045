"""Labelled images held in memory, and the two changes of shape every reader shares."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .transforms import bytes_in_place

Split = Literal["train", "test"]

# ITU-R 601 luma, the weights Pillow uses for its mode L
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, labels and class names, all in memory.

    Attributes:
        images: uint8 (n, c, h, w), c is 1 or 3, n at least 1.
        labels: int64 (n,), in [0, num_classes).
        classes: one name per label, no name twice.
        name: where the images come from, for example ``digits``.
        skipped: files left out because they could not be read, by name.
        captioned: whether ``classes`` are captions, the different ones, and labels count through them.

    Raises:
        ValueError: a field breaks one of the rules above.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    skipped: tuple[str, ...] = ()
    captioned: bool = False

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, len(self.images), len(self.classes))
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes={self.classes} holds a name twice; give each class its own name")

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def num_classes(self) -> int:
        """Number of class names, also of those no image has."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def first(self, count: int) -> ImageSet:
        """The first ``count`` images, or all if there are fewer."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def take(self, indices: Tensor) -> ImageSet:
        """The images at ``indices``, int64 (n,)."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device) -> ImageSet:
        """The same on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of shape, class names, labels and pixels, in this order."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        for tensor in (self.labels, self.images):
            plain = tensor.cpu().contiguous()
            digest.update(bytes_in_place(plain))
        return digest.hexdigest()[:16]


def _check_images(images: Tensor) -> None:
    shape = tuple(images.shape)
    if images.dtype != torch.uint8:
        raise ValueError(f"images has dtype {images.dtype}; only torch.uint8 is allowed; use to_uint8 first")
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise ValueError(
            f"images has shape {shape}; (n, 1 or 3, h, w) with at least one image is allowed; reshape the images"
        )


def _check_labels(labels: Tensor, num_images: int, num_classes: int) -> None:
    if labels.dtype != torch.int64 or tuple(labels.shape) != (num_images,):
        raise ValueError(
            f"labels has dtype {labels.dtype} and shape {tuple(labels.shape)}; torch.int64 of shape "
            f"({num_images},) is allowed; give one label per image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels lie in {low}..{high}; 0..{num_classes - 1} is allowed for {num_classes} classes; number "
            "the labels from 0 and name every class"
        )


def check_channels(channels: int | None) -> None:
    """Refuse a channel count other than None, 1 or 3 with a ValueError."""
    if channels not in (None, 1, 3):
        raise ValueError(
            f"channels={channels} is not possible; None, 1 or 3 is allowed; use 1 for grey and 3 for colour"
        )


def check_split(split: str) -> None:
    """Refuse a split other than ``train`` and ``test`` with a ValueError."""
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is unknown; 'train' or 'test' is allowed; choose one of them")


def check_size(size: int | None) -> None:
    """Refuse a side length below 1 with a ValueError."""
    if size is not None and size < 1:
        raise ValueError(f"size={size} is not possible; 1 or more pixels are allowed; use for example 32")


def with_channels(images: Tensor, channels: int | None) -> Tensor:
    """Repeat grey as colour, or reduce colour to its luma; None leaves the images as they are.

    Args:
        images: uint8 (n, c, h, w), c is 1 or 3.
        channels: None, 1 or 3.

    Returns:
        uint8 (n, channels, h, w).
    """
    check_channels(channels)
    if channels is None or images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    red, green, blue = (weight * images[:, c].float() for c, weight in enumerate(LUMA))
    return (red + green + blue).round().to(torch.uint8).unsqueeze(1)


def pad_to(images: Tensor, size: int | None, name: str) -> Tensor:
    """Centre square images on a black square of ``size`` pixels; None leaves them as they are.

    Args:
        images: uint8 (n, c, h, w), h = w.
        size: None, or at least h. An odd margin puts the extra pixel at the right and bottom.
        name: the data set, for the error message.

    Returns:
        uint8 (n, c, size, size).

    Raises:
        ValueError: ``size`` is smaller than the images, which would lose part of them.
    """
    side = images.shape[-1]
    if size is None or size == side:
        return images
    if size < side:
        raise ValueError(
            f"size={size} is smaller than the {side} pixels of {name}; {side} or more is allowed; leave size "
            f"out or use {side}"
        )
    before = (size - side) // 2
    after = size - side - before
    return F.pad(images, (before, after, before, after))
