"""ViT: the layers of a vision transformer.

Dosovitskiy et al., "An Image is Worth 16x16 Words", Equations 2 and 3 (pre-norm layers) and Table 1 (ViT-Base:
12 layers of width 768 with 12 heads), https://arxiv.org/abs/2010.11929. Shapes: n samples, t tokens, d width.
"""

from __future__ import annotations

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
