"""Images with captions from folders: ``metadata.jsonl``, or a text beside each image.

    DIR/metadata.jsonl     in DIR or any folder below it; a JSON object on each line: ``file_name``, relative to the
                           folder of the file, and ``text``
    DIR/.../1.png, 1.txt   without any metadata.jsonl: the caption of an image is the text of its name

``DIR/train/...`` and ``DIR/test/...`` are splits of the user, with the names of ``tree.HELD_OUT``; without both, the
hash of a file's name decides. A caption is its words, one space between two. Images are labelled with the place of
their caption among all different captions, so that every ``Source`` can hold them: that of image i is
``classes[labels[i]]``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from oneblock.plain import parse_plain

from .decode import Header, UnusableError, decode, read_header
from .folder import counted
from .imageset import ImageSet, Split
from .pixels import DEFAULT_SIZE, choose_channels, require_pillow
from .progress import inform, note, tell
from .reading import READING, Reading
from .tree import HELD_OUT, METADATA, natural, split_of

SIDECAR = ".txt"
FILE_NAME, TEXT = "file_name", "text"
"""Keys of a line of ``METADATA``."""
MOST_CAPTION = 2**16
"""Bytes of a text beside an image: a longer one is no caption."""


@dataclass(frozen=True)
class Captioned:
    """The files with a caption: path below the folder -> caption; and the others, by reason."""

    captions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def load_captions(
    root: Path, split: Split, size: int | None = None, channels: int | None = None, reading: Reading = READING
) -> ImageSet:
    """One split of a folder of images with captions.

    The listener hears how many images are used, and why not the others; without one it is a warning where files were
    left out. Arguments as of ``folder.load_folder``; nothing is kept on disk.

    Returns:
        uint8 (n, c, size, size), by name; ``classes`` are the captions of both splits, sorted.

    Raises:
        ValueError: no folder, no captions, a line that is not one, an image with two captions or outside the folder,
            grey mixed with colour, or a split without images.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow()
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give one with images and their captions")
    name = f"captions:{root.resolve().name}"
    found = find_captions(root)
    headers = _headers(root, found, name, reading)
    splits = _splits(headers, found)
    chosen = [file for file in splits if splits[file] == split]
    if not chosen:
        raise ValueError(
            f"{name} has no images with captions in its {split} split; give more images, or folders of splits"
        )
    modes = Counter(headers[file].mode for file in splits)
    channels, size = choose_channels(modes, channels, name), size or DEFAULT_SIZE
    sources = [(root / file, headers[file].memory) for file in chosen]
    images: list[Tensor] = []
    used: list[str] = []
    for file, pixels in zip(chosen, decode(sources, reading, size, channels, name), strict=True):
        if isinstance(pixels, UnusableError):
            found.left_out[pixels.kind].append(file)
        else:
            images.append(pixels)
            used.append(file)
    said = f"{name}: {len(used)} images of the {split} split are used"
    if found.left_out:
        note(f"{said}; left out: {counted(found.left_out)}")
    else:
        inform(said)
    if not used:
        raise ValueError(f"{said}; left out: {counted(found.left_out)}; give images that can be read")
    different = tuple(sorted({found.captions[file] for file in splits}))
    where = {caption: label for label, caption in enumerate(different)}
    labels = torch.tensor([where[found.captions[file]] for file in used])
    skipped = tuple(sorted({file for files in found.left_out.values() for file in files}))
    return ImageSet(torch.stack(images), labels, different, name, skipped, captioned=True)


def find_captions(root: Path) -> Captioned:
    """The captions of the files below a folder; no image is opened."""
    files = {file.relative_to(root).as_posix(): file for file in _walk(root)}
    tables = [file for file in files.values() if file.name == METADATA]
    found = _from_tables(root, tables, files) if tables else _from_sidecars(files)
    if not found.captions:
        why = f" ({counted(found.left_out)})" if found.left_out else ""
        raise ValueError(
            f"{root} has no captions{why}; write {METADATA} with lines such as "
            f'{{"{FILE_NAME}": "1.png", "{TEXT}": "a red square"}}, or a text 1{SIDECAR} beside 1.png'
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, by name; hidden ones left out."""
    for entry in sorted(folder.iterdir(), key=lambda path: natural(path.name)):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _from_tables(root: Path, tables: list[Path], files: Mapping[str, Path]) -> Captioned:
    found = Captioned()
    for table in tables:
        for number, line in enumerate(table.read_bytes().splitlines(), 1):
            if line.strip():
                _add_row(found, root, files, table, parse_plain(line, f"{table}, line {number}"), number)
    named = found.captions.keys() | {file for some in found.left_out.values() for file in some}
    others = [file for file, path in files.items() if file not in named and path.name != METADATA]
    if others:
        found.left_out[f"not in {METADATA}"] += others
    return found


def _add_row(found: Captioned, root: Path, files: Mapping[str, Path], table: Path, row: object, number: int) -> None:
    """Add a line of a table, or refuse it."""
    where = f"{table}, line {number}"
    file, text = (row.get(FILE_NAME), row.get(TEXT)) if isinstance(row, dict) else (None, None)
    if not isinstance(file, str) or not isinstance(text, str):
        raise ValueError(f"{where} has no texts {FILE_NAME!r} and {TEXT!r}; give both for each image")
    if ".." in Path(file).parts or Path(file).is_absolute():
        raise ValueError(f"{where}: {FILE_NAME}={file!r} is not below the folder of {METADATA}; name those that are")
    name = (table.parent / file).relative_to(root).as_posix()
    if name in found.captions:
        raise ValueError(f"{where}: {name} has a caption already; give each image one")
    caption = " ".join(text.split())
    if name not in files:
        found.left_out["file not there"].append(name)
    elif not caption:
        found.left_out["empty caption"].append(name)
    else:
        found.captions[name] = caption


def _from_sidecars(files: Mapping[str, Path]) -> Captioned:
    found = Captioned()
    for name, path in files.items():
        if path.suffix.lower() == SIDECAR:
            continue
        text = path.with_suffix(SIDECAR)
        if not text.is_file():
            found.left_out["no caption"].append(name)
            continue
        caption = _sidecar(text)
        if caption:
            found.captions[name] = caption
        else:
            found.left_out["caption empty, too long or not UTF-8"].append(name)
    return found


def _sidecar(path: Path) -> str:
    """Empty where it is no caption."""
    with open(path, "rb") as file:
        content = file.read(MOST_CAPTION + 1)
    try:
        return " ".join(content.decode("utf-8-sig").split()) if len(content) <= MOST_CAPTION else ""
    except UnicodeDecodeError:
        return ""


def _headers(root: Path, found: Captioned, name: str, reading: Reading) -> dict[str, Header]:
    """Of the files that can be images."""
    headers = {}
    for done, file in enumerate(found.captions, 1):
        try:
            headers[file] = read_header(root / file, reading)
        except UnusableError as error:
            found.left_out[error.kind].append(file)
        tell(done, len(found.captions), f"headers of {name}")
    if not headers:
        raise ValueError(f"{name} has no readable images with captions ({counted(found.left_out)}); give some")
    return headers


def _splits(files: Iterable[str], found: Captioned) -> dict[str, Split]:
    """The split of each file; those beside folders of splits are left out."""
    first = {file: file.split("/")[0].lower() for file in files}
    held_out = next((folder for folder in HELD_OUT if folder in first.values()), None)
    if held_out is None or "train" not in first.values():
        return {file: split_of(file) for file in first}
    of_user: dict[str, Split] = {"train": "train", held_out: "test"}
    beside = [file for file, folder in first.items() if folder not in of_user]
    if beside:
        found.left_out[f"beside train/ and {held_out}/"] += beside
    return {file: of_user[folder] for file, folder in first.items() if folder in of_user}
