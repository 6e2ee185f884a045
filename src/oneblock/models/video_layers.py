"""Layers of video networks: attention over blocks of frames, cross-attention, and a perceptron with convolutions.

Chen et al., "SANA-Video", Section 3, https://arxiv.org/abs/2509.24695: linear attention with turned keys and a mixed
feed-forward whose last part convolves over time. Frames come in blocks; a frame sees its own block and those before it.
All frames at once, or one block after the other with what a layer remembers (``Memory``), give the same answers.
Shapes: n samples, f frames of y x x places, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from oneblock.ops import AttentionState, BlockAttention, Rope, relu_linear_attention, softmax_attention, turned

Attention = Literal["linear", "softmax"]
RopeOrder = Literal["after", "before", "none"]
ATTENTIONS: dict[Attention, BlockAttention] = {
    "linear": cast(BlockAttention, relu_linear_attention),
    "softmax": cast(BlockAttention, softmax_attention),
}


@dataclass(frozen=True, kw_only=True)
class VideoLayerConfig:
    """Shape of a layer.

    Args:
        width, heads: ``heads`` must divide ``width`` into parts that are even where places are turned.
        mlp_ratio: the perceptron is so many times as wide, twice, as one half gates the other.
        attention: linear, or softmax over all that was kept.
        rope: queries and keys are turned by their place after the ReLU, before it, or not at all.
        temporal: whether the perceptron ends in a convolution over time.
        window: how many blocks before its own a frame sees; None is all.
        context: whether there is something to attend to besides the frames.
    """

    width: int
    heads: int
    mlp_ratio: float = 3.0
    attention: Attention = "linear"
    rope: RopeOrder = "after"
    temporal: bool = True
    window: int | None = None
    context: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}; use a divisor")
        if self.rope != "none" and self.head_width % 2:
            raise ValueError(
                f"heads={self.heads} leaves {self.head_width} channels to a head of width={self.width}, and pairs of "
                "channels are turned; use heads of an even width"
            )

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Modulation(NamedTuple):
    """What layers and head know besides the hidden state.

    Args:
        level: (n, f, d), or (n, 1, d) of one level for all frames: the noise level embedded.
        shared: (n, f, 6, d) or (n, 1, 6, d), its six vectors for all layers.
        context: (n, l, d), what is attended to, with ``mask`` (n, l), True where it counts.
        rope: of all places of the frames of one stream.
        blocks: frames of each block of one stream.
        two: the first half of the frames is clean, the second the same frames with noise.
    """

    level: Tensor
    shared: Tensor
    context: Tensor | None
    mask: Tensor | None
    rope: Rope
    blocks: tuple[int, ...]
    two: bool


class Memory(NamedTuple):
    """What a layer keeps of the frames before.

    Args:
        attention: of their keys and values.
        frame: (n, 1, y, x, d), the last frame before the convolution over time; None without one.
    """

    attention: AttentionState
    frame: Tensor | None

    @property
    def nbytes(self) -> int:
        return self.attention.nbytes + (0 if self.frame is None else self.frame.nbytes)

    def detach(self) -> Memory:
        return Memory(self.attention.detach(), None if self.frame is None else self.frame.detach())

    def clone(self) -> Memory:
        return Memory(self.attention.clone(), None if self.frame is None else self.frame.clone())


class VideoLayer(nn.Module):
    """Self-attention, cross-attention and perceptron; the identity at the start.

    The six vectors of self-attention and perceptron are those of the noise level, which all layers share, plus a table
    of the layer's own (Chen et al., "PixArt-alpha", Section 2.3, https://arxiv.org/abs/2310.00426).
    """

    def __init__(self, config: VideoLayerConfig) -> None:
        super().__init__()
        d = config.width
        self.table = nn.Parameter(torch.zeros(6, d))
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.attention = SelfAttention(config)
        self.cross = CrossAttention(config) if config.context else None
        self.perceptron = TemporalMixFFN(config)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """(n, f, y, x, d) -> the same shape."""
        return self.step(h, modulation)[0]

    def step(self, h: Tensor, modulation: Modulation, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """The same after the frames of ``memory``, and the memory with these frames. Nothing is changed in place."""
        parts = (self.table + modulation.shared)[:, :, None, None]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts.unbind(-2)
        before = (None, None) if memory is None else memory
        mixed, state = self.attention(self.norm(h) * (1 + scale_a) + shift_a, modulation, before[0])
        h = h + gate_a * mixed
        if self.cross is not None:
            h = h + self.cross(h, modulation)
        changed, frame = self.perceptron(self.norm(h) * (1 + scale_m) + shift_m, modulation, before[1])
        return h + gate_m * changed, Memory(state, frame)


class SelfAttention(nn.Module):
    """Attention over blocks of frames; queries and keys are normed over the whole width."""

    def __init__(self, config: VideoLayerConfig) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.attend = ATTENTIONS[config.attention]
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.norm_q, self.norm_k = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.proj = nn.Linear(d, d)
        for linear in (self.qkv, self.proj):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, h: Tensor, modulation: Modulation, state: AttentionState | None) -> tuple[Tensor, AttentionState]:
        """(n, f, y, x, d), state of the frames before -> the same shape, state after these frames."""
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        pattern = "n f y x (heads e) -> n heads (f y x) e"
        q, k, v = (rearrange(x, pattern, heads=self.config.heads) for x in (self.norm_q(q), self.norm_k(k), v))
        out, after = self._mixed(q, k, v, modulation, state, h.shape[2] * h.shape[3])
        _, _, y, x, _ = h.shape
        return self.proj(rearrange(out, "n heads (f y x) e -> n f y x (heads e)", y=y, x=x)), after

    def _mixed(
        self, q: Tensor, k: Tensor, v: Tensor, modulation: Modulation, state: AttentionState | None, space: int
    ) -> tuple[Tensor, AttentionState]:
        rope: Rope | None = modulation.rope
        window, sizes = self.config.window, [frames * space for frames in modulation.blocks]
        places = sum(sizes)
        if self.config.rope != "after":
            if self.config.rope == "before":
                q, k = (torch.cat([turned(part, rope) for part in x.split(places, dim=2)], dim=2) for x in (q, k))
            rope = None
        if not modulation.two:
            return self.attend(q, k, v, rope, state, sizes, window, None)
        clean_q, clean_k, clean_v = (x[:, :, :places] for x in (q, k, v))
        noisy_q, noisy_k, noisy_v = (x[:, :, places:] for x in (q, k, v))
        clean, after = self.attend(clean_q, clean_k, clean_v, rope, state, sizes, window, None)
        noisy, _ = self.attend(noisy_q, noisy_k, noisy_v, rope, state, sizes, window, (clean_k, clean_v))
        return torch.cat([clean, noisy], dim=2), after


class CrossAttention(nn.Module):
    """Ordinary attention of all places to the context."""

    def __init__(self, config: VideoLayerConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.q, self.kv, self.proj = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.norm_q, self.norm_k = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        for linear in (self.q, self.kv):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """(n, f, y, x, d) -> the same shape."""
        assert modulation.context is not None, "a layer with cross-attention needs a context"
        _, f, y, x, _ = h.shape
        k, v = self.kv(modulation.context).chunk(2, dim=-1)
        q = rearrange(self.norm_q(self.q(h)), "n f y x (heads e) -> n heads (f y x) e", heads=self.heads)
        k, v = (rearrange(t, "n l (heads e) -> n heads l e", heads=self.heads) for t in (self.norm_k(k), v))
        mask = None if modulation.mask is None else modulation.mask[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, mask)
        out: Tensor = self.proj(rearrange(mixed, "n heads (f y x) e -> n f y x (heads e)", f=f, y=y, x=x))
        return out


class TemporalMixFFN(nn.Module):
    """A gated perceptron with a depthwise 3 x 3 convolution in every frame, then a convolution over three frames.

    With ``u = glu(conv(silu(up h)))`` the answer is ``u + W (u_(i-1), u_i, u_(i+1))``, W zero at the start. A frame in
    front of a block is the last one of the block before; behind a block there is none.
    """

    def __init__(self, config: VideoLayerConfig) -> None:
        super().__init__()
        d, hidden = config.width, int(config.width * config.mlp_ratio)
        self.up = nn.Linear(d, 2 * hidden)
        self.conv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.down = nn.Linear(hidden, d, bias=False)
        self.temporal = nn.Linear(3 * d, d, bias=False) if config.temporal else None
        for linear in (self.up, self.down):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.up.bias)
        if self.temporal is not None:
            nn.init.zeros_(self.temporal.weight)

    def forward(self, h: Tensor, modulation: Modulation, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(n, f, y, x, d) and the last frame before, (n, 1, y, x, d) -> the same shape, and the last of these."""
        u = self._in_space(h)
        if self.temporal is None:
            return u, None
        first = torch.zeros_like(u[:, :1]) if before is None else before
        if not modulation.two:
            return u + self.temporal(neighbours(u, u, first, modulation.blocks)), u[:, -1:]
        clean, noisy = u.chunk(2, dim=1)
        streams = [neighbours(stream, clean, first, modulation.blocks) for stream in (clean, noisy)]
        return u + self.temporal(torch.cat(streams, dim=1)), clean[:, -1:]

    def _in_space(self, h: Tensor) -> Tensor:
        u = rearrange(F.silu(self.up(h)), "n f y x c -> (n f) c y x")
        value, gate = self.conv(u).chunk(2, dim=1)
        out: Tensor = self.down(rearrange(value * F.silu(gate), "(n f) c y x -> n f y x c", n=len(h)))
        return out


def neighbours(u: Tensor, known: Tensor, first: Tensor, blocks: Sequence[int]) -> Tensor:
    """Each frame of ``u`` (n, f, ..., d) with the one before and the one after it in its block -> (n, f, ..., 3 d).

    Args:
        known: (n, f, ..., d), the frames as later blocks know them.
        first: (n, 1, ..., d), the frame before all of these.
        blocks: frames of each block.
    """
    known = torch.cat([first, known], dim=1)
    previous, following, nothing = [], [], torch.zeros_like(u[:, :1])
    for start, end in zip(accumulate(blocks[:-1], initial=0), accumulate(blocks), strict=True):
        previous += [known[:, start : start + 1], u[:, start : end - 1]]
        following += [u[:, start + 1 : end], nothing]
    return torch.cat([torch.cat(previous, dim=1), u, torch.cat(following, dim=1)], dim=-1)
