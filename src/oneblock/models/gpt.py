"""GPT: a causal transformer that, for every place of a text, reads the tokens before it and a noisy target of its own.

Llama's layers (``models.rotary``). Where the noisy targets stand is ``streams``:

- ``"two"``: beside the text, as a second stream of tokens that see the clean tokens before them, and themselves (Shing
  et al., "DiffusionBlocks", Appendix E.4, https://arxiv.org/abs/2506.14202). A layer works on 2 t tokens.
- ``"one"``: added to the token before, as the state of a recurrent-depth network is joined to its input. What later
  places see of it is a noisy version of a token that they see anyway, so nothing leaks, at half the work.
- ``"none"``: nowhere; an ordinary language model, which is not told of noise.

With ``prelude`` and ``coda`` above 0 it is a recurrent-depth network (Geiping et al., "Scaling up Test-Time Compute
with Latent Reasoning", Section 3, https://arxiv.org/abs/2502.05171): the prelude's layers read the text once, those of
the middle are called again and again, the coda's read out. Shapes: n samples, t tokens, d width, v symbols, k width of
what is shown of a noisy target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from oneblock.backbone import forward, through
from oneblock.checks import check_fields, check_least
from oneblock.condition import Condition, Tokens, told
from oneblock.models.layers import NoiseEmbedder
from oneblock.models.rotary import RotaryConfig, RotaryLayer, Rotation, rotation, usual_hidden
from oneblock.ops import Attend, causal, two_streams

Streams = Literal["two", "one", "none"]


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Shape of a GPT.

    Args:
        vocabulary: symbols v.
        context: tokens t of the longest text.
        label_width: width k of what is shown of a noisy target.
        depth, width, heads: ``heads`` must divide ``width`` into even parts.
        kv_heads: heads of keys and values; 0 is ``heads``.
        streams: where noisy targets stand.
        prelude, coda: layers before and after those that ``depth`` counts.
    """

    vocabulary: int
    context: int
    label_width: int
    depth: int
    width: int
    heads: int
    kv_heads: int = 0
    streams: Streams = "two"
    prelude: int = 0
    coda: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "width", "heads")
        check_least(self, 0, "kv_heads")
        for name in ("vocabulary", "context", "label_width", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} leaves nothing to learn; use 1 or more")
        if self.prelude < 0 or self.coda < 0:
            raise ValueError(f"prelude={self.prelude}, coda={self.coda} are not numbers of layers; use 0 or more")
        _ = self.layer  # validates heads

    @property
    def layer(self) -> RotaryConfig:
        kv_heads = self.kv_heads or self.heads
        return RotaryConfig(width=self.width, heads=self.heads, kv_heads=kv_heads, hidden=usual_hidden(self.width))


class Modulation(NamedTuple):
    """What layers and head know besides the tokens: the turns of their positions, who sees whom, and how many places
    are answered."""

    by: Rotation
    attend: Attend
    length: int


class Layer(RotaryLayer):
    """A layer that takes what it must know from the modulation."""

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:  # type: ignore[override]
        return super().forward(h, modulation.by, modulation.attend)


class GPT(nn.Module):
    """``stem -> layers -> head``; ``layers`` says which layers to build, so one block is built without the others.

    Layers keep their index in the whole network as their name (``layers.4.``).
    """

    def __init__(self, config: GPTConfig, layers: range | None = None) -> None:
        super().__init__()
        self.config = config
        built = range(config.depth) if layers is None else layers
        self.stem = Stem(config)
        self.layers = nn.ModuleDict({str(i): Layer(config.layer) for i in built})
        self.head = Head(config)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """See ``Stem.forward`` -> logits (n, t, v) of the token at every place."""
        return forward(self, z, noise, condition)

    def stack(self) -> list[Layer]:
        """The layers that come after the prelude, in order."""
        middle: Iterable[nn.Module] = self.layers.values()
        return [layer for layer in (*middle, *self.head.coda) if isinstance(layer, Layer)]


class Stem(nn.Module):
    """Embeddings of the tokens, of the noisy targets and of their level."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        noisy = config.streams != "none"
        self.embed = nn.Embedding(config.vocabulary + 1, config.width)  # the last is the start of a text
        self.prelude = nn.ModuleList(Layer(config.layer) for _ in range(config.prelude))
        self.noisy = nn.Linear(config.label_width, config.width) if noisy else None
        self.noise = NoiseEmbedder(config.width) if noisy else None
        nn.init.normal_(self.embed.weight, std=1.0)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Modulation]:
        """Noisy targets, their noise conditioning (n,), clean ``Tokens`` (n, t) -> tokens, modulation.

        Args:
            z: (n, t, k). With one stream also (n, 2 t, k): first what the places that are read carry, then what the
                places carry that are asked; t answers.
        """
        text = told(condition, Tokens)
        if text.mask is not None:
            raise ValueError("the tokens have a mask; this network reads them all: give Tokens(values) without one")
        t = text.values.shape[1]
        self.check_length(t)
        e = self.read(self.inputs(text.values))
        streams, attend = 1, causal
        if self.noisy is not None:
            targets = self.target(z, noise)
            if self.config.streams == "two":
                e = torch.cat([e, targets], dim=1)
            else:
                e = torch.cat([e, e], dim=1) + targets if z.shape[1] > t else e + targets
            if e.shape[1] > t:
                streams, attend = 2, two_streams
        return e, Modulation(self.turns(torch.arange(t, device=e.device).repeat(streams)), attend, t)

    def check_length(self, length: int) -> None:
        if length > self.config.context:
            raise ValueError(
                f"the text has {length} tokens, but the network was made for {self.config.context}; cut it"
            )

    def inputs(self, tokens: Tensor) -> Tensor:
        """What the clean stream reads of a text (n, t): its tokens, or, where a place answers for the next token, its
        start and all but the last."""
        if self.config.streams == "two":
            return tokens
        return torch.cat([self.start(len(tokens), tokens.device), tokens[:, :-1]], dim=1)

    def start(self, count: int, device: torch.device) -> Tensor:
        return torch.full((count, 1), self.config.vocabulary, device=device)

    def read(self, tokens: Tensor) -> Tensor:
        """Clean tokens (n, t), through the prelude -> (n, t, d)."""
        e: Tensor = self.embed(tokens)
        by = self.turns(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.prelude:
            e = layer(e, Modulation(by, causal, tokens.shape[1]))
        return e

    def target(self, z: Tensor, noise: Tensor) -> Tensor:
        """Noisy targets (n, ..., k) at noise conditioning (n,) -> (n, ..., d)."""
        assert self.noisy is not None and self.noise is not None, "an ordinary network has no noisy targets"
        out: Tensor = self.noisy(z.to(self.noisy.weight.dtype)) + self.noise(noise)[:, None]
        return out

    def turns(self, positions: Tensor) -> Rotation:
        return rotation(positions, self.config.width // self.config.heads)


class Head(nn.Module):
    """The coda, a norm and a linear map to logits; zero at the start."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.coda = nn.ModuleList(Layer(config.layer) for _ in range(config.coda))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.out = nn.Linear(config.width, config.vocabulary)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """Tokens -> logits (n, t, v) of the places that are asked, the last t."""
        return self.answer(through(self.coda, h, modulation)[:, -modulation.length :])

    def answer(self, h: Tensor) -> Tensor:
        """(n, t, d) -> logits (n, t, v)."""
        out: Tensor = self.out(self.norm(h))
        return out
