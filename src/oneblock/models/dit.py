"""DiT: a transformer over image patches, conditioned on noise level and class.

Peebles and Xie, "Scalable Diffusion Models with Transformers", Section 3.2 (adaLN-zero blocks) and Table 1 (sizes),
https://arxiv.org/abs/2212.09748. Shapes: n samples, c channels, h x w pixels, t patches, d width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Shape of a DiT.

    Args:
        image_size: height and width of the (square) input in pixels or latent cells; ``patch`` must divide it.
        channels: of the input, and of the prediction.
        num_classes: labels are 0 .. num_classes - 1; label ``num_classes`` is the null class of guidance.
        depth, width, heads, patch, mlp_ratio: as in the paper; ``heads`` must divide ``width``.
    """

    image_size: int
    channels: int
    num_classes: int
    depth: int
    width: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.patch < 1 or self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}; use a divisor")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}; use a divisor")
        if self.width % 4:
            raise ValueError(f"width={self.width} is not a multiple of 4, which 2-D positions need")


class DiT(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.4.``).
    """

    def __init__(self, config: DiTConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        self.stem = Stem(config)
        self.layers = nn.ModuleDict({str(i): Layer(config) for i in built})
        self.head = Head(config)

    def forward(self, z: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """(n, c, h, w), noise conditioning (n,), labels (n,) -> prediction (n, c, h, w)."""
        h, condition = self.stem(z, noise, labels)
        for layer in self.layers.values():
            h = layer(h, condition)
        out: Tensor = self.head(h, condition)
        return out


class Stem(nn.Module):
    """Patches, positions, and the condition vector of noise level and class.

    Noise level and class start with about unit variance each. The paper's 0.02 leaves the modulations, which are linear
    in the condition and start at zero, next to nothing to work with; narrow networks then learn their class late
    (docs/log.md has the numbers).
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.num_classes = config.num_classes
        side = config.image_size // config.patch
        self.embed = nn.Linear(config.channels * config.patch**2, config.width)
        self.register_buffer("positions", positions_2d(side, config.width), persistent=False)
        self.noise = NoiseEmbedder(config.width)
        self.label = nn.Embedding(config.num_classes + 1, config.width)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        nn.init.normal_(self.label.weight)

    def forward(self, z: Tensor, noise: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c, h, w), (n,), (n,) -> tokens (n, t, d), condition (n, d)."""
        patches = rearrange(z, "n c (h p) (w q) -> n (h w) (c p q)", p=self.patch, q=self.patch)
        return self.embed(patches) + self.positions, self.noise(noise) + self.label(labels)


class NoiseEmbedder(nn.Module):
    """Sinusoids of the noise conditioning, then a two-layer perceptron.

    The conditioning ``ln(sigma) / 4`` spans less than 3 units. Wavelengths go from 16 units down to 1: shorter ones
    make the network's answer arbitrary at the ends of the range, where training draws almost nothing and where
    sampling starts (docs/log.md).
    """

    frequencies: Tensor

    def __init__(self, width: int, num_frequencies: int = 64) -> None:
        super().__init__()
        frequencies = 2 * math.pi * 2.0 ** torch.linspace(-4.0, 0.0, num_frequencies)
        self.register_buffer("frequencies", frequencies, persistent=False)
        first, second = nn.Linear(2 * num_frequencies, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)
        for linear in (first, second):
            nn.init.normal_(linear.weight, std=math.sqrt(2.0 / linear.in_features))
            nn.init.zeros_(linear.bias)

    def forward(self, noise: Tensor) -> Tensor:
        """(n,) -> (n, d)."""
        angles = noise[:, None].float() * self.frequencies
        out: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
        return out


class Layer(nn.Module):
    """A residual layer with adaLN-zero: attention, then a perceptron, each gated; the identity at the start."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        d, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.modulation = nn.Linear(d, 6 * d)
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(d, 3 * d)
        self.proj = nn.Linear(d, d)
        self.up = nn.Linear(d, hidden)
        self.down = nn.Linear(hidden, d)
        for linear in (self.qkv, self.proj, self.up, self.down):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Tokens (n, t, d), condition (n, d) -> tokens (n, t, d)."""
        modulation = self.modulation(F.silu(condition))[:, None]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=-1)
        h = h + gate_a * self.attention(self.norm(h) * (1 + scale_a) + shift_a)
        u = self.up(self.norm(h) * (1 + scale_m) + shift_m)
        out: Tensor = h + gate_m * self.down(F.gelu(u, approximate="tanh"))
        return out

    def attention(self, h: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(h), "n t (three heads e) -> three n heads t e", three=3, heads=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(rearrange(mixed, "n heads t e -> n t (heads e)"))
        return out


class Head(nn.Module):
    """Modulated norm and a linear map back to pixels; zero at the start."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        d = config.width
        self.patch, self.side = config.patch, config.image_size // config.patch
        self.modulation = nn.Linear(d, 2 * d)
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.out = nn.Linear(d, config.channels * config.patch**2)
        for linear in (self.modulation, self.out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Tokens (n, t, d), condition (n, d) -> (n, c, h, w)."""
        shift, scale = self.modulation(F.silu(condition))[:, None].chunk(2, dim=-1)
        patches = self.out(self.norm(h) * (1 + scale) + shift)
        p = self.patch
        return rearrange(patches, "n (h w) (c p q) -> n c (h p) (w q)", h=self.side, p=p, q=p)


def positions_2d(side: int, width: int) -> Tensor:
    """Fixed sine-cosine positions (side * side, width): half the width for the row, half for the column."""
    quarter = width // 4
    frequencies = 10_000.0 ** (-torch.arange(quarter) / quarter)
    angles = torch.arange(side)[:, None] * frequencies
    table = torch.cat([angles.sin(), angles.cos()], dim=-1)
    rows = table[:, None].expand(side, side, -1)
    columns = table[None, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)
