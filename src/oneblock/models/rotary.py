"""Layers of language models: root-mean-square norms, rotary positions, grouped queries, gated perceptrons.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", Section 2.2 (pre-norm, RMSNorm, SwiGLU, rotary
positions), https://arxiv.org/abs/2302.13971; Su et al., "RoFormer", Equation 34, https://arxiv.org/abs/2104.09864;
Ainslie et al., "GQA", Section 2.2, https://arxiv.org/abs/2305.13245. Shapes: n samples, t tokens, d width, e = d /
heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from oneblock.ops import Attend, full

BASE = 10_000.0
"""Of the rotary frequencies."""


@dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """Shape of a layer.

    Args:
        width, heads: ``heads`` must divide ``width`` into even parts.
        kv_heads: heads of keys and values, each shared by ``heads / kv_heads`` queries; must divide ``heads``.
        hidden: width of the gated perceptron.
        modulated: shift, scale and gate follow from the noise level (adaLN-zero).
    """

    width: int
    heads: int
    kv_heads: int
    hidden: int
    modulated: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"heads={self.heads} does not divide width={self.width} into even parts, which rotary positions need; "
                "use another number of heads"
            )
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}; use a divisor")


def usual_hidden(width: int) -> int:
    """``8/3`` of the width, rounded up to a multiple of 8: as many weights as a plain perceptron of four widths."""
    return 8 * -(-width // 3)


class Rotation(NamedTuple):
    """Cosines and sines (t, e / 2) of the angles of t positions."""

    cos: Tensor
    sin: Tensor


def rotation(positions: Tensor, size: int) -> Rotation:
    """Angles ``position / BASE^(2 i / size)`` for i < size / 2, of ``positions`` (t,)."""
    frequencies = BASE ** (-torch.arange(0, size, 2, device=positions.device) / size)
    angles = positions[:, None].float() * frequencies
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn the pairs ``(x_i, x_(i + e / 2))`` of ``x`` (..., t, e) by their angles."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = by.cos.to(x.dtype), by.sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class RotaryLayer(nn.Module):
    """``h + attention(norm(h))``, then ``h + perceptron(norm(h))``."""

    def __init__(self, config: RotaryConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        e = d // config.heads
        self.norm_a = nn.RMSNorm(d, eps=1e-6, elementwise_affine=not config.modulated)
        self.norm_m = nn.RMSNorm(d, eps=1e-6, elementwise_affine=not config.modulated)
        self.q = nn.Linear(d, d, bias=False)
        self.kv = nn.Linear(d, 2 * config.kv_heads * e, bias=False)
        self.proj = nn.Linear(d, d, bias=False)
        self.gate_up = nn.Linear(d, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, d, bias=False)
        for linear in (self.q, self.kv, self.proj, self.gate_up, self.down):
            nn.init.normal_(linear.weight, std=d**-0.5 if linear is not self.down else config.hidden**-0.5)
        self.modulation = nn.Linear(d, 6 * d) if config.modulated else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        else:
            nn.init.zeros_(self.proj.weight)
            nn.init.zeros_(self.down.weight)

    def forward(self, h: Tensor, by: Rotation, attend: Attend = full, level: Tensor | None = None) -> Tensor:
        """Tokens (n, t, d) -> tokens (n, t, d).

        Args:
            by: of the positions of the tokens.
            attend: which keys a query sees (``ops.attention``).
            level: (n, d), the noise level embedded, when modulated.
        """
        if self.modulation is None:
            h = h + self.attention(self.norm_a(h), by, attend)
            return h + self.perceptron(self.norm_m(h))
        assert level is not None, "a modulated layer needs the noise level"
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(F.silu(level))[:, None].chunk(6, dim=-1)
        h = h + gate_a * self.attention(self.norm_a(h) * (1 + scale_a) + shift_a, by, attend)
        out: Tensor = h + gate_m * self.perceptron(self.norm_m(h) * (1 + scale_m) + shift_m)
        return out

    def attention(self, h: Tensor, by: Rotation, attend: Attend) -> Tensor:
        q = rotate(rearrange(self.q(h), "n t (heads e) -> n heads t e", heads=self.config.heads), by)
        k, v = self.keys_values(h, by)
        out: Tensor = self.proj(rearrange(attend(q, k, v), "n heads t e -> n t (heads e)"))
        return out

    def keys_values(self, h: Tensor, by: Rotation) -> tuple[Tensor, Tensor]:
        """Keys, turned, and values (n, kv_heads, t, e) of normed tokens (n, t, d)."""
        k, v = rearrange(self.kv(h), "n t (two heads e) -> two n heads t e", two=2, heads=self.config.kv_heads)
        return rotate(k, by), v

    def perceptron(self, h: Tensor) -> Tensor:
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out
