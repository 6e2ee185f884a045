"""Perceptron: linear layers with GELU between them, an ordinary classifier of images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from oneblock.checks import check_fields, check_least


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig:
    """Shape of a perceptron.

    Args:
        image_size: height and width of the (square) images in pixels; ``channels`` of the images.
        num_classes: outputs.
        depth: linear layers; ``width`` of what is between them.
    """

    image_size: int
    channels: int
    num_classes: int
    depth: int
    width: int

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "image_size", "channels", "num_classes", "depth", "width")


class Perceptron(nn.Module):
    """Images (n, c, h, w) -> logits (n, k)."""

    def __init__(self, config: PerceptronConfig) -> None:
        super().__init__()
        pixels = config.channels * config.image_size**2
        sizes = [pixels, *[config.width] * (config.depth - 1), config.num_classes]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images.flatten(1))
        return logits
