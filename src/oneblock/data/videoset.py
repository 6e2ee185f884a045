"""Videos held in memory, all of one shape, and batches of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .imageset import ImageSet
from .memory import Samples
from .order import Order
from .transforms import bytes_in_place, to_float


@dataclass(frozen=True, eq=False)
class VideoSet:
    """Clips, and their labels where they have any.

    Args:
        clips: uint8 (n, f, c, h, w), c is 1 or 3, nothing empty.
        labels: int64 (n,), in [0, len(classes)); None without classes.
        classes: one name per label.
        name: where the clips come from.

    Raises:
        ValueError: a field breaks one of these rules.
    """

    clips: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        shape = tuple(self.clips.shape)
        if self.clips.dtype != torch.uint8 or len(shape) != 5 or shape[2] not in (1, 3) or 0 in shape:
            raise ValueError(
                f"clips are {self.clips.dtype} {shape}; torch.uint8 (n, frames, 1 or 3, height, width) is allowed"
            )
        if (self.labels is None) != (not self.classes):
            raise ValueError(f"classes={self.classes} name the labels; give both, or neither")
        if self.labels is not None:
            fit = self.labels.dtype == torch.int64 and tuple(self.labels.shape) == shape[:1]
            if not fit or int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
                raise ValueError(
                    f"labels are {self.labels.dtype} {tuple(self.labels.shape)}; give int64 ({shape[0]},), from 0 to "
                    f"{len(self.classes) - 1}"
                )

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def shape(self) -> tuple[int, ...]:
        """(f, c, h, w) of a clip."""
        return tuple(self.clips.shape[1:])

    def take(self, indices: Tensor) -> VideoSet:
        """The clips at ``indices``, int64 (n,)."""
        return replace(self, clips=self.clips[indices], labels=None if self.labels is None else self.labels[indices])

    def to(self, device: torch.device) -> VideoSet:
        """The same on ``device``."""
        return replace(
            self, clips=self.clips.to(device), labels=None if self.labels is None else self.labels.to(device)
        )

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of shape, class names, labels and pixels, in this order."""
        digest = hashlib.sha256(repr((tuple(self.clips.shape), self.classes)).encode())
        for tensor in (self.labels, self.clips):
            if tensor is not None:
                digest.update(bytes_in_place(tensor.cpu().contiguous()))
        return digest.hexdigest()[:16]


def in_colour(clips: Tensor, channels: int) -> Tensor:
    """Grey clips (n, f, 1, h, w) with their channel as often as ``channels`` says."""
    return clips if channels == 1 else clips.expand(-1, -1, channels, -1, -1).contiguous()


class VideoSource:
    """A ``Source`` of clips (n, f, c, h, w) in [-1, 1] over a ``VideoSet``."""

    def __init__(self, videos: VideoSet) -> None:
        self.videos = videos
        self._order = Order(len(videos), videos.clips.device)

    @property
    def name(self) -> str:
        return self.videos.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.videos.shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.videos.classes

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        return _samples(self.videos.take(self._order.indices(step, batch_size, seed)))

    def first(self, count: int | None = None) -> ImageSet:
        """Refused: clips are no images."""
        raise ValueError(f"{self.name} has clips of {self.shape[0]} frames, and images are asked for; use samples()")

    def samples(self, count: int | None = None) -> Samples:
        return _samples(self.videos.take(torch.arange(len(self.videos))[:count]))

    def fingerprint(self) -> str:
        return self.videos.fingerprint()

    @property
    def nbytes(self) -> int:
        """Of clips, as bytes, and labels."""
        labels = self.videos.labels
        return self.videos.clips.nbytes + (0 if labels is None else labels.nbytes)

    def to(self, device: torch.device) -> VideoSource:
        """The same on ``device``, where batches are then made."""
        return VideoSource(self.videos.to(device))


def _samples(videos: VideoSet) -> Samples:
    return Samples(to_float(videos.clips), videos.labels)
