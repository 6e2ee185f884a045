"""Decoded images kept on disk: safetensors files that are mapped into memory, one for each split of a set of files.

A file is found by everything its content follows from, and holds a SHA-256 of all it says; one that does not fit is
made again. It gets its name when it is complete, so several processes may make the same one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .imageset import ImageSet
from .progress import note
from .reading import Reading, data_folder
from .transforms import bytes_in_place

VERSION = 1
"""Part of every key; raise it when the same files give other images."""
SUFFIX, PARTIAL = ".safetensors", ".partial"
ABANDONED = 86400.0
"""Seconds after which an unfinished file has nobody who will finish it."""
GIGA = 10**9


@dataclass(frozen=True)
class Place:
    """Where the decoded images of one split are kept.

    Args:
        name: the data set, the beginning of the file's name.
        key: everything that the images follow from; its ``repr`` is hashed.
        reading: whether and how much is kept.
    """

    name: str
    key: object
    reading: Reading

    @property
    def path(self) -> Path:
        """The file, whether it exists or not."""
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-")[-40:]
        digest = hashlib.sha256(repr((VERSION, self.key)).encode("utf-8", "surrogateescape")).hexdigest()
        return cache_folder() / f"{readable}-{digest[:16]}{SUFFIX}"

    def find(self) -> tuple[ImageSet, str] | None:
        """The images, mapped into memory, and the summary that was kept with them; None if they must be made."""
        if not (self.reading.cache and self.path.is_file()):
            return None
        try:
            found = _read(self.path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            note(f"{self.path} is damaged and is made again ({error})")
            return None
        _touch(self.path)
        return found

    def keep(self, images: ImageSet, summary: str) -> None:
        """Write the images, and remove those of other sets that are over the limit; what cannot be written is told."""
        if not self.reading.cache or self.reading.cache_gb * GIGA < images.images.nbytes:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.path, images, summary)
            trim(self.path.parent, round(self.reading.cache_gb * GIGA), self.path)
        except OSError as error:
            note(f"the decoded images of {self.name} could not be kept ({error}); --no-cache does not try")


def cache_folder() -> Path:
    """Where decoded images are kept: ``.cache/images`` in ``$ONEBLOCK_DATA`` or ``./data``."""
    return data_folder() / ".cache" / "images"


def trim(folder: Path, limit: int, kept: Path) -> None:
    """Remove the files unused for longest until all have ``limit`` bytes or fewer, but never ``kept``."""
    files = []
    for path in folder.iterdir():
        try:
            stat = path.stat()
        except FileNotFoundError:  # another process removes files too
            continue
        if path.suffix == PARTIAL and time.time() - stat.st_mtime > ABANDONED:
            path.unlink(missing_ok=True)
        elif path.suffix == SUFFIX:
            files.append((stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total > limit and path != kept:
            path.unlink(missing_ok=True)
            total -= size


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # somebody else's file: it ages
        pass


def _read(path: Path) -> tuple[ImageSet, str]:
    with safe_open(path, "pt") as file:
        images, labels = file.get_tensor("images"), file.get_tensor("labels")
        text = file.metadata()["about"]
        if file.metadata()["sha256"] != _digest(text, labels, images):
            raise ValueError("its check sum does not fit")
    about = json.loads(text)
    found = ImageSet(images, labels, tuple(about["classes"]), about["name"], tuple(about["skipped"]))
    return found, cast(str, about["summary"])


def _write(path: Path, images: ImageSet, summary: str) -> None:
    about = {"classes": images.classes, "name": images.name, "skipped": images.skipped, "summary": summary}
    text = json.dumps(about)
    pixels, labels = images.images.contiguous(), images.labels.contiguous()
    padding = torch.zeros(-pixels.nbytes % 8, dtype=torch.uint8)  # labels begin at a multiple of their size
    tensors = {"images": pixels, "padding": padding, "labels": labels}
    head = _head(tensors, {"about": text, "sha256": _digest(text, labels, pixels)})
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(head)
            for tensor in tensors.values():
                file.write(bytes_in_place(tensor))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _head(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """What a safetensors file begins with, by hand: its own writer copies all tensors."""
    described: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        kind = {torch.uint8: "U8", torch.int64: "I64"}[tensor.dtype]
        described[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _digest(text: str, labels: Tensor, images: Tensor) -> str:
    digest = hashlib.sha256(text.encode())
    for tensor in (labels, images):
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(bytes_in_place(tensor))
    return digest.hexdigest()
