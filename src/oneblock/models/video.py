"""A block linear diffusion transformer for video (Chen et al., "SANA-Video", https://arxiv.org/abs/2509.24695).

Frames come in blocks: inside a block every frame sees every frame, and it sees the blocks before. Three modes of one
network agree:

- bidirectional: all frames are one block (``block_frames=0``)
- in parallel: all blocks at once, for training. With ``streams="two"`` the network is given every frame twice, clean
  and noisy; noisy blocks see the clean blocks before them, as in sampling.
- streaming: one block after the other (``Video.step``), with a state that does not grow (``VideoState``)

Shapes: n samples, f frames, c channels, h x w pixels, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from oneblock.backbone import forward
from oneblock.checks import check_count, check_fields, check_least, check_number
from oneblock.condition import ClassIds, Condition, Tokens, told
from oneblock.models.layers import NoiseEmbedder
from oneblock.models.video_layers import Attention, Memory, Modulation, RopeOrder, VideoLayer, VideoLayerConfig
from oneblock.ops import rope_3d

Streams = Literal["one", "two"]


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Shape of a video network.

    Args:
        shape: (frames, channels, height, width) of what is trained on; the network itself takes any number of frames of
            any size that ``patch`` divides.
        depth, width, heads: ``heads`` must divide ``width`` into even parts.
        patch: pixels along a patch; must divide height and width.
        num_classes: labels are 0 .. num_classes - 1; label ``num_classes`` is the null class of guidance.
        token_width: width of the vectors of a text that the network is told; 0 is none.
        mlp_ratio, attention, rope, temporal: see ``VideoLayerConfig``.
        block_frames: frames of a block; what is left over goes to the first one. 0 is one block.
        window: how many blocks before its own a frame sees; None is all.
        streams: whether all frames at once are given once, or twice: clean, then noisy.
        max_frames: frames after the first that a stream may have; nothing grows with it.
        noise_scale: what the noise conditioning is multiplied by; see ``NoiseEmbedder`` for what it should span.
    """

    shape: tuple[int, ...]
    depth: int
    width: int
    heads: int
    patch: int
    num_classes: int = 0
    token_width: int = 0
    mlp_ratio: float = 3.0
    attention: Attention = "linear"
    rope: RopeOrder = "after"
    temporal: bool = True
    block_frames: int = 0
    window: int | None = None
    streams: Streams = "one"
    max_frames: int = 2**14
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "depth", "width", "heads", "patch", "max_frames")
        check_least(self, 0, "num_classes", "token_width", "block_frames")
        _check_shape(self.shape, self.patch)
        frame_blocks(self.shape[0], self.block_frames)
        check_bound(0, self.shape[0], self.max_frames)
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        check_number("noise_scale", self.noise_scale, above=0)
        if self.window is not None:
            check_count("window", self.window)
        if self.num_classes and self.token_width:
            raise ValueError(
                f"num_classes={self.num_classes} and token_width={self.token_width}: the network is told a class or a "
                "text; set one of them to 0"
            )
        _ = self.layer  # validates heads

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def layer(self) -> VideoLayerConfig:
        return VideoLayerConfig(
            width=self.width,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            attention=self.attention,
            rope=self.rope,
            temporal=self.temporal,
            window=self.window,
            context=bool(self.num_classes or self.token_width),
        )


def _check_shape(shape: tuple[int, ...], patch: int) -> None:
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"shape={shape} is not that of a video; use (frames, channels, height, width)")
    _check_patch(patch, shape[2], shape[3])


def _check_patch(patch: int, height: int, width: int) -> None:
    if height % patch or width % patch:
        raise ValueError(f"patch={patch} does not divide frames of {height} x {width} pixels; use a divisor of both")


def check_bound(position: int, frames: int, bound: int) -> None:
    """Refuse frames beyond ``max_frames=bound``."""
    if position + frames > bound:
        raise ValueError(
            f"{frames} frames from frame {position} on go beyond max_frames={bound}; use fewer frames, or a network "
            "with a larger max_frames"
        )


def frame_blocks(frames: int, block_frames: int) -> tuple[int, ...]:
    """Frames of each block: ``block_frames``, and in the first one also those that are left over; 0 is one block.

    Raises:
        ValueError: there are fewer frames than a block has.
    """
    if not block_frames:
        return (frames,)
    if frames < block_frames:
        raise ValueError(
            f"there are {frames} frames, fewer than block_frames={block_frames}; give more frames, or a smaller block"
        )
    count, left = divmod(frames, block_frames)
    return (block_frames + left, *[block_frames] * (count - 1))


@dataclass(frozen=True, eq=False)
class VideoState:
    """What a network keeps of the frames before.

    Args:
        position: the number of frames that were taken in.
        layers: what each layer remembers, by its index in the whole network.
    """

    position: int
    layers: Mapping[str, Memory]

    @property
    def nbytes(self) -> int:
        return sum(self.cache_bytes().values())

    def cache_bytes(self) -> dict[str, int]:
        """Bytes by part: sums or keys and values of attention, and frames of the convolution over time."""
        frames = sum(memory.frame.nbytes for memory in self.layers.values() if memory.frame is not None)
        return {"attention": sum(memory.attention.nbytes for memory in self.layers.values()), "frames": frames}

    def detach(self) -> VideoState:
        return VideoState(self.position, {name: memory.detach() for name, memory in self.layers.items()})

    def clone(self) -> VideoState:
        return VideoState(self.position, {name: memory.clone() for name, memory in self.layers.items()})


class Video(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.4.``).
    """

    def __init__(self, config: VideoConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        self.stem = Stem(config)
        self.layers = nn.ModuleDict({str(i): VideoLayer(config.layer) for i in built})
        self.head = Head(config)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """All frames at once: (n, f, c, h, w), noise conditioning (n,) or (n, f), ``ClassIds``, ``Tokens`` or anything
        -> prediction (n, f, c, h, w). With two streams f counts every frame twice."""
        return forward(self, z, noise, condition)

    def in_two_streams(self) -> Video:
        """The same network, with the same weights, that is given every frame twice: clean, then noisy."""
        other, stem = copy(self), copy(self.stem)
        other.config = stem.config = replace(self.config, streams="two")
        other._modules = {**self._modules, "stem": stem}
        return other

    def step(
        self, z: Tensor, noise: Tensor, condition: Condition, state: VideoState | None = None
    ) -> tuple[Tensor, VideoState]:
        """One block of frames (n, f, c, h, w) after those of ``state``: the prediction, and the state with this block.

        Nothing is changed in place. Who wants to read the state alone lets the new one go.

        Raises:
            ValueError: the state is of other layers, or the frames go beyond ``max_frames``.
        """
        if state is not None and list(state.layers) != list(self.layers):
            raise ValueError(
                f"the state is of layers {', '.join(state.layers)}, but this network has {', '.join(self.layers)}; use "
                "the state that it made"
            )
        position = 0 if state is None else state.position
        h, modulation = self.stem.enter(z, noise, condition, position, (z.shape[1],))
        memories: dict[str, Memory] = {}
        for name, layer in self.layers.items():
            assert isinstance(layer, VideoLayer), "layers of a video network are its own"
            h, memories[name] = layer.step(h, modulation, None if state is None else state.layers[name])
        return self.head(h, modulation), VideoState(position + z.shape[1], memories)


class Stem(nn.Module):
    """Patches, the vectors of the noise level, and what is attended to: a vector that is always there, and one for the
    class or for each token."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.embed = nn.Linear(config.channels * config.patch**2, d)
        self.noise = NoiseEmbedder(d)
        self.shared = nn.Linear(d, 6 * d)
        self.always = nn.Parameter(torch.randn(d)) if config.layer.context else None
        self.label = nn.Embedding(config.num_classes + 1, d) if config.num_classes else None
        self.token = nn.Linear(config.token_width, d) if config.token_width else None
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        nn.init.zeros_(self.shared.weight)
        nn.init.zeros_(self.shared.bias)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Modulation]:
        """See ``Video.forward`` -> tokens (n, f, y, x, d), modulation."""
        return self.enter(z, noise, condition, 0, None)

    def enter(
        self, z: Tensor, noise: Tensor, condition: Condition, position: int, blocks: tuple[int, ...] | None
    ) -> tuple[Tensor, Modulation]:
        """The same for frames from ``position`` on, as one stream in ``blocks``; None is what training has."""
        two = blocks is None and self.config.streams == "two"
        self._check(z, noise, two)
        frames, p = z.shape[1] // (1 + two), self.config.patch
        check_bound(position, frames, self.config.max_frames)
        h = self.embed(rearrange(z, "n f c (y p) (x q) -> n f y x (c p q)", p=p, q=p))
        level = self.noise(noise.reshape(len(z), -1) * self.config.noise_scale)
        shared = self.shared(F.silu(level)).unflatten(-1, (6, -1))
        context, mask = self._context(condition)
        places = torch.arange(position, position + frames, device=z.device)
        rope = rope_3d(places, h.shape[2], h.shape[3], self.config.layer.head_width)
        blocks = blocks or frame_blocks(frames, self.config.block_frames)
        return h, Modulation(level, shared, context, mask, rope, blocks, two)

    def _check(self, z: Tensor, noise: Tensor, two: bool) -> None:
        if z.ndim != 5:
            raise ValueError(f"z has shape {tuple(z.shape)}; give frames, (n, frames, channels, height, width)")
        _check_patch(self.config.patch, z.shape[3], z.shape[4])
        if two and z.shape[1] % 2:
            raise ValueError(f"z has {z.shape[1]} frames; with streams='two' give as many clean as noisy ones")
        if noise.shape not in (z.shape[:1], z.shape[:2]):
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}; give one level per sample, ({len(z)},), or per frame, "
                f"{tuple(z.shape[:2])}"
            )

    def _context(self, condition: Condition) -> tuple[Tensor | None, Tensor | None]:
        """What is attended to (n, l, d), and where it counts (n, l); None for all of it."""
        if self.always is None:
            return None, None
        if self.label is not None:
            ids = told(condition, ClassIds).ids
            vectors, mask = self.label(ids)[:, None], None
        else:
            assert self.token is not None, "a context is a class or a text"
            text = told(condition, Tokens)
            vectors, mask = self.token(text.values.to(self.token.weight.dtype)), text.mask
        context = torch.cat([self.always.expand(len(vectors), 1, -1), vectors], dim=1)
        return context, None if mask is None else F.pad(mask, (1, 0), value=True)


class Head(nn.Module):
    """Modulated norm and a linear map back to pixels; zero at the start."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        d = config.width
        self.patch = config.patch
        self.modulation = nn.Linear(d, 2 * d)
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.out = nn.Linear(d, config.channels * config.patch**2)
        for linear in (self.modulation, self.out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """(n, f, y, x, d) -> (n, f, c, h, w)."""
        shift, scale = self.modulation(F.silu(modulation.level))[:, :, None, None].chunk(2, dim=-1)
        patches = self.out(self.norm(h) * (1 + scale) + shift)
        return rearrange(patches, "n f y x (c p q) -> n f c (y p) (x q)", p=self.patch, q=self.patch)
