"""DiT: a transformer over image patches, conditioned on noise level and class.

Peebles and Xie, "Scalable Diffusion Models with Transformers", Section 3.2 (adaLN-zero blocks) and Table 1 (sizes),
https://arxiv.org/abs/2212.09748. With layers in its head it is a decoupled diffusion transformer (Wang et al., "DDT:
Decoupled Diffusion Transformer", Section 4, https://arxiv.org/abs/2504.05741): the network's layers are an encoder,
which says what each patch needs, and the head is a decoder of a few layers that sees the noisy patches anew.

Shapes: n samples, c channels, h x w pixels, t patches of p x p, d width, e width of the head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from oneblock.backbone import forward
from oneblock.checks import check_fields, check_least, check_number
from oneblock.condition import ClassIds, Condition, Until, told
from oneblock.models.layers import (
    LayerConfig,
    ModulatedLayer,
    NoiseEmbedder,
    by_token,
    check_positions,
    positions_2d,
)


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Shape of a DiT.

    Args:
        image_size: height and width of the (square) input in pixels or latent cells; ``patch`` must divide it.
        channels: of the input, and of the prediction.
        num_classes: labels are 0 .. num_classes - 1; label ``num_classes`` is the null class of guidance.
        depth, width, heads, patch, mlp_ratio: as in the paper; ``heads`` must divide ``width``.
        noise_scale: what the noise conditioning is multiplied by; see ``NoiseEmbedder`` for what it should span.
        head_layers: of the decoder in the head; 0 is a norm and a linear map.
        head_width: of the decoder, e; 0 is ``width``.
        jumps: whether it is told where its step ends (``Until``).
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
    head_layers: int = 0
    head_width: int = 0
    jumps: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "image_size", "channels", "depth", "width", "heads", "patch")
        check_least(self, 0, "num_classes", "head_layers", "head_width")
        for name in ("mlp_ratio", "noise_scale"):
            check_number(name, getattr(self, name), above=0)
        if self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}; use a divisor")
        if self.head_width and not self.head_layers:
            raise ValueError(f"head_width={self.head_width} goes with head_layers=1 or more; leave it out")
        if self.head_width % math.lcm(4, self.heads):
            raise ValueError(
                f"head_width={self.head_width} does not fit heads={self.heads} and 2-D positions; use a multiple of "
                f"{math.lcm(4, self.heads)}"
            )
        check_positions(self.width)
        _ = self.layer  # validates heads

    @property
    def layer(self) -> LayerConfig:
        return LayerConfig(width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio)

    @property
    def decoder(self) -> LayerConfig:
        """Of the layers in the head."""
        return LayerConfig(width=self.head_width or self.width, heads=self.heads, mlp_ratio=self.mlp_ratio)

    @property
    def end_layers(self) -> int:
        """How many of the network's layers the head works as much as, rounded up: a layer's work grows with the square
        of its width."""
        return math.ceil(self.head_layers * (self.decoder.width / self.width) ** 2)

    @property
    def patch_values(self) -> int:
        """Numbers of a patch."""
        return self.channels * self.patch**2


class Shown(NamedTuple):
    """What layers and a head with a decoder are told: the modulation by noise level and class (n, d), and the noisy
    patches (n, t, c p p) as the stem was shown them."""

    vector: Tensor
    patches: Tensor


class DiT(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.4.``).
    """

    def __init__(self, config: DiTConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        self.stem = Stem(config)
        kind = EncoderLayer if config.head_layers else ModulatedLayer
        self.layers = nn.ModuleDict({str(i): kind(config.layer) for i in built})
        self.head = DecoderHead(config) if config.head_layers else Head(config, config.width)

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
        self.decoded = config.head_layers > 0
        self.num_classes = config.num_classes
        side = config.image_size // config.patch
        self.embed = nn.Linear(config.patch_values, config.width)
        self.register_buffer("positions", positions_2d(side, config.width), persistent=False)
        self.noise = NoiseEmbedder(config.width)
        self.label = nn.Embedding(config.num_classes + 1, config.width)
        self.span = NoiseEmbedder(config.width) if config.jumps else None
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        nn.init.normal_(self.label.weight)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor | Shown]:
        """(n, c, h, w), (n,), ``ClassIds`` -> tokens (n, t, d), modulation (n, d), or ``Shown`` where the head is a
        decoder. Without classes all are the null class, whatever the condition. A step that nothing is said of ends
        where it begins."""
        ends = noise
        if isinstance(condition, Until) and self.span is not None:
            ends, condition = condition.level, condition.condition
        ids = told(condition, ClassIds).ids if self.num_classes else z.new_zeros(len(z), dtype=torch.int64)
        patches = rearrange(z, "n c (h p) (w q) -> n (h w) (c p q)", p=self.patch, q=self.patch)
        modulation: Tensor = self.noise(noise * self.noise_scale) + self.label(ids)
        if self.span is not None:
            modulation = modulation + self.span((noise - ends) * self.noise_scale)
        return self.embed(patches) + self.positions, Shown(modulation, patches) if self.decoded else modulation


class EncoderLayer(ModulatedLayer):
    """A layer of a network whose head is a decoder."""

    def forward(self, h: Tensor, modulation: Shown) -> Tensor:  # type: ignore[override]
        return super().forward(h, modulation.vector)


class Head(nn.Module):
    """Modulated norm and a linear map back to pixels; zero at the start."""

    def __init__(self, config: DiTConfig, d: int) -> None:
        super().__init__()
        self.patch, self.side = config.patch, config.image_size // config.patch
        self.modulation = nn.Linear(d, 2 * d)
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.out = nn.Linear(d, config.patch_values)
        for linear in (self.modulation, self.out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (n, t, d), modulation (n, d), or (n, t, d) of each token -> (n, c, h, w)."""
        shift, scale = by_token(self.modulation(F.silu(modulation))).chunk(2, dim=-1)
        patches = self.out(self.norm(h) * (1 + scale) + shift)
        p = self.patch
        return rearrange(patches, "n (h w) (c p q) -> n c (h p) (w q)", h=self.side, p=p, q=p)


class DecoderHead(nn.Module):
    """A decoder of the noisy patches, each modulated by what the layers say of it.

    ``s = W SiLU(modulation + h)`` (n, t, e) modulates every layer of the decoder and its end, token by token (Wang et
    al., Section 4.2). All of it belongs to the head: the patches' second embedding, ``W``, the decoder's layers, and
    the norm and map back to pixels. So every block of a blockwise run has a decoder of its own, and a sample's work in
    it is counted beside that of its layers (``DiTConfig.end_layers``).
    """

    positions: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        e, side = config.decoder.width, config.image_size // config.patch
        self.embed = nn.Linear(config.patch_values, e)
        self.register_buffer("positions", positions_2d(side, e), persistent=False)
        self.told = nn.Linear(config.width, e)
        self.layers = nn.ModuleList(ModulatedLayer(config.decoder) for _ in range(config.head_layers))
        self.end = Head(config, e)
        for linear in (self.embed, self.told):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor, modulation: Shown) -> Tensor:
        """Tokens (n, t, d) of the last layer -> (n, c, h, w)."""
        s = self.told(F.silu(by_token(modulation.vector) + h))
        decoded = self.embed(modulation.patches) + self.positions
        for layer in self.layers:
            decoded = layer(decoded, s)
        out: Tensor = self.end(decoded, s)
        return out
