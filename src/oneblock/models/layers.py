"""Layers that backbones share: plain and modulated residual layers, positions, and the embedding of the noise level.

Dosovitskiy et al., "An Image is Worth 16x16 Words", Equations 2 and 3 (pre-norm layers), https://arxiv.org/abs/2010.11929;
Peebles and Xie, "Scalable Diffusion Models with Transformers", Section 3.2 (adaLN-zero), https://arxiv.org/abs/2212.09748.
Shapes: n samples, t tokens, d width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """Shape of a layer; ``heads`` must divide ``width``, the perceptron is ``mlp_ratio`` times as wide."""

    width: int
    heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}; use a divisor")


class Layer(nn.Module):
    """``h + attention(norm(h))``, then ``h + perceptron(norm(h))`` with exact GELU.

    Backward needs 16 vectors of width d per token, with the usual ``mlp_ratio`` of 4: two inputs of norms, their two
    outputs, q, k, v and their mixture, and four each before and after GELU. Those after GELU are computed again from
    those before it, which takes no matrix product, so 12 are kept.
    """

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        d, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.norm_a, self.norm_m = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.qkv = nn.Linear(d, 3 * d)
        self.proj = nn.Linear(d, d)
        self.up = nn.Linear(d, hidden)
        self.down = nn.Linear(hidden, d)

    def forward(self, h: Tensor) -> Tensor:
        """Tokens (n, t, d) -> tokens (n, t, d)."""
        h = h + self.attention(self.norm_a(h))
        return h + self.perceptron(self.norm_m(h))

    def attention(self, h: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(h), "n t (three heads e) -> three n heads t e", three=3, heads=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(rearrange(mixed, "n heads t e -> n t (heads e)"))
        return out

    def perceptron(self, h: Tensor) -> Tensor:
        u = self.up(h)
        if not torch.is_grad_enabled():
            return self._down(u)
        # the recomputation stops before the product, at the tensor that it is there for
        out: Tensor = checkpoint(self._down, u, use_reentrant=False, preserve_rng_state=False)
        return out

    def _down(self, u: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(u))
        return out


class ModulatedLayer(nn.Module):
    """A residual layer with adaLN-zero: attention, then a perceptron, each gated; the identity at the start."""

    def __init__(self, config: LayerConfig) -> None:
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

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (n, t, d), modulation (n, d), or (n, t, d) of each token -> tokens (n, t, d)."""
        parts = by_token(self.modulation(F.silu(modulation)))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts.chunk(6, dim=-1)
        h = h + gate_a * self.attention(self.norm(h) * (1 + scale_a) + shift_a)
        u = self.up(self.norm(h) * (1 + scale_m) + shift_m)
        out: Tensor = h + gate_m * self.down(F.gelu(u, approximate="tanh"))
        return out

    def attention(self, h: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(h), "n t (three heads e) -> three n heads t e", three=3, heads=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(rearrange(mixed, "n heads t e -> n t (heads e)"))
        return out


def by_token(modulation: Tensor) -> Tensor:
    """A modulation of samples (n, d) as that of all of their tokens (n, 1, d); one of tokens (n, t, d) as it is."""
    return modulation[:, None] if modulation.ndim == 2 else modulation


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
        """(n, ...) -> (n, ..., d)."""
        angles = noise[..., None].float() * self.frequencies
        out: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
        return out


def positions_1d(count: int, width: int) -> Tensor:
    """Fixed sine-cosine positions (count, width) of a sequence; ``width`` is even."""
    half = width // 2
    frequencies = 10_000.0 ** (-torch.arange(half) / half)
    angles = torch.arange(count)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def positions_2d(side: int, width: int) -> Tensor:
    """Fixed sine-cosine positions (side * side, width): half the width for the row, half for the column."""
    table = positions_1d(side, width // 2)
    rows = table[:, None].expand(side, side, -1)
    columns = table[None, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)


def check_positions(width: int) -> None:
    """Refuse a width that ``positions_2d`` cannot fill."""
    if width % 4:
        raise ValueError(f"width={width} is not a multiple of 4, which 2-D positions need")
