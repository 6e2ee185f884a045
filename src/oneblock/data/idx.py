"""The idx format of MNIST and its kin, and Fashion-MNIST in it.

A file is the bytes 0, 0, 8 (unsigned bytes), the number of axes, one big-endian 32-bit length per axis, then
the data.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .imageset import ImageSet, Split

FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
FASHION_FOLDER = "fashion-mnist"
DEBIAN_FOLDERS = (Path("/usr/share/dataset-fashion-mnist"), Path("/usr/share/datasets/fashion-mnist"))
PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}


def read_idx(path: Path, num_axes: int) -> Tensor:
    """The array of an idx file, gzipped when the name ends in ``.gz``.

    Args:
        path: the file.
        num_axes: 1 for labels, 3 for images.

    Returns:
        uint8 with ``num_axes`` axes.

    Raises:
        ValueError: wrong magic number, or fewer or more bytes than the header announces.
    """
    content = _read_bytes(path)
    magic = bytes((0, 0, 8, num_axes))
    if content[:4] != magic:
        raise ValueError(
            f"{path} starts with {content[:4].hex()}; {magic.hex()} is allowed for {num_axes} axes of bytes; "
            "fetch the file again or check that images and labels are not swapped"
        )
    header = 4 + 4 * num_axes
    if len(content) < header:
        raise ValueError(
            f"{path} has {len(content)} bytes; {header} or more are allowed; it is truncated: fetch it again"
        )
    shape = struct.unpack(f">{num_axes}I", content[4:header])
    expected = header + int(torch.tensor(shape, dtype=torch.int64).prod())
    if len(content) != expected:
        raise ValueError(
            f"{path} has {len(content)} bytes; {expected} are allowed for shape {shape}; "
            "it is truncated or damaged: fetch it again"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].reshape(shape)


def _read_bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a whole gzip file ({error}); a complete .gz is allowed; fetch it again"
        ) from error


def load_fashion_mnist(split: Split, root: Path | None = None) -> ImageSet:
    """Fashion-MNIST: 60 000 train and 10 000 test images, uint8 (n, 1, 28, 28), ten classes.

    Looked for in ``root`` alone where it is given, else in ``$ONEBLOCK_DATA/fashion-mnist``,
    ``./data/fashion-mnist`` and the folder of the Debian package ``dataset-fashion-mnist``, in this order.

    Raises:
        ValueError: no folder has the files, a file is damaged, or images and labels differ in number.
    """
    folders = fashion_folders(root)
    images_path = _find(folders, f"{PREFIX[split]}-images-idx3-ubyte")
    labels_path = _find([images_path.parent], f"{PREFIX[split]}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels; equal numbers "
            "are allowed; fetch both files again"
        )
    return ImageSet(images.unsqueeze(1), labels.long(), FASHION_CLASSES, "fashion-mnist")


def fashion_folders(root: Path | None) -> list[Path]:
    """The folders where Fashion-MNIST is looked for, in this order."""
    if root is not None:
        return [root, root / FASHION_FOLDER]
    folders = []
    if configured := os.environ.get("ONEBLOCK_DATA"):
        folders.append(Path(configured) / FASHION_FOLDER)
    return [*folders, Path("data") / FASHION_FOLDER, *DEBIAN_FOLDERS]


def _find(folders: list[Path], stem: str) -> Path:
    for folder in folders:
        for path in (folder / f"{stem}.gz", folder / stem):
            if path.is_file():
                return path
    looked = ", ".join(map(str, folders))
    raise ValueError(
        f"{stem} or {stem}.gz is not in any of {looked}; one of these folders must hold it; run `make data`"
    )
