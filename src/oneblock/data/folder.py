"""Images of a user: one folder per class, files of any size and mode.

Without the subfolders ``train`` and ``test``, a file belongs to the test split when the hash of
``class/file`` says so. The split of a file therefore never changes when others come or go.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .imageset import ImageSet, Split
from .pixels import DAMAGE, DEFAULT_SIZE, choose_channels, require_pillow, to_pixels

TEST_PERCENT = 10
NAMES_IN_WARNING = 5


@dataclass(frozen=True)
class ImageFile:
    """A file, the label of its folder, and the split it belongs to."""

    path: Path
    name: str
    label: int
    split: Split


def load_folder(root: Path, split: Split, size: int | None = None, channels: int | None = None) -> ImageSet:
    """One split of a tree of class folders.

    Args:
        root: holds one folder per class, or ``train`` and ``test`` that each do.
        split: taken from ``train`` and ``test``, else ``TEST_PERCENT`` of the files are the test split.
        size: side of the square images; None is ``DEFAULT_SIZE``.
        channels: 1 or 3; None keeps what the files are, provided they are all grey or all colour.

    Returns:
        uint8 (n, c, size, size), files in order of their names, unreadable ones named in ``skipped``.

    Raises:
        ValueError: no folder, no class folders, no images, one image, only corrupt images, grey mixed with
            colour, an empty split, or class folders that differ between ``train`` and ``test``.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow()
    name = f"folder:{root.name}"
    classes, files = list_files(root)
    modes = _survey(files, name)
    chosen = [file for file in files if file.split == split]
    shape = (choose_channels(modes, channels, name), size or DEFAULT_SIZE)
    images, labels, skipped = _read(chosen, *shape)
    _report(skipped, name)
    if not images:
        raise ValueError(
            f"{name} has no readable image in split {split!r} ({len(chosen)} files); 1 or more are allowed; "
            "add images, or sort them into train/ and test/ folders"
        )
    return ImageSet(torch.stack(images), torch.tensor(labels), classes, name, tuple(skipped))


def list_files(root: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Class names and all files below ``root``, both sorted by name; hidden files are not seen.

    Raises:
        ValueError: ``root`` is not a folder, has no class folders, or its ``train`` and ``test`` disagree on
            the classes.
    """
    if not root.is_dir():
        raise ValueError(f"folder:{root} does not exist; an existing folder is allowed; check the path")
    if not ((root / "train").is_dir() and (root / "test").is_dir()):
        classes = _class_names(root)
        return classes, _list_split(root, classes, None)
    classes, others = _class_names(root / "train"), _class_names(root / "test")
    if classes != others:
        differing = ", ".join(sorted(set(classes) ^ set(others)))
        raise ValueError(
            f"folder:{root} has different classes in train/ and test/ ({differing}); equal class folders are "
            "allowed; add or rename the folders"
        )
    return classes, [
        *_list_split(root / "train", classes, "train"),
        *_list_split(root / "test", classes, "test"),
    ]


def _class_names(root: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ValueError(
            f"folder:{root} has no class folders; one folder per class is allowed; "
            "move the images into folders named after their class"
        )
    return tuple(names)


def _list_split(root: Path, classes: Sequence[str], split: Split | None) -> list[ImageFile]:
    files = []
    for label, folder in enumerate(classes):
        paths = [path for path in (root / folder).iterdir() if path.is_file() and not path.name.startswith(".")]
        for path in sorted(paths, key=lambda path: path.name):
            name = f"{folder}/{path.name}"
            files.append(ImageFile(path, name, label, split or split_of(name)))
    return files


def split_of(name: str, test_percent: int = TEST_PERCENT) -> Split:
    """The split of a name: ``test`` for ``test_percent`` of all names, chosen by their SHA-256."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return "test" if int.from_bytes(digest[:8], "big") % 100 < test_percent else "train"


def _survey(files: Sequence[ImageFile], name: str) -> Counter[str]:
    """Count the modes of both splits, so that train and test get the same number of channels."""
    if not files:
        raise ValueError(
            f"{name} has class folders without files; 2 or more images are allowed; "
            "put the images straight into their class folders"
        )
    modes = Counter(mode for file in files if (mode := _mode(file.path)) is not None)
    if not modes:
        raise ValueError(
            f"{name} has {len(files)} files and none is a readable image; 2 or more are allowed; check the "
            f"first one, {files[0].name}"
        )
    if modes.total() == 1:
        raise ValueError(f"{name} has 1 readable image; 2 or more are allowed; add images")
    return modes


def _mode(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode
    except (*DAMAGE, Image.DecompressionBombError):
        return None


def _read(files: Sequence[ImageFile], channels: int, size: int) -> tuple[list[Tensor], list[int], list[str]]:
    from PIL import Image

    images, labels, skipped = [], [], []
    for file in files:
        try:
            with Image.open(file.path) as image:
                pixels = to_pixels(image, size, channels)
        except (*DAMAGE, Image.DecompressionBombError):
            skipped.append(file.name)
            continue
        images.append(pixels)
        labels.append(file.label)
    return images, labels, skipped


def _report(skipped: Sequence[str], name: str) -> None:
    if not skipped:
        return
    shown = ", ".join(skipped[:NAMES_IN_WARNING])
    more = "" if len(skipped) <= NAMES_IN_WARNING else f" and {len(skipped) - NAMES_IN_WARNING} more"
    warnings.warn(f"{name}: skipped {len(skipped)} unreadable files: {shown}{more}", stacklevel=3)
