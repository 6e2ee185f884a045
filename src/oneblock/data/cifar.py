"""CIFAR-10 and CIFAR-100 from the binary batch files in a folder of the user; nothing is downloaded.

A record is one label byte (two in CIFAR-100: coarse, fine), then 3072 bytes: a red, a green and a blue plane
of 32 x 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .imageset import ImageSet, Split

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """File names and record layout of one of the two sets."""

    name: str
    folder: str
    files: dict[Split, tuple[str, ...]]
    names_file: str
    label_bytes: int
    num_classes: int


CIFAR10 = Layout(
    name="cifar10",
    folder="cifar-10-batches-bin",
    files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    names_file="batches.meta.txt",
    label_bytes=1,
    num_classes=10,
)
CIFAR100 = Layout(
    name="cifar100",
    folder="cifar-100-binary",
    files={"train": ("train.bin",), "test": ("test.bin",)},
    names_file="fine_label_names.txt",
    label_bytes=2,
    num_classes=100,
)


def load_cifar(layout: Layout, root: Path, split: Split) -> ImageSet:
    """One split as uint8 (n, 3, 32, 32) with the fine labels.

    Args:
        layout: ``CIFAR10`` or ``CIFAR100``.
        root: the folder of the binary batch files, or the folder that holds it under its standard name.
        split: ``train`` or ``test``.

    Returns:
        Class names come from the text file beside the batches, else they are the numbers from 0.

    Raises:
        ValueError: a batch file is missing or is not a whole number of records, or a label is out of range.
    """
    folder = root / layout.folder if (root / layout.folder).is_dir() else root
    records = torch.cat([_records(folder / file, layout) for file in layout.files[split]])
    labels = records[:, layout.label_bytes - 1].long()
    images = records[:, layout.label_bytes :].reshape(-1, 3, 32, 32).contiguous()
    return ImageSet(images, labels, _class_names(folder, layout), layout.name)


def _records(path: Path, layout: Layout) -> Tensor:
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; {layout.name}:DIR needs {', '.join(layout.files['train'])} and "
            f"{', '.join(layout.files['test'])}; unpack the binary version of the set there"
        )
    content = bytearray(path.read_bytes())
    length = layout.label_bytes + PIXELS
    if not content or len(content) % length:
        raise ValueError(
            f"{path} has {len(content)} bytes; a multiple of {length} is allowed for {layout.name}; it is "
            "truncated or belongs to another set: unpack it again"
        )
    return torch.frombuffer(content, dtype=torch.uint8).reshape(-1, length)


def _class_names(folder: Path, layout: Layout) -> tuple[str, ...]:
    path = folder / layout.names_file
    if not path.is_file():
        return tuple(str(label) for label in range(layout.num_classes))
    names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if len(names) != layout.num_classes:
        raise ValueError(
            f"{path} names {len(names)} classes; {layout.num_classes} are allowed; restore the file or delete it"
        )
    return names
