"""Small pictures that bounce between the walls of a frame: seeded, and their places are known exactly at all times.

A picture moves in a straight line and is reflected where its square touches a wall, so that along each axis its place
is a triangle wave: with room r for its corner, start x and velocity v,

    place(t) = r - |((x + v t) mod 2 r) - r|

It is drawn between pixels by linear interpolation, which keeps its brightness and moves its centre of mass exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .digits import load_digits
from .idx import load_fashion_mnist
from .imageset import ImageSet, Split
from .videoset import VideoSet

PICTURES = ("digits", "clothes")
"""What bounces: scikit-learn's digits, or the clothes of Fashion-MNIST."""
CLIPS: dict[Split, int] = {"train": 4000, "test": 500}
SPEEDS = (0.025, 0.075)
"""Of a frame's side in the time of a frame, the slowest and the fastest."""
SEEDS: dict[Split, int] = {"train": 1, "test": 2}


@dataclass(frozen=True, eq=False)
class Bouncing:
    """Clips as pictures and their paths, of as many frames as are asked for.

    Args:
        pictures: float32 (n, k, s, s) in [0, 1], the k that bounce in each of n clips.
        start, velocity: float64 (n, k, 2), row and column of the upper left corner, in pixels and pixels a frame.
        labels: int64 (n,), the class of the picture where k is 1; else None.
        classes, name: of the clips.
        size: side of the frames in pixels.
    """

    pictures: Tensor
    start: Tensor
    velocity: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    name: str
    size: int

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, indices: Tensor) -> Bouncing:
        """The clips at ``indices``, int64 (n,)."""
        labels = None if self.labels is None else self.labels[indices]
        rest = {name: getattr(self, name)[indices] for name in ("pictures", "start", "velocity")}
        return replace(self, labels=labels, **rest)

    def corners(self, frames: int) -> Tensor:
        """Row and column of the upper left corners, float64 (n, frames, k, 2)."""
        room = float(self.size - self.pictures.shape[-1])
        time = torch.arange(frames, dtype=torch.float64)[:, None, None]
        return room - ((self.start[:, None] + self.velocity[:, None] * time).remainder(2 * room) - room).abs()

    def centres(self, frames: int) -> Tensor:
        """Row and column of the centres of mass, float64 (n, frames, k, 2); the first pixel's centre is at 0."""
        weights = self.pictures.double() / self.pictures.double().sum((2, 3), keepdim=True)
        line = torch.arange(self.pictures.shape[-1], dtype=torch.float64)
        middle = torch.stack([(weights.sum(3) * line).sum(-1), (weights.sum(2) * line).sum(-1)], dim=-1)
        return self.corners(frames) + middle[:, None]

    def render(self, frames: int) -> Tensor:
        """Frames uint8 (n, frames, 1, size, size); where pictures overlap, the brighter one is seen."""
        rows, columns = (self._spread(self.corners(frames)[..., axis]) for axis in range(2))
        drawn = torch.einsum("nfkys,nkst,nfkxt->nfkyx", rows, self.pictures, columns).amax(2, keepdim=True)
        return (drawn * 255).round().clamp(0, 255).to(torch.uint8)

    def videos(self, frames: int) -> VideoSet:
        """The clips with so many frames."""
        parts = [self.take(part).render(frames) for part in torch.arange(len(self)).split(256)]
        return VideoSet(torch.cat(parts), self.labels, self.classes, self.name)

    def _spread(self, corner: Tensor) -> Tensor:
        """How much of each row of a picture falls on each row of a frame: (n, f, k, size, s)."""
        frame, picture = torch.arange(self.size), torch.arange(self.pictures.shape[-1])
        away = (frame[:, None] - picture - corner[..., None, None]).abs()
        return (1 - away).clamp(min=0).float()


def bouncing(
    pictures: str, split: Split, size: int, count: int = 0, together: int = 1, root: Path | None = None
) -> Bouncing:
    """Clips of bouncing digits or clothes; training and test clips have other pictures and other paths.

    Args:
        pictures: one of ``PICTURES``; they are half as large as a frame.
        size: side of the frames in pixels, 4 or more.
        count: clips; 0 is ``CLIPS`` of the split.
        together: pictures in a clip; with one, its class is the clip's.
        root: where the files of Fashion-MNIST lie.

    Raises:
        ValueError: a setting is outside its range, or the files are absent or damaged.
        MissingExtraError: scikit-learn is not installed.
    """
    if pictures not in PICTURES:
        raise ValueError(f"pictures={pictures!r} are unknown; use one of {', '.join(PICTURES)}")
    if size < 4:
        raise ValueError(f"frame_size={size} leaves no room to move; use 4 or more pixels")
    if together < 1 or count < 0:
        raise ValueError(f"together={together}, clips={count} are not possible; use 1 or more")
    known = load_digits(split) if pictures == "digits" else load_fashion_mnist(split, root)
    generator = torch.Generator().manual_seed(SEEDS[split])
    n, k = count or CLIPS[split], together
    chosen = torch.randint(len(known), (n, k), generator=generator)
    drawn = _scaled(known, size // 2)[chosen]
    start, angle, speed = (torch.rand(n, k, parts, generator=generator, dtype=torch.float64) for parts in (2, 1, 1))
    angle = 2 * torch.pi * angle
    slow, fast = (share * size for share in SPEEDS)
    velocity = (slow + (fast - slow) * speed) * torch.cat([angle.sin(), angle.cos()], dim=-1)
    labels = known.labels[chosen[:, 0]] if k == 1 else None
    classes = known.classes if k == 1 else ()
    room = float(size - size // 2)
    return Bouncing(drawn, start * room, velocity, labels, classes, f"bouncing-{pictures}", size)


def _scaled(known: ImageSet, side: int) -> Tensor:
    """Grey images as float32 (n, side, side) in [0, 1]."""
    images = known.images.float() / 255
    smaller = side < images.shape[-1]
    mode = {"mode": "area"} if smaller else {"mode": "bilinear", "align_corners": False}
    return F.interpolate(images, (side, side), **mode)[:, 0].clamp(0, 1)
