"""Where the data of a run lie and which files they are: ``data.json`` beside the plan, and no part of its hash.

The plan holds the name as the user gave it; the file holds it resolved, so that a run finds its data from any working
directory, and a short digest of every file, so that a run whose data have changed can say what changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from oneblock.checks import check_fields
from oneblock.plain import read_plain, write_whole

DATA_FILE = "data.json"
KINDS = ("folder", "file", "cifar10", "cifar100", "tiny-imagenet", "captions")
"""Of names with a path behind their colon."""
LISTED = 20_000
"""Files that are listed one by one; of more, each folder is listed as a whole."""
WHOLE = 64 * 2**20
"""Bytes up to which a file is digested as a whole; of a larger one half of it at each end."""
READ = 2**30
"""Bytes that are read for digests; files that are larger together are told by size and time of change."""
SHOWN = 5
"""Files that a message names."""


By = Literal["digest", "time"]


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The data that a run started with.

    Args:
        data: its name, as the user gave it.
        place: absolute path of the folder or file behind the name; empty for data without one.
        data_dir: absolute path of ``--data-dir``; empty without.
        files: path below ``place`` -> size in bytes and digest, or time of change, as ``by`` says; of very many files
            path of a folder (it ends in /) -> how many there are, and a digest of that.
    """

    data: str
    place: str = ""
    data_dir: str = ""
    by: By = "digest"
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)

    def again(self) -> tuple[str, Path | None]:
        """Name and root by which the data are found from here: as the user gave them where that still is the place."""
        if self.place and Path(self.place).exists() and place_of(self.data, None) != Path(self.place):
            return f"{self.data.partition(':')[0]}:{self.place}", None
        return self.data, Path(self.data_dir) if self.data_dir else None


def place_of(name: str, root: Path | None) -> Path | None:
    """The absolute path that the ``name`` of data stands for, below ``root`` if it is relative; None without one."""
    kind, _, path = name.partition(":")
    if kind not in KINDS or not path:
        return None
    place = Path(path).expanduser()
    return (place if root is None else root.expanduser() / place).resolve()


def data_record(name: str, place: Path | None, root: Path | None) -> DataRecord:
    """What is to be kept of the data called ``name``, which lie at ``place`` or in ``root``; reads files that are not
    larger together than ``READ``."""
    files = {} if place is None else dict(_walk(place))
    by: By = "digest" if sum(path.stat().st_size for path in files.values()) <= READ else "time"
    return DataRecord(
        data=name,
        place="" if place is None else str(place),
        data_dir="" if root is None else str(root.expanduser().resolve()),
        by=by,
        files=_told(files, by, folders=len(files) > LISTED),
    )


def write_record(record: DataRecord, directory: Path) -> None:
    """Write ``data.json``, whole or not at all."""
    text = json.dumps(asdict(record), indent=1) + "\n"
    write_whole(directory / DATA_FILE, text, together=True)  # jobs of one run may start together


def hand_on(source: Path, target: Path) -> None:
    """Tell the model in ``target`` where the data of the run or model in ``source`` lie, without the list of files."""
    record = read_record(source)
    if record is not None:
        write_record(replace(record, files={}), target)


def read_record(directory: Path) -> DataRecord | None:
    """What a run or model says of its data; None if it says nothing that can be read."""
    try:
        return check_record(directory)
    except (OSError, ValueError):
        return None


def check_record(directory: Path) -> DataRecord:
    """The same; a file that says nothing of data is a ``ValueError``, and one that is not there an ``OSError``."""
    path = directory / DATA_FILE
    values = read_plain(path)
    names = {field.name for field in fields(DataRecord)}
    if not isinstance(values, dict) or not {"data"} <= values.keys() <= names or "\\u0000" in json.dumps(values):
        raise ValueError(f"{path} does not say where data lie; delete it, and give the data")
    try:
        return DataRecord(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it, and give the data") from error


def changes(record: DataRecord, place: Path) -> list[str]:
    """Which files at ``place`` are not those of the record: ``"changed cat/1.png"``, ``"new ..."``, ``"missing ..."``,
    by name."""
    before = record.files
    now = _told(dict(_walk(place)), record.by, folders=any(name.endswith("/") for name in before))
    words = {name: "changed" if name in before and name in now else "new" for name in now} | {
        name: "missing" for name in before if name not in now
    }
    return [f"{words[name]} {name}" for name in sorted(words) if before.get(name) != now.get(name)]


def shown(found: list[str]) -> str:
    """A few of the changes, and how many more there are."""
    more = len(found) - SHOWN
    return ", ".join(found[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _told(files: Mapping[str, Path], by: By, folders: bool) -> dict[str, str]:
    """What tells each of ``files`` from others, or with ``folders`` those of a folder together."""
    told = {name: _digest(path) if by == "digest" else _time(path) for name, path in files.items()}
    if not folders:
        return told
    lines: dict[str, list[str]] = defaultdict(list)
    for name, text in told.items():
        lines[f"{name.rpartition('/')[0]}/"].append(f"{name} {text}")
    return {
        folder: f"{len(found)} files {hashlib.sha256(repr(found).encode()).hexdigest()[:16]}"
        for folder, found in sorted(lines.items())
    }


def _walk(place: Path) -> Iterator[tuple[str, Path]]:
    """Path below ``place`` and path of every file there that is not hidden, in order; of a file itself its name."""
    if place.is_file():
        yield place.name, place
    seen: set[str] = set()
    for folder, folders, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder) / name for name in sorted(names) if not name.startswith(".")):
            if path.is_file():
                yield path.relative_to(place).as_posix(), path


def _time(path: Path) -> str:
    """Bytes and time of change of a file."""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _digest(path: Path) -> str:
    """Bytes and the head of the SHA-256 of a file; ``unreadable`` for one that cannot be read."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            sha = hashlib.sha256(file.read(min(size, WHOLE // 2)))
            file.seek(max(WHOLE // 2, size - WHOLE // 2))
            sha.update(file.read())
    except OSError:
        return "unreadable"
    return f"{size} {sha.hexdigest()[:16]}"
