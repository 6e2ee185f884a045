"""Images of a user: one folder per class, files of any size and mode; ``tree`` says which files are of which split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .cache import Place
from .decode import Header, UnusableError, decode, read_header
from .imageset import ImageSet, Split
from .pixels import DEFAULT_SIZE, choose_channels, require_pillow
from .progress import inform, note, tell
from .reading import READING, Reading
from .tree import HIDDEN, ImageFile, Tree, find_files, natural

NAMES_SHOWN = 3


LeftOut = list[tuple[ImageFile, UnusableError]]


@dataclass(frozen=True)
class Survey:
    """The files that can be images, with what they say of themselves; the others, with the reason; the classes."""

    usable: list[tuple[ImageFile, Header]]
    left_out: LeftOut
    classes: tuple[str, ...]


def load_folder(
    root: Path, split: Split, size: int | None = None, channels: int | None = None, reading: Reading = READING
) -> ImageSet:
    """One split of a tree of class folders (``tree``).

    The listener hears how many files of how many are used, and why not the others; without one it is a warning where
    files were left out.

    Args:
        root: holds one folder per class, or ``train`` and another split that each do, or images alone.
        split: taken from folders of splits, else ``tree.TEST_PERCENT`` of the files are the test split.
        size: side of the square images; None is ``DEFAULT_SIZE``.
        channels: 1 or 3; None keeps what the files are, provided they are all grey or all colour.
        reading: what is too large, and whether decoded images are kept.

    Returns:
        uint8 (n, c, size, size), files in order of their classes and names, those that cannot be read in ``skipped``.

    Raises:
        ValueError: no folder, no images, one image, grey mixed with colour, an empty split, or held-out classes that
            are not among those of ``train``.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow()
    tree = find_files(root)
    name = f"folder:{root.resolve().name}"
    place = _place(root, tree, name, split, size, channels, reading)
    kept = place.find()
    if kept is None and channels is not None:
        # kept by whoever did not say how many channels, which are perhaps as many
        kept = _place(root, tree, name, split, size, None, reading).find()
    if kept is not None and channels in (None, kept[0].shape[0]):
        inform(f"{kept[1]}; decoded before")
        return kept[0]
    images, account = _decode(tree, name, split, size, channels, reading)
    (note if account.incomplete else inform)(account.text)
    if not account.passing:
        place.keep(images, account.text)
    return images


def _place(
    root: Path, tree: Tree, name: str, split: Split, size: int | None, channels: int | None, reading: Reading
) -> Place:
    """Where the decoded images are kept: a key of all that they follow from."""
    from PIL import __version__ as pillow

    files = [(file.name, file.split, file.size, file.changed) for file in tree.files]
    made = (size or DEFAULT_SIZE, channels, reading.max_pixels, pillow)
    return Place(f"{name}-{split}", (root.resolve().as_posix(), split, *made, files), reading)


def list_files(root: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Names of the folders that may be classes, and the files below ``root`` (``tree``); nothing is opened."""
    files = find_files(root).files
    return _sorted({file.kind for file in files}), files


@dataclass(frozen=True)
class Account:
    """What became of the files: a sentence, whether more than hidden files were left out, and whether some of these may
    be read another time."""

    text: str
    incomplete: bool
    passing: bool


def _decode(
    tree: Tree, name: str, split: Split, size: int | None, channels: int | None, reading: Reading
) -> tuple[ImageSet, Account]:
    """The images, and what became of the files."""
    survey = _survey(tree, name, reading)
    modes = Counter(header.mode for _, header in survey.usable)
    channels, size = choose_channels(modes, channels, name), size or DEFAULT_SIZE
    chosen = [(file, header) for file, header in survey.usable if file.split == split]
    left_out = [(file, why) for file, why in survey.left_out if file.split == split]
    images = torch.empty(len(chosen), channels, size, size, dtype=torch.uint8)
    labels: list[int] = []
    sources = [(file.path, header.memory) for file, header in chosen]
    for (file, _), found in zip(chosen, decode(sources, reading, size, channels, name), strict=True):
        if isinstance(found, UnusableError):
            left_out.append((file, found))
        else:
            images[len(labels)] = found
            labels.append(survey.classes.index(file.kind))
    account = _account(tree, survey, name, split, len(labels), left_out)
    if not labels:
        raise ValueError(
            f"{account.text}; this split has no readable image, 1 or more are allowed; add images, or sort them into "
            "train/ and test/ folders"
        )
    skipped = tuple(sorted(file.name for file, _ in left_out))
    return ImageSet(images[: len(labels)], torch.tensor(labels), survey.classes, name, skipped), account


def _survey(tree: Tree, name: str, reading: Reading) -> Survey:
    """Look at the files of both splits, so that they get the same classes and channels."""
    usable: list[tuple[ImageFile, Header]] = []
    left_out: list[tuple[ImageFile, UnusableError]] = []
    for done, file in enumerate(tree.files, 1):
        try:
            usable.append((file, read_header(file.path, reading)))
        except UnusableError as error:
            left_out.append((file, error))
        tell(done, len(tree.files), f"headers of {name}")
    if len(usable) < 2:
        raise ValueError(_too_few(tree, name, len(usable), left_out))
    return Survey(usable, left_out, _classes(tree, name, [file for file, _ in usable]))


def _too_few(tree: Tree, name: str, usable: int, left_out: LeftOut) -> str:
    if not tree.files:
        inside = f" ({counted(tree.left_out)})" if tree.left_out else ""
        return (
            f"{name} has no images{inside}; one folder per class with 2 or more images in all is allowed; move the "
            "images into folders named after their class"
        )
    others = f" (left out: {counted(_by_kind(left_out))})" if left_out else ""
    return f"{name} has {usable or 'no'} readable image{others}; 2 or more are allowed; add images"


def _classes(tree: Tree, name: str, files: Sequence[ImageFile]) -> tuple[str, ...]:
    """Folders with a usable image; with splits of the user's own, those of the training split."""
    if not tree.own_splits:
        return _sorted({file.kind for file in files})
    train, held_out = ({file.kind for file in files if file.split == split} for split in ("train", "test"))
    if more := _sorted(held_out - train):
        raise ValueError(
            f"{name} has held-out classes without training images ({', '.join(more)}); class folders that are also in "
            "train/ are allowed; add or rename the folders"
        )
    return _sorted(train)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural))


def _account(tree: Tree, survey: Survey, name: str, split: Split, used: int, left_out: LeftOut) -> Account:
    """How many files of how many are used, and why not the others."""
    total = sum(file.split == split for file in tree.files)
    parts = [f"{name}: {used} of {total} files of the {split} split are used", *tree.choices]
    if left_out:
        parts.append(f"left out: {counted(_by_kind(left_out))}")
    missing = _sorted({file.kind for file in tree.files} - set(survey.classes))
    others = dict(tree.left_out) | (
        {"folder without usable images": [f"{kind}/" for kind in missing]} if missing else {}
    )
    if others:
        parts.append(f"not looked at: {counted(others)}")
    if tree.own_splits and (unseen := _sorted(set(survey.classes) - _held_out(survey))):
        parts.append(f"no held-out images of {_some(unseen)}")
    if survey.classes[1:] == () and (inner := _inner(tree)) > 1:
        parts.append(f"one class: the {inner} folders in {survey.classes[0]}/ are parts of it, not classes")
    passing = any(why.passing for _, why in survey.left_out + left_out)
    return Account("; ".join(parts), bool(left_out or others.keys() - {HIDDEN}), passing)


def _held_out(survey: Survey) -> set[str]:
    return {file.kind for file, _ in survey.usable if file.split == "test"}


def _inner(tree: Tree) -> int:
    """How many folders of the second level hold files."""
    return len({file.name.split("/")[1] for file in tree.files if file.name.count("/") > 1})


def _by_kind(left_out: LeftOut) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for file, why in left_out:
        found[why.kind].append(f"{file.name} ({why.detail})" if why.detail else file.name)
    return found


def counted(names: Mapping[str, Sequence[str]]) -> str:
    """How many names there are of each kind, and the first of them."""
    return ", ".join(f"{kind}: {len(some)} ({_some(some)})" for kind, some in names.items())


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
