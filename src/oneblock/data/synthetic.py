"""Images from a formula: seeded, labelled, of any size, for tests and first runs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .imageset import ImageSet, check_channels, check_size

SHAPES = ("disc", "square", "ring", "frame", "cross", "row", "column", "diagonal")
NOISE = 0.03


def synthetic_images(num: int, size: int, channels: int, num_classes: int, seed: int) -> ImageSet:
    """Bright shapes on a dark ground; the label is the shape, and in colour its hue too.

    Place, radius, brightness and hue vary from image to image, a little noise lies over all of it, and labels
    go round in turn, so the classes are as balanced as ``num`` allows.

    Args:
        num: number of images n, at least 1.
        size: side in pixels, at least 4.
        channels: 1 or 3.
        num_classes: 1 to 8, the first so many names of ``SHAPES``.
        seed: names the images.

    Returns:
        uint8 (n, channels, size, size).

    Raises:
        ValueError: an argument is outside its range.
    """
    _check(num, size, channels, num_classes)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % num_classes
    masks = torch.stack([_mask(SHAPES[label], size, generator) for label in labels.tolist()])
    colours = _colours(labels, channels, num_classes, generator)
    images = masks[:, None] * colours[:, :, None, None]
    images = images + NOISE * torch.randn(images.shape, generator=generator)
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return ImageSet(pixels, labels, SHAPES[:num_classes], "synthetic")


def _check(num: int, size: int, channels: int, num_classes: int) -> None:
    check_size(size)
    check_channels(channels)
    if num < 1:
        raise ValueError(f"num={num} is too small; 1 or more images are allowed; use for example 64")
    if size < 4:
        raise ValueError(f"size={size} is too small to draw a shape; 4 or more is allowed; use for example 8")
    if not 1 <= num_classes <= len(SHAPES):
        raise ValueError(f"num_classes={num_classes} is not possible; 1 to {len(SHAPES)} is allowed; use fewer classes")


def _mask(shape: str, size: int, generator: torch.Generator) -> Tensor:
    """The shape at a random place: float32 (size, size), 0 or 1."""
    shift_x, shift_y, scale = (torch.rand(3, generator=generator) - 0.5).tolist()
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    x, y = line[None, :] - 0.3 * shift_x, line[:, None] - 0.3 * shift_y
    return _inside(shape, x, y, 0.7 + 0.2 * scale).float()


def _inside(shape: str, x: Tensor, y: Tensor, radius: float) -> Tensor:
    round_distance, square_distance = (x * x + y * y).sqrt(), torch.maximum(x.abs(), y.abs())
    arm = max(0.3 * radius, 0.2)
    inside = {
        "disc": round_distance < radius,
        "square": square_distance < radius,
        "ring": (round_distance < radius) & (round_distance > radius / 2),
        "frame": (square_distance < radius) & (square_distance > radius / 2),
        "cross": (torch.minimum(x.abs(), y.abs()) < arm) & (square_distance < radius),
        "row": (y.abs() < arm) & (square_distance < radius),
        "column": (x.abs() < arm) & (square_distance < radius),
        "diagonal": ((x - y).abs() < 1.5 * arm) & (square_distance < radius),
    }
    return inside[shape]


def _colours(labels: Tensor, channels: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Brightness in [0.6, 1), times the hue of the class with some jitter: float32 (n, channels)."""
    brightness = 0.6 + 0.4 * torch.rand(len(labels), 1, generator=generator)
    if channels == 1:
        return brightness
    turn = labels / num_classes + 0.05 * torch.rand(len(labels), generator=generator)
    phases = torch.arange(3) / 3
    return brightness * (0.5 + 0.5 * torch.cos(2 * math.pi * (turn[:, None] - phases)))
