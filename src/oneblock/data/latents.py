"""What a codec makes of a whole set, made once and kept on disk: training then runs no autoencoder.

A file is found by the fingerprints of images and codec, holds a SHA-256 of all it says, and is made again if that does
not fit. It gets its name when it is complete, so several processes may make the same one.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .cache import GIGA, PARTIAL, SUFFIX, trim
from .memory import MemorySource, Samples
from .order import Order
from .progress import note, tell
from .reading import Reading, data_folder
from .transforms import bytes_in_place, to_float
from .videoset import VideoSource

PIECE = 256
"""Images, or frames of clips, that are encoded at a time."""
VALUES, DIGEST = "values", "sha256"


class Latents:
    """What a codec made of a set of images or clips, in the order of the set; ``Movable``.

    Args:
        values: float32 (n, c, h, w), of clips (n, f, c, h, w).
        labels: int64 (n,); None without classes.
    """

    def __init__(self, values: Tensor, labels: Tensor | None) -> None:
        self.values, self.labels = values, labels
        self._order = Order(len(values), values.device)

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        """Those of the samples that the ``batch`` of their source gives for the same arguments."""
        chosen = self._order.indices(step, batch_size, seed)
        return Samples(self.values[chosen], None if self.labels is None else self.labels[chosen])

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.labels is None else self.labels.nbytes)

    def to(self, device: torch.device) -> Latents:
        return Latents(self.values.to(device), None if self.labels is None else self.labels.to(device))


def latents(
    source: MemorySource | VideoSource, encode: Callable[[Tensor], Tensor], codec: str, reading: Reading
) -> Latents:
    """What ``encode`` makes of all samples, mapped from the file in which it was kept, if there is one.

    Args:
        codec: the fingerprint of what encodes.
        reading: whether and how much is kept; the limit holds for the latents of all sets together.
    """
    path, (pixels, labels) = _path(source, codec), _held(source)
    found = _find(path) if reading.cache else None
    if found is None or len(found) != len(pixels):
        found = _encoded(pixels, source.name, encode)
        _keep(path, found, source.name, reading)
    return Latents(found, labels)


def latents_folder() -> Path:
    """Where they are kept: ``.cache/latents`` in ``$ONEBLOCK_DATA`` or ``./data``."""
    return data_folder() / ".cache" / "latents"


def _path(source: MemorySource | VideoSource, codec: str) -> Path:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", source.name).strip("-")[-40:]
    digest = hashlib.sha256(f"{source.fingerprint()} {codec}".encode()).hexdigest()
    return latents_folder() / f"{readable}-{digest[:16]}{SUFFIX}"


def _held(source: MemorySource | VideoSource) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (n, c, h, w), or clips uint8 (n, f, c, h, w), and their labels (n,)."""
    if isinstance(source, VideoSource):
        return source.videos.clips, source.videos.labels
    return source.images.images, source.images.labels


def _encoded(held: Tensor, name: str, encode: Callable[[Tensor], Tensor]) -> Tensor:
    parts = list[Tensor]()
    frames, what = (held.shape[1], "clips") if held.ndim == 5 else (1, "images")
    for piece in held.split(max(1, PIECE // frames)):
        parts.append(encode(to_float(piece)))
        tell(sum(map(len, parts)), len(held), f"{what} of {name} encoded")
    return torch.cat(parts)


def _find(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            values: Tensor = file.get_tensor(VALUES)
            if file.metadata()[DIGEST] != _digest(values):
                raise ValueError("its check sum does not fit")
        os.utime(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        note(f"{path} is damaged and is made again ({error})")
        return None
    return values


def _keep(path: Path, values: Tensor, name: str, reading: Reading) -> None:
    """Write the file, and remove those of other sets that are over the limit; what cannot be written is told."""
    limit = round(reading.cache_gb * GIGA)
    if not reading.cache or values.nbytes > limit:
        return
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({VALUES: values.contiguous()}, partial, {DIGEST: _digest(values)})
        os.replace(partial, path)
        trim(path.parent, limit, path)
    except (OSError, SafetensorError) as error:
        note(f"the latents of {name} could not be kept ({error}); --no-cache does not try")
    finally:
        partial.unlink(missing_ok=True)


def _digest(values: Tensor) -> str:
    digest = hashlib.sha256(repr((tuple(values.shape), values.dtype)).encode())
    digest.update(bytes_in_place(values.contiguous()))
    return digest.hexdigest()
