"""DiT: a transformer over image patches, conditioned on noise level and on a class or a caption.

Peebles and Xie, "Scalable Diffusion Models with Transformers", Section 3.2 (adaLN-zero blocks, in-context conditioning)
and Table 1 (sizes), https://arxiv.org/abs/2212.09748. With layers in its head it is a decoupled diffusion transformer
(Wang et al., "DDT: Decoupled Diffusion Transformer", Section 4, https://arxiv.org/abs/2504.05741): the network's layers
are an encoder, which says what each patch needs, and the head is a decoder of a few layers that sees the noisy patches
anew.

A class goes into the modulation. The tokens of a caption stand in the sequence behind the patches, so that layers are
the same for both; their sum, over the root of their number, goes into the modulation too. A place where no token counts
has a learned vector of its own: sequences have one length and attention needs no mask.

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
from oneblock.condition import ClassIds, Condition, Tokens, Until, told
from oneblock.models.layers import (
    LayerConfig,
    ModulatedLayer,
    NoiseEmbedder,
    by_token,
    check_positions,
    positions_1d,
    positions_2d,
)


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Shape of a DiT.

    Args:
        image_size: height and width of the (square) input in pixels or latent cells; ``patch`` must divide it.
        channels: of the input, and of the prediction.
        num_classes: labels are 0 .. num_classes - 1; label ``num_classes`` is the null class of guidance.
        tokens: of a caption, at most; 0 where the network is told a class or nothing.
        vocabulary: token ids are 0 .. vocabulary - 1.
        token_width: width of the vectors that tokens are where they are not ids.
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
    tokens: int = 0
    vocabulary: int = 0
    token_width: int = 0
    noise_scale: float = 1.0
    head_layers: int = 0
    head_width: int = 0
    jumps: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "image_size", "channels", "depth", "width", "heads", "patch")
        check_least(self, 0, "num_classes", "tokens", "vocabulary", "token_width", "head_layers", "head_width")
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
        _check_told(self)
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


def _check_told(config: DiTConfig) -> None:
    """Refuse two kinds of conditions, and half of one."""
    if config.tokens and config.num_classes:
        raise ValueError(
            f"num_classes={config.num_classes} and tokens={config.tokens}: the network is told a class or a caption; "
            "set one of them to 0"
        )
    if (config.vocabulary > 0) + (config.token_width > 0) != (config.tokens > 0):
        raise ValueError(
            f"tokens={config.tokens}, vocabulary={config.vocabulary}, token_width={config.token_width} do not go "
            "together; captions need tokens, and either a vocabulary or a token_width"
        )


class DiT(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.4.``).
    """

    def __init__(self, config: DiTConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        self.stem = CaptionStem(config) if config.tokens else Stem(config)
        kind = EncoderLayer if config.head_layers else ModulatedLayer
        self.layers = nn.ModuleDict({str(i): kind(config.layer) for i in built})
        self.head = DecoderHead(config) if config.head_layers else Head(config, config.width)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(n, c, h, w), noise conditioning (n,), ``ClassIds`` or ``Tokens`` -> prediction (n, c, h, w)."""
        return forward(self, z, noise, condition)


class Patches(nn.Module):
    """Images as tokens, and the noise level: what every stem begins with."""

    positions: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch, self.noise_scale = config.patch, config.noise_scale
        self.decoded = config.head_layers > 0
        side = config.image_size // config.patch
        self.embed = nn.Linear(config.patch_values, config.width)
        self.register_buffer("positions", positions_2d(side, config.width), persistent=False)
        self.noise = NoiseEmbedder(config.width)
        self.span = NoiseEmbedder(config.width) if config.jumps else None

    def start(self) -> None:
        """Draw the weights of the patches; a stem does so when all its parts are there."""
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)

    def cut(self, z: Tensor) -> Tensor:
        """(n, c, h, w) -> patches (n, t, c p p)."""
        return rearrange(z, "n c (h p) (w q) -> n (h w) (c p q)", p=self.patch, q=self.patch)

    def enter(self, patches: Tensor) -> Tensor:
        """Patches -> tokens (n, t, d)."""
        tokens: Tensor = self.embed(patches) + self.positions
        return tokens

    def step(self, noise: Tensor, condition: Condition) -> tuple[Tensor, Condition]:
        """How long the step is that is asked for, in noise conditioning (n,), and what else is told; a step that
        nothing is said of ends where it begins."""
        if isinstance(condition, Until) and self.span is not None:
            return noise - condition.level, condition.condition
        return torch.zeros_like(noise), condition

    def shown(self, noise: Tensor, span: Tensor, told: Tensor, patches: Tensor) -> Tensor | Shown:
        """The modulation (n, d) by noise level (n,), length of the step (n,) and class or caption ``told`` (n, d), with
        the patches where the head is a decoder."""
        modulation: Tensor = self.noise(noise * self.noise_scale) + told
        if self.span is not None:
            modulation = modulation + self.span(span * self.noise_scale)
        return Shown(modulation, patches) if self.decoded else modulation


class Stem(Patches):
    """Patches, positions, and the modulation by noise level and class.

    Noise level and class start with about unit variance each. The paper's 0.02 leaves the modulations, which are linear
    in it and start at zero, next to nothing to work with; narrow networks then learn their class late
    (docs/log.md has the numbers).
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        self.label = nn.Embedding(config.num_classes + 1, config.width)
        self.start()
        nn.init.normal_(self.label.weight)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor | Shown]:
        """(n, c, h, w), (n,), ``ClassIds`` -> tokens (n, t, d), modulation (n, d), or ``Shown`` where the head is a
        decoder. Without classes all are the null class, whatever the condition."""
        span, condition = self.step(noise, condition)
        ids = told(condition, ClassIds).ids if self.num_classes else z.new_zeros(len(z), dtype=torch.int64)
        patches = self.cut(z)
        return self.enter(patches), self.shown(noise, span, self.label(ids), patches)


class CaptionStem(Patches):
    """Patches and the tokens of a caption as one sequence, and the modulation by noise level and caption.

    Tokens start with about unit variance each, as the class of ``Stem`` does, and so does what goes into the
    modulation.
    """

    places: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        d = config.width
        self.tokens = config.tokens
        self.register_buffer("places", positions_1d(config.tokens, d), persistent=False)
        self.token = nn.Embedding(config.vocabulary, d) if config.vocabulary else nn.Linear(config.token_width, d)
        self.absent = nn.Parameter(torch.randn(d))
        self.start()
        if config.vocabulary:
            nn.init.normal_(self.token.weight)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor | Shown]:
        """(n, c, h, w), (n,), ``Tokens`` of at most ``tokens`` places -> patches and tokens (n, t + tokens, d),
        modulation as of ``Stem``. Captions of which no token counts all are the null caption."""
        span, condition = self.step(noise, condition)
        vectors, counts = self._read(told(condition, Tokens))
        held = counts[..., None]
        pooled = torch.where(held, vectors, 0.0).sum(1) / counts.sum(1, keepdim=True).clamp(min=1).sqrt()
        caption = torch.where(held, vectors, self.absent) + self.places
        patches = self.cut(z)
        return torch.cat([self.enter(patches), caption], dim=1), self.shown(noise, span, pooled, patches)

    def _read(self, text: Tokens) -> tuple[Tensor, Tensor]:
        """Vectors (n, tokens, d) of a text, and where they count, bool (n, tokens)."""
        values, length = text.values, text.values.shape[1]
        if length > self.tokens:
            raise ValueError(f"the captions have {length} tokens, but the network was made for {self.tokens}; cut them")
        if values.is_floating_point() == isinstance(self.token, nn.Embedding):
            needed = "ids" if isinstance(self.token, nn.Embedding) else "vectors of a text encoder"
            raise ValueError(f"the tokens of the captions are {values.dtype}; this network needs {needed}")
        values = values.to(self.token.weight.dtype) if values.is_floating_point() else values
        mask = values.new_ones(values.shape[:2], dtype=torch.bool) if text.mask is None else text.mask
        missing = self.tokens - length
        return F.pad(self.token(values), (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False)


class EncoderLayer(ModulatedLayer):
    """A layer of a network whose head is a decoder."""

    def forward(self, h: Tensor, modulation: Shown) -> Tensor:  # type: ignore[override]
        return super().forward(h, modulation.vector)


class Head(nn.Module):
    """Modulated norm and a linear map back to pixels; zero at the start."""

    def __init__(self, config: DiTConfig, d: int) -> None:
        super().__init__()
        self.patch, self.side = config.patch, config.image_size // config.patch
        self.behind = config.tokens
        self.modulation = nn.Linear(d, 2 * d)
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.out = nn.Linear(d, config.patch_values)
        for linear in (self.modulation, self.out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (n, t, d), behind which those of a caption may stand, modulation (n, d), or (n, t, d) of each token
        -> (n, c, h, w)."""
        h = h[:, : self.side**2] if self.behind else h
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
        """Tokens (n, t, d) of the last layer, behind which those of a caption may stand -> (n, c, h, w)."""
        h = h[:, : modulation.patches.shape[1]]
        s = self.told(F.silu(by_token(modulation.vector) + h))
        decoded = self.embed(modulation.patches) + self.positions
        for layer in self.layers:
            decoded = layer(decoded, s)
        out: Tensor = self.end(decoded, s)
        return out
