"""What a codec makes of a whole set, made once and kept on disk: training then runs no autoencoder.

A file is found by the fingerprints of images and codec (``data.kept``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .kept import find_kept, keep, kept_path
from .memory import MemorySource, Samples
from .order import Order
from .progress import tell
from .reading import Reading, data_folder
from .transforms import to_float

PIECE = 256
"""Images that are encoded at a time."""
VALUES = "values"
"""The tensor of a file."""


class Latents:
    """What a codec made of a set of images, in the order of the set; ``Movable``.

    Args:
        values: float32 (n, c, h, w).
        labels: int64 (n,).
    """

    def __init__(self, values: Tensor, labels: Tensor) -> None:
        self.values, self.labels = values, labels
        self._order = Order(len(values), values.device)

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        """Those of the images that ``MemorySource.batch`` gives for the same arguments."""
        chosen = self._order.indices(step, batch_size, seed)
        return Samples(self.values[chosen], self.labels[chosen])

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.labels.nbytes

    def to(self, device: torch.device) -> Latents:
        return Latents(self.values.to(device), self.labels.to(device))


def latents(images: MemorySource, encode: Callable[[Tensor], Tensor], codec: str, reading: Reading) -> Latents:
    """What ``encode`` makes of all images, mapped from the file in which it was kept, if there is one.

    Args:
        codec: the fingerprint of what encodes.
        reading: whether and how much is kept; the limit holds for the latents of all sets together.
    """
    path = kept_path(latents_folder(), images.name, f"{images.fingerprint()} {codec}")
    held = find_kept(path) if reading.cache else None
    found = None if held is None else held.get(VALUES)
    if found is None or len(found) != len(images.images):
        found = _encoded(images, encode)
        keep(path, {VALUES: found}, f"the latents of {images.name}", reading)
    return Latents(found, images.images.labels)


def latents_folder() -> Path:
    """Where they are kept: ``.cache/latents`` in ``$ONEBLOCK_DATA`` or ``./data``."""
    return data_folder() / ".cache" / "latents"


def _encoded(images: MemorySource, encode: Callable[[Tensor], Tensor]) -> Tensor:
    held, parts = images.images.images, list[Tensor]()
    for piece in held.split(PIECE):
        parts.append(encode(to_float(piece)))
        tell(sum(map(len, parts)), len(held), f"images of {images.name} encoded")
    return torch.cat(parts)
