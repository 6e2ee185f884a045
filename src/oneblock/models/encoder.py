"""Encoder: a transformer that sees a masked sequence whole and says what stands at every place.

The network of masked diffusion (Sahoo et al., "Simple and Effective Masked Diffusion Language Models", Section 3.2,
https://arxiv.org/abs/2406.07524; Shi et al., "Simplified and Generalized Masked Diffusion for Discrete Data",
https://arxiv.org/abs/2406.04329): a DiT over tokens with rotary positions, modulated by the noise level. Shapes: n
samples, t tokens, d width, v symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oneblock.backbone import forward
from oneblock.checks import check_fields, check_least
from oneblock.condition import Condition
from oneblock.models.layers import NoiseEmbedder
from oneblock.models.rotary import RotaryConfig, RotaryLayer, Rotation, rotation, usual_hidden


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of an encoder.

    Args:
        vocabulary: symbols v; the symbol ``vocabulary`` stands for a masked place.
        context: tokens of the longest sequence.
        depth, width, heads: ``heads`` must divide ``width`` into even parts.
        kv_heads: heads of keys and values; 0 is ``heads``.
    """

    vocabulary: int
    context: int
    depth: int
    width: int
    heads: int
    kv_heads: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "width", "heads")
        check_least(self, 0, "kv_heads")
        for name in ("vocabulary", "context", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} leaves nothing to learn; use 1 or more")
        _ = self.layer  # validates heads

    @property
    def layer(self) -> RotaryConfig:
        return RotaryConfig(
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            hidden=usual_hidden(self.width),
            modulated=True,
        )


class Modulation(NamedTuple):
    """What layers and head know besides the tokens: the noise level (n, d) embedded, and the turns of the positions."""

    level: Tensor
    by: Rotation


class Encoder(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.4.``).
    """

    def __init__(self, config: EncoderConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        self.stem = Stem(config)
        self.layers = nn.ModuleDict({str(i): Layer(config.layer) for i in built})
        self.head = Head(config)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """Masked tokens (n, t), noise conditioning (n,); the condition is not looked at -> logits (n, t, v)."""
        return forward(self, z, noise, condition)


class Stem(nn.Module):
    """Embeddings of the tokens, and of the noise level."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary + 1, config.width)
        self.noise = NoiseEmbedder(config.width)
        nn.init.normal_(self.embed.weight, std=1.0)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Modulation]:
        """(n, t), (n,) -> tokens (n, t, d), modulation."""
        length = z.shape[1]
        if length > self.config.context:
            raise ValueError(
                f"the sequence has {length} tokens, but the network was made for {self.config.context}; cut it"
            )
        by = rotation(torch.arange(length, device=z.device), self.config.width // self.config.heads)
        return self.embed(z), Modulation(self.noise(noise), by)


class Layer(RotaryLayer):
    """A layer in which every token sees every other."""

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:  # type: ignore[override]
        return super().forward(h, modulation.by, level=modulation.level)


class Head(nn.Module):
    """Modulated norm and a linear map to logits; zero at the start."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.width
        self.norm = nn.RMSNorm(d, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(d, 2 * d)
        self.out = nn.Linear(d, config.vocabulary)
        for linear in (self.modulation, self.out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (n, t, d) -> logits (n, t, v)."""
        shift, scale = self.modulation(nn.functional.silu(modulation.level))[:, None].chunk(2, dim=-1)
        out: Tensor = self.out(self.norm(h) * (1 + scale) + shift)
        return out
