"""ViT: a classifier of images whose class token also reads a noisy label.

Dosovitskiy et al., "An Image is Worth 16x16 Words", Equations 1 to 4, https://arxiv.org/abs/2010.11929; the noisy label
as a further token after class token and patches, and as released in the class token's place: Shing et al.,
"DiffusionBlocks", Appendix E.1, https://arxiv.org/abs/2506.14202. Shapes: n samples, t tokens, d width, k classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from oneblock.backbone import forward
from oneblock.checks import check_fields, check_least, check_number
from oneblock.condition import Condition, Frames, told
from oneblock.models.layers import (
    Layer,
    LayerConfig,
    ModulatedLayer,
    NoiseEmbedder,
    check_positions,
    positions_2d,
)
from oneblock.precondition import Precondition

NoisyToken = Literal["separate", "class", "none"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of a ViT.

    Args:
        image_size: height and width of the (square) images in pixels; ``patch`` must divide it.
        channels: of the images.
        num_classes: outputs.
        label_width: length of the vector in which the noisy label comes.
        noisy_token: the noisy label is a token of its own (``"separate"``), stands in the class token's place
            (``"class"``), or is not looked at (``"none"``: an ordinary ViT).
        modulated: layers are modulated by the noise level (adaLN-zero); otherwise the level is added to the noisy
            token.
        skip_sigma_data: above 0, the class token after its norm is taken for the network's part of an EDM denoiser of
            data with this standard deviation, and the classifier reads ``c_skip z + c_out token`` (the released code of
            DiffusionBlocks); needs ``label_width = width``.
        depth, width, heads, patch, mlp_ratio: as in the paper; ``heads`` must divide ``width``.
    """

    image_size: int
    channels: int
    num_classes: int
    label_width: int
    depth: int
    width: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0
    noisy_token: NoisyToken = "separate"
    modulated: bool = False
    skip_sigma_data: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "image_size", "channels", "num_classes", "label_width", "depth", "width", "heads", "patch")
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        check_number("skip_sigma_data", self.skip_sigma_data, least=0)
        if self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}; use a divisor")
        check_positions(self.width)
        if self.noisy_token == "none" and (self.modulated or self.skip_sigma_data):
            raise ValueError(
                f"noisy_token='none' with modulated={self.modulated}, skip_sigma_data={self.skip_sigma_data}: both "
                "need the noisy label; use noisy_token='separate' or 'class', or an ordinary ViT without them"
            )
        if self.skip_sigma_data and self.label_width != self.width:
            raise ValueError(f"label_width={self.label_width} is not width={self.width}, which skip_sigma_data needs")
        _ = self.layer  # validates heads

    @property
    def layer(self) -> LayerConfig:
        return LayerConfig(width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio)


class Modulation(NamedTuple):
    """What layers and head know besides the tokens: the noise level (n, d) embedded, the noisy label (n, label_width)
    as it came in, and the noise conditioning (n,)."""

    level: Tensor
    z: Tensor
    noise: Tensor


class ViT(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.4.``).
    """

    def __init__(self, config: ViTConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        kind = LevelLayer if config.modulated else TokenLayer
        self.stem = Stem(config)
        self.layers = nn.ModuleDict({str(i): kind(config.layer) for i in built})
        self.head = Head(config)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """Noisy labels (n, label_width), noise conditioning (n,), ``Frames`` (n, c, h, w) -> logits (n, k)."""
        return forward(self, z, noise, condition)


class TokenLayer(Layer):
    """A plain layer: the tokens hold all that it needs to know."""

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:  # type: ignore[override]
        return super().forward(h)


class LevelLayer(ModulatedLayer):
    """A layer modulated by the noise level."""

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:  # type: ignore[override]
        return super().forward(h, modulation.level)


class Stem(nn.Module):
    """Class token, patches with fixed positions, and the noisy label."""

    class_token: Tensor
    positions: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.embed = nn.Linear(config.channels * config.patch**2, d)
        self.register_buffer("positions", positions_2d(config.image_size // config.patch, d), persistent=False)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        if config.noisy_token != "class":
            self.class_token = nn.Parameter(torch.randn(d) * 0.02)
        if config.noisy_token != "none":
            self.label = nn.Linear(config.label_width, d)
            self.noise = NoiseEmbedder(d)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Modulation]:
        """(n, label_width), (n,), ``Frames`` (n, c, h, w) -> tokens (n, t, d), modulation."""
        images = told(condition, Frames).values
        p = self.config.patch
        patches = self.embed(rearrange(images, "n c (h p) (w q) -> n (h w) (c p q)", p=p, q=p)) + self.positions
        if self.config.noisy_token == "none":
            return torch.cat([self._class(patches), patches], dim=1), Modulation(noise, z, noise)
        level = self.noise(noise)
        label = self.label(z)
        token = (label if self.config.modulated else label + level)[:, None]
        parts = [token, patches] if self.config.noisy_token == "class" else [self._class(patches), patches, token]
        return torch.cat(parts, dim=1), Modulation(level, z, noise)

    def _class(self, patches: Tensor) -> Tensor:
        return self.class_token.to(patches.dtype).expand(len(patches), 1, -1)


class Head(nn.Module):
    """Norm of the class token (Equation 4) and a linear map to logits; zero at the start."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        d = config.width
        self.skip = Precondition(config.skip_sigma_data) if config.skip_sigma_data else None
        self.norm = nn.LayerNorm(d, eps=1e-6)
        self.modulation = nn.Linear(d, 2 * d) if config.modulated else None
        self.out = nn.Linear(d, config.num_classes)
        for linear in (self.out, self.modulation):
            if linear is not None:
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (n, t, d), modulation -> logits (n, k)."""
        token = self.norm(h[:, 0])
        if self.skip is not None:
            sigma = torch.exp(4.0 * modulation.noise)[:, None]  # c_noise undone
            z = modulation.z / self.skip.c_in(sigma)
            token = self.skip.c_skip(sigma) * z + self.skip.c_out(sigma) * token
        if self.modulation is not None:
            shift, scale = self.modulation(nn.functional.silu(modulation.level)).chunk(2, dim=-1)
            token = token * (1 + scale) + shift
        out: Tensor = self.out(token)
        return out
