"""CNN: the network of NoProp, a classifier of images that also reads a noisy label.

Li, Teh and Pascanu, "NoProp: Training Neural Networks without Back-propagation or Forward-propagation", the figures of
its models, https://arxiv.org/abs/2503.24322. A network u makes an embedding of the image (three convolutions, each with
ReLU and pooling, and a linear map), one of the noisy label (two linear maps, the second around a skip) and, if asked
to, one of the noise level; their concatenation goes through two linear maps. Logits follow by one more.

Here a layer is one whole network u: it counts as one layer evaluation for each sample. It has 3 convolutions and 3
linear maps of its own, besides the two of the noisy label's embedding and the one to logits, which are stem and head.
Adapted: layer norms stand where the paper has batch norms, as blocks keep no statistics of batches, and there is no
dropout. Several layers add up: ``h + u(z, level, image)``. Shapes: n samples, d width, k classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.backbone import forward
from oneblock.checks import check_fields, check_least
from oneblock.condition import Condition, Frames, told
from oneblock.models.layers import NoiseEmbedder

POOLINGS = 3
"""Convolutions of the image's embedding; each halves the sides and all but the first double the filters."""


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Shape of a CNN.

    Args:
        image_size: height and width of the (square) images in pixels, 8 or more.
        channels: of the images.
        num_classes: outputs.
        label_width: length of the vector in which the noisy label comes.
        depth: networks u.
        width: of the embeddings.
        filters: of the first convolution.
        levels: look at the noise level too.
    """

    image_size: int
    channels: int
    num_classes: int
    label_width: int
    depth: int
    width: int = 256
    filters: int = 32
    levels: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "channels", "num_classes", "label_width")
        if self.image_size < 2**POOLINGS:
            raise ValueError(f"image_size={self.image_size} is too small to halve {POOLINGS} times; use 8 or more")
        for name in ("depth", "width", "filters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} leaves nothing to compute with; use 1 or more")


class Modulation(NamedTuple):
    """What layers know besides h: images (n, c, h, w), and embeddings of the noisy label and, if levels are looked at,
    of the noise level, side by side (n, d or 2 d)."""

    images: Tensor
    label: Tensor


class NoisyCNN(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.2.``).
    """

    def __init__(self, config: CNNConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        self.stem = Stem(config)
        self.layers = nn.ModuleDict({str(i): Network(config) for i in built})
        self.head = Head(config)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """Noisy labels (n, label_width), noise conditioning (n,), ``Frames`` (n, c, h, w) -> logits (n, k)."""
        return forward(self, z, noise, condition)


class Stem(nn.Module):
    """Embeddings of the noisy label and of the noise level."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        d = config.width
        self.width = d
        self.first, self.second = nn.Linear(config.label_width, d), nn.Linear(d, d)
        self.norm_a, self.norm_b = nn.LayerNorm(d), nn.LayerNorm(d)
        self.noise = NoiseEmbedder(d) if config.levels else None

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Modulation]:
        """(n, label_width), (n,), ``Frames`` (n, c, h, w) -> h of zeros (n, d), modulation."""
        label = F.relu(self.norm_a(self.first(z)))
        label = label + self.norm_b(self.second(label))
        if self.noise is not None:
            label = torch.cat([label, self.noise(noise)], dim=-1)
        return z.new_zeros(len(z), self.width), Modulation(told(condition, Frames).values, label)


class Network(nn.Module):
    """A network u without its logits: convolutions, and two linear maps of all embeddings side by side."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        d, filters = config.width, [config.channels, *(config.filters * 2**i for i in range(POOLINGS))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(filters[i], filters[i + 1], kernel_size=3, padding=1) for i in range(POOLINGS)
        )
        self.embed = nn.Linear(filters[-1] * (config.image_size // 2**POOLINGS) ** 2, d)
        self.mix_a, self.mix_b = nn.Linear((3 if config.levels else 2) * d, d), nn.Linear(d, d)
        self.norm, self.norm_a, self.norm_b = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """(n, d), modulation -> (n, d)."""
        x = modulation.images
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        image = self.norm(self.embed(x.flatten(1)))
        u = F.relu(self.norm_a(self.mix_a(torch.cat([image, modulation.label], dim=-1))))
        out: Tensor = h + F.relu(self.norm_b(self.mix_b(u)))
        return out


class Head(nn.Module):
    """A linear map to logits; zero at the start."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.width, config.num_classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """(n, d), modulation -> logits (n, k)."""
        out: Tensor = self.out(h)
        return out
