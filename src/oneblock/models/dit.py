"""DiT: a transformer over image patches, conditioned on noise level and class.

Peebles and Xie, "Scalable Diffusion Models with Transformers", Section 3.2 (adaLN-zero blocks) and Table 1 (sizes),
https://arxiv.org/abs/2212.09748. Shapes: n samples, c channels, h x w pixels, t patches, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from oneblock.backbone import forward
from oneblock.checks import check_fields, check_least, check_number
from oneblock.condition import ClassIds, Condition, told
from oneblock.models.layers import LayerConfig, ModulatedLayer, NoiseEmbedder, check_positions, positions_2d


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Shape of a DiT.

    Args:
        image_size: height and width of the (square) input in pixels or latent cells; ``patch`` must divide it.
        channels: of the input, and of the prediction.
        num_classes: labels are 0 .. num_classes - 1; label ``num_classes`` is the null class of guidance.
        depth, width, heads, patch, mlp_ratio: as in the paper; ``heads`` must divide ``width``.
        noise_scale: what the noise conditioning is multiplied by; see ``NoiseEmbedder`` for what it should span.
    """

    image_size: int
    channels: int
    num_classes: int
    depth: int
    width: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "image_size", "channels", "depth", "width", "heads", "patch")
        check_least(self, 0, "num_classes")
        for name in ("mlp_ratio", "noise_scale"):
            check_number(name, getattr(self, name), above=0)
        if self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}; use a divisor")
        check_positions(self.width)
        _ = self.layer  # validates heads

    @property
    def layer(self) -> LayerConfig:
        return LayerConfig(width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio)


class DiT(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.4.``).
    """

    def __init__(self, config: DiTConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        self.stem = Stem(config)
        self.layers = nn.ModuleDict({str(i): ModulatedLayer(config.layer) for i in built})
        self.head = Head(config)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(n, c, h, w), noise conditioning (n,), ``ClassIds`` -> prediction (n, c, h, w)."""
        return forward(self, z, noise, condition)


class Stem(nn.Module):
    """Patches, positions, and the modulation by noise level and class.

    Noise level and class start with about unit variance each. The paper's 0.02 leaves the modulations, which are linear
    in it and start at zero, next to nothing to work with; narrow networks then learn their class late
    (docs/log.md has the numbers).
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.noise_scale = config.noise_scale
        self.num_classes = config.num_classes
        side = config.image_size // config.patch
        self.embed = nn.Linear(config.channels * config.patch**2, config.width)
        self.register_buffer("positions", positions_2d(side, config.width), persistent=False)
        self.noise = NoiseEmbedder(config.width)
        self.label = nn.Embedding(config.num_classes + 1, config.width)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        nn.init.normal_(self.label.weight)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """(n, c, h, w), (n,), ``ClassIds`` -> tokens (n, t, d), modulation (n, d). Without classes all are the null
        class, whatever the condition."""
        ids = told(condition, ClassIds).ids if self.num_classes else z.new_zeros(len(z), dtype=torch.int64)
        patches = rearrange(z, "n c (h p) (w q) -> n (h w) (c p q)", p=self.patch, q=self.patch)
        return self.embed(patches) + self.positions, self.noise(noise * self.noise_scale) + self.label(ids)


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

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (n, t, d), modulation (n, d) -> (n, c, h, w)."""
        shift, scale = self.modulation(F.silu(modulation))[:, None].chunk(2, dim=-1)
        patches = self.out(self.norm(h) * (1 + scale) + shift)
        p = self.patch
        return rearrange(patches, "n (h w) (c p q) -> n c (h p) (w q)", h=self.side, p=p, q=p)
