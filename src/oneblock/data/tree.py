"""Which files below a folder are images of which class and split; nothing is opened here.

    DIR/CLASS/.../FILE                 classes are the folders of the first level, whatever lies between them and a file
    DIR/train/CLASS/..., DIR/test/...  the split of the user; ``val``, ``valid`` or ``validation`` for ``test``
    DIR/FILE                           without folders: a single class, ``unlabelled``

Without folders of splits, a file belongs to the test split when the hash of ``CLASS/.../FILE`` says so. The split of a
file therefore never changes when others come or go.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .imageset import Split

TEST_PERCENT = 10
UNLABELLED = "unlabelled"
HELD_OUT = ("test", "val", "valid", "validation")
"""Names of the folder beside ``train`` that is held out, the first that exists."""
HIDDEN = "hidden or of a system"
AGAIN = "link to a folder that was read already"
METADATA = "metadata.jsonl"
"""A table of captions, which ``captions.load_captions`` reads; beside class folders it is passed over."""
JUNK = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that archives, systems and servers leave behind; so do hidden ones."""


@dataclass(frozen=True)
class ImageFile:
    """A file that may be an image.

    Attributes:
        path: where it lies.
        name: ``CLASS/.../FILE``, without the folder of a split.
        kind: its class.
        split: the split it belongs to.
        size: bytes.
        changed: when it was changed, in nanoseconds.
    """

    path: Path
    name: str
    kind: str
    split: Split
    size: int
    changed: int


@dataclass(frozen=True)
class Tree:
    """What lies below a folder.

    Attributes:
        files: by class, and in each by name.
        left_out: files and folders that were not looked into, by reason.
        choices: what was taken for what, where it is not obvious; one sentence each.
        own_splits: whether the splits are folders of the user.
    """

    files: list[ImageFile] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    choices: list[str] = field(default_factory=list)
    own_splits: bool = False


def split_of(name: str, test_percent: int = TEST_PERCENT) -> Split:
    """The split of a name: ``test`` for ``test_percent`` of all names, chosen by their SHA-256."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return "test" if int.from_bytes(digest[:8], "big") % 100 < test_percent else "train"


def natural(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers in names by value: 2 before 10."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def find_files(root: Path) -> Tree:
    """The files below ``root`` by class and split; hidden files and folders, and those of systems, are left out.

    Links are followed, and no folder is entered twice for a class.

    Raises:
        ValueError: ``root`` is not a folder.
        OSError: a folder cannot be read.
    """
    if not root.is_dir():
        raise ValueError(f"folder:{root} does not exist; an existing folder is allowed; check the path")
    folders = {path.name.lower(): path for path in reversed(_entries(root, Tree())[0])}
    train = folders.get("train")
    held_out = _held_out(train, [folders[name] for name in HELD_OUT if name in folders])
    tree = Tree(own_splits=bool(train and held_out))
    if train and held_out:
        _two_splits(root, train, held_out, tree)
    elif train and len(folders) == 1:
        tree.choices.append(f"{train.name}/ is the only folder: a share of its files is held out")
        _classes(train, None, tree)
    else:
        _classes(root, None, tree)
    return tree


def _held_out(train: Path | None, found: list[Path]) -> Path | None:
    """Of the folders that may be held out the first with classes as ``train`` has them, if one has any."""
    if train is None or not found:
        return None
    classes = bool(_entries(train, Tree())[0])
    alike = [path for path in found if bool(_entries(path, Tree())[0]) == classes]
    return (alike or found)[0]


def _two_splits(root: Path, train: Path, held_out: Path, tree: Tree) -> None:
    if held_out.name.lower() != "test":
        tree.choices.append(f"{held_out.name}/ is the held-out split")
    folders, files = _entries(root, tree)
    others = [f"{path.name}/" for path in folders if path not in (train, held_out)] + [path.name for path in files]
    if others:
        tree.left_out[f"beside {train.name}/ and {held_out.name}/"] += others
    _classes(train, "train", tree)
    _classes(held_out, "test", tree)


def _classes(root: Path, split: Split | None, tree: Tree) -> None:
    """Add the files of a root that holds class folders, or images alone."""
    count = len(tree.files)
    folders, loose = _entries(root, tree)
    for folder in sorted(folders, key=lambda path: natural(path.name)):
        before, name = len(tree.files), f"{folder.name}/"
        files = [_image_file(path, name, folder.name, split) for path, name in _walk(folder, name, tree, {_node(root)})]
        tree.files.extend(sorted(files, key=lambda file: file.name))
        if len(tree.files) == before and name not in tree.left_out.get(AGAIN, ()):
            tree.left_out["folder without files"].append(name)
    if not loose:
        return
    if len(tree.files) > count:
        outside = [path.name for path in loose if path.name != METADATA]
        if outside:
            tree.left_out["outside class folders"] += outside
        return
    tree.choices.append(f"{root.name}/ has no class folders: its images are of one class, {UNLABELLED!r}")
    tree.files.extend(_image_file(path, path.name, UNLABELLED, split) for path in loose)


def _walk(folder: Path, prefix: str, tree: Tree, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, str]]:
    """The files below a folder with their names, which begin with ``prefix``."""
    if _node(folder) in seen:
        tree.left_out[AGAIN].append(prefix)
        return
    seen.add(_node(folder))
    folders, files = _entries(folder, tree, prefix)
    yield from ((path, prefix + path.name) for path in files)
    for inner in folders:
        yield from _walk(inner, f"{prefix}{inner.name}/", tree, seen)


def _entries(folder: Path, tree: Tree, prefix: str = "") -> tuple[list[Path], list[Path]]:
    """Folders and files inside a folder by name; what nobody means to be read is left out."""
    folders, files = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        kind = _kind(entry)
        if entry.name.startswith(".") or (kind == "folder" and entry.name in JUNK):
            tree.left_out[HIDDEN].append(prefix + entry.name + "/" * (kind == "folder"))
        elif kind == "folder":
            folders.append(folder / entry.name)
        elif kind == "file":
            files.append(folder / entry.name)
        else:
            tree.left_out["link to nothing, or not a file"].append(prefix + entry.name)
    return folders, files


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself
        return "other"


def _node(folder: Path) -> tuple[int, int]:
    """Tells a folder from others, however it is reached."""
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _image_file(path: Path, name: str, kind: str, split: Split | None) -> ImageFile:
    stat = path.stat()
    return ImageFile(path, name, kind, split or split_of(name), stat.st_size, stat.st_mtime_ns)
