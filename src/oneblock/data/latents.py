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
from .videoset import VideoSource

PIECE = 256
"""Images, or frames of clips, that are encoded at a time."""
VALUES = "values"
"""The tensor of a file."""


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
    path, (pixels, labels) = kept_path(latents_folder(), source.name, f"{source.fingerprint()} {codec}"), _held(source)
    held = find_kept(path) if reading.cache else None
    found = None if held is None else held.get(VALUES)
    if found is None or len(found) != len(pixels):
        found = _encoded(pixels, source.name, encode)
        keep(path, {VALUES: found}, f"the latents of {source.name}", reading)
    return Latents(found, labels)


def latents_folder() -> Path:
    """Where they are kept: ``.cache/latents`` in ``$ONEBLOCK_DATA`` or ``./data``."""
    return data_folder() / ".cache" / "latents"


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
