"""Tensors that follow from data and take long to make, kept on disk: made once, and found by what they follow from.

A file holds a SHA-256 of all it says, and is made again if that does not fit. It gets its name when it is complete, so
several processes may make the same one.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .cache import GIGA, PARTIAL, SUFFIX, trim
from .progress import note
from .reading import Reading
from .transforms import bytes_in_place

DIGEST = "sha256"


def kept_path(folder: Path, name: str, key: str) -> Path:
    """The file for data of this name, whether it exists or not; ``key`` tells what it follows from."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-40:]
    return folder / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:16]}{SUFFIX}"


def find_kept(path: Path) -> dict[str, Tensor] | None:
    """The tensors by name, mapped into memory; None if they must be made."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in sorted(file.keys())}
            if file.metadata()[DIGEST] != _digest(tensors):
                raise ValueError("its check sum does not fit")
        os.utime(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        note(f"{path} is damaged and is made again ({error})")
        return None
    return tensors


def keep(path: Path, tensors: Mapping[str, Tensor], what: str, reading: Reading) -> None:
    """Write the file, and remove those of other sets that are over the limit; ``what`` cannot be written is told."""
    limit = round(reading.cache_gb * GIGA)
    if not reading.cache or sum(one.nbytes for one in tensors.values()) > limit:
        return
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    held = {name: tensors[name].contiguous() for name in sorted(tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(held, partial, {DIGEST: _digest(held)})
        os.replace(partial, path)
        trim(path.parent, limit, path)
    except (OSError, SafetensorError) as error:
        note(f"{what} could not be kept ({error}); --no-cache does not try")
    finally:
        partial.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of shapes, types and values, in order."""
    digest = hashlib.sha256()
    for values in tensors.values():
        digest.update(repr((tuple(values.shape), values.dtype)).encode())
        digest.update(bytes_in_place(values.contiguous()))
    return digest.hexdigest()
