"""Tiny ImageNet, 64 x 64 colour, 200 classes, from the unpacked folder of the user; nothing is downloaded.

    wnids.txt                    one WordNet id per line: the classes
    words.txt                    id, tab, synonyms separated by commas; more ids than classes
    train/ID/images/*.JPEG       the training images of a class
    val/images/*.JPEG            the validation images
    val/val_annotations.txt      file name, tab, id, tab, a box that is not read here

The labels of the set's own test images were never published, so the validation images are the test split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .cache import Place
from .decode import in_order
from .imageset import ImageSet, Split
from .pixels import DAMAGE, require_pillow, to_pixels
from .progress import inform, tell
from .reading import READING, Reading

FOLDER = "tiny-imagenet-200"
SIDE = 64
NAME = "tiny-imagenet"
MEMORY = 2**20
"""Bytes that decoding an image may need."""
AGAIN = f"unpack {FOLDER}.zip again"


def load_tiny_imagenet(root: Path, split: Split, reading: Reading = READING) -> ImageSet:
    """One split as uint8 (n, 3, 64, 64), grey files repeated as colour, in an order that mixes the classes.

    Args:
        root: the folder of wnids.txt, or the one that holds it under its standard name.
        split: ``train``, the classes in turn; ``test``, the validation images as annotated.
        reading: whether decoded images are kept.

    Returns:
        Labels count the sorted WordNet ids. A class is named by its first synonym, followed by its id where
        another class has the same.

    Raises:
        ValueError: a file is missing, does not fit the others, or is not an image of 64 x 64.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow()
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    ids = sorted({line.strip() for line in _lines(folder / "wnids.txt")})
    classes = _class_names(folder / "words.txt", ids)
    files = _train_files(folder / "train", ids) if split == "train" else _val_files(folder / "val", ids)
    place = _place(folder, split, [path for path, _ in files], classes, reading)
    if (kept := place.find()) is not None:
        inform(kept[1])
        return kept[0]
    images = torch.empty(len(files), 3, SIDE, SIDE, dtype=torch.uint8)
    for done, pixels in enumerate(in_order(_read, [path for path, _ in files], lambda path: MEMORY)):
        images[done] = pixels
        tell(done + 1, len(files), f"images of {NAME}")
    found = ImageSet(images, torch.tensor([label for _, label in files]), classes, NAME)
    place.keep(found, f"{NAME}: {len(files)} images of the {split} split; decoded before ({place.path})")
    return found


def _place(folder: Path, split: Split, paths: Sequence[Path], classes: tuple[str, ...], reading: Reading) -> Place:
    """Where the decoded images are kept; nowhere if one is missing, which is an error for whoever reads it."""
    from PIL import __version__ as pillow

    try:
        files = [(path.name, stat.st_size, stat.st_mtime_ns) for path in paths for stat in (path.stat(),)]
    except OSError:
        return Place(NAME, None, replace(reading, cache=False))
    return Place(f"{NAME}-{split}", (folder.resolve().as_posix(), split, pillow, classes, files), reading)


def _lines(path: Path) -> list[str]:
    """The lines of a file that are not blank, one at least."""
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; tiny-imagenet:DIR needs wnids.txt, words.txt, train/ and val/; "
            f"unpack {FOLDER}.zip there"
        )
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty; one line or more is allowed; {AGAIN}")
    return lines


def _class_names(path: Path, ids: Sequence[str]) -> tuple[str, ...]:
    synonyms = dict(line.partition("\t")[::2] for line in _lines(path))
    if unknown := [wnid for wnid in ids if not synonyms.get(wnid)]:
        raise ValueError(f"{path} has no words for {unknown[0]}; a line for every id of wnids.txt is allowed; {AGAIN}")
    names = [synonyms[wnid].split(",")[0].strip() for wnid in ids]
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} {wnid}" for name, wnid in zip(names, ids, strict=True))


def _train_files(folder: Path, ids: Sequence[str]) -> list[tuple[Path, int]]:
    """Path and label of every training image: the first of each class by name, then the second of each."""
    files = []
    for label, wnid in enumerate(ids):
        paths = sorted((folder / wnid / "images").glob("*.JPEG"))
        if not paths:
            raise ValueError(f"{folder / wnid / 'images'} has no .JPEG files; one or more is allowed; {AGAIN}")
        files += [(turn, label, path) for turn, path in enumerate(paths)]
    return [(path, label) for _, label, path in sorted(files)]


def _val_files(folder: Path, ids: Sequence[str]) -> list[tuple[Path, int]]:
    """Path and label of every validation image."""
    annotations = folder / "val_annotations.txt"
    labels = {wnid: label for label, wnid in enumerate(ids)}
    files = []
    for line in _lines(annotations):
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in labels:
            raise ValueError(f"{annotations} gives {name} the class {wnid!r}; an id of wnids.txt is allowed; {AGAIN}")
        files.append((folder / "images" / name, labels[wnid]))
    return files


def _read(path: Path) -> Tensor:
    """One image, uint8 (3, 64, 64)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            size, pixels = image.size, to_pixels(image, SIDE, 3)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} is not a readable image ({error}); a JPEG of {SIDE} x {SIDE} is allowed; {AGAIN}"
        ) from error
    if size != (SIDE, SIDE):
        raise ValueError(
            f"{path} has {size[0]} x {size[1]} pixels; {SIDE} x {SIDE} is allowed; use folder:DIR for other sizes"
        )
    return pixels
