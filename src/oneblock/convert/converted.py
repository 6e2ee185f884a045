"""A network of another library as a backbone: ``stem -> layers -> head``, cut into blocks, its own code unchanged.

What a converted network computes at the start is what the original computes on clean input: the noise level, and noisy
targets that the original does not know, enter through maps that are zero. A layer i gets

    h + s_i LN(h) + b_i,    (s_i, b_i) = W_i silu(embed(noise)),    W_i = 0 at the start

(adaLN-zero, Peebles and Xie, Section 3.2, https://arxiv.org/abs/2212.09748, here before the layer and on the hidden
state, as a layer of another library cannot be opened up). A network that is told a time step is told the noise level in
its place, and keeps its layers as they are.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.backbone import as_backbone
from oneblock.condition import ClassIds, Condition, Frames, Tokens, told
from oneblock.convert.copies import Copier
from oneblock.convert.counting import as_of_real_tensors
from oneblock.convert.discover import find_layers
from oneblock.convert.taps import Call, ReachedError, Session, returns_bare, without_layers
from oneblock.models.layers import NoiseEmbedder

Kind = Literal["text", "masked-text", "classify", "image"]
"""What a network is: an autoregressive or a masked language model, a classifier of images, or a generator of them that
is told their class."""
TIME_STEPS = 400.0
"""Time steps for a unit of EDM's noise conditioning ``ln(sigma) / 4``: its range becomes about a thousand steps, which
is what such networks are made for."""
KEPT = {"DiTTransformer2DModel": "norm1.emb"}
"""Networks whose end reaches into their first layer, and for what."""


@dataclass(frozen=True)
class Carried:
    """What a stem hands on: the call of the whole network, what each layer is called with, and the embedded noise level
    (n, d)."""

    call: dict[str, Any]
    calls: list[Call]
    noise: Tensor | None


class ConvertedLayer(nn.Module):
    """A layer of another library, called as its own network calls it, with the noise level before it.

    Args:
        width: of the hidden state; 0 for a layer that the network tells the noise level itself.
    """

    def __init__(self, layer: nn.Module, index: int, width: int, bare: bool) -> None:
        super().__init__()
        self.layer = layer
        self.modulation = zero_linear(width, 2 * width) if width else None
        self._index, self._bare = index, bare

    def forward(self, h: Tensor, modulation: Carried) -> Tensor:
        """Hidden state (n, ..., d) -> hidden state (n, ..., d)."""
        if self.modulation is not None and modulation.noise is not None:
            scale, shift = _aligned(self.modulation(F.silu(modulation.noise)), h).chunk(2, dim=-1)
            h = h + scale * F.layer_norm(h, h.shape[-1:]) + shift
        call = modulation.calls[self._index]
        answer = self.layer(h, *call.args, **call.kwargs)
        out: Tensor = answer if self._bare else answer[0]
        return out


class ConvertedBackbone(nn.Module):
    """A block of a converted network: the layers that were asked for, and the ends of the network around them.

    Args:
        ends: the network with taps for layers; ``line`` of their sessions.
        kind: says how the network is called and what of its answer counts.
        outputs: symbols, classes or channels; answers beyond are cut off.
        noisy: width of the noisy targets.
        special_id: the id that stands before a text, or for a masked place.
    """

    def __init__(
        self,
        ends: nn.Module,
        line: list[Session],
        layers: dict[str, ConvertedLayer],
        width: int,
        kind: Kind,
        outputs: int,
        noisy: int,
        special_id: int,
    ) -> None:
        super().__init__()
        self.ends = ends
        self.layers = nn.ModuleDict(layers)
        self.noise = NoiseEmbedder(width) if kind != "image" else None
        self.noisy = zero_linear(noisy, width) if kind in ("text", "classify") else None
        self._line, self._kind, self._outputs, self._special_id = line, kind, outputs, special_id

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Carried]:
        """Noisy targets (n, t, k), (n, k) or (n, c, h, w), or masked tokens (n, t); noise conditioning (n,)."""
        call = self._call(z, noise, condition)
        session = Session()
        try:
            self._run(session, call)
        except ReachedError:
            pass
        h = cast(Tensor, session.hidden)
        if self.noisy is not None:
            h = h + _aligned(self.noisy(z.to(h.dtype)), h)
        embedded = None if self.noise is None else self.noise(noise).to(h.dtype)
        return h, Carried(call, session.calls, embedded)

    def head(self, h: Tensor, modulation: Carried) -> Tensor:
        """Logits (n, ..., outputs) or images (n, outputs, h, w), from the hidden state after the last layer."""
        answer = self._run(Session(answer=h), modulation.call)
        found: Tensor = answer.sample[:, : self._outputs] if self._kind == "image" else answer.logits
        return found if self._kind == "image" else found[..., : self._outputs]

    def _run(self, session: Session, call: dict[str, Any]) -> Any:
        self._line.append(session)
        try:
            with as_of_real_tensors():
                return self.ends(**call)
        finally:
            self._line.pop()

    def _call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        if self._kind == "image":
            labels = told(condition, ClassIds).ids
            return {"hidden_states": z, "timestep": TIME_STEPS * noise, "class_labels": labels}
        if self._kind == "classify":
            return {"pixel_values": told(condition, Frames).values}
        if self._kind == "masked-text":
            return {"input_ids": torch.where(z == self._outputs, self._special_id, z)}
        tokens = told(condition, Tokens).values
        start = tokens.new_full((len(tokens), 1), self._special_id)
        return {"input_ids": torch.cat([start, tokens[:, :-1]], dim=1), "use_cache": False}


class Converted(ABC):
    """A network with its weights as a builder of backbones; give it to ``train`` as ``backbone``.

    Blocks have copies of what stands before and behind the layers, and of their own layers; the network stays as it is.
    Layer i of a plan is layer ``picks[i]`` of the network: all in order for blocks, all of them again for every expert
    (``pick``), or those that each band needs most.

    Args:
        count: layers of the network; ``width`` of its hidden state, 0 where that is not known.
        named: class of the network and fingerprint, by which a plan tells it from others.
    """

    frozen = False
    """Blocks do not train the network's own weights, and hold them in its memory; what is new in them they train."""

    def __init__(self, count: int, width: int, named: str, picks: Sequence[int] = ()) -> None:
        self.count, self.width, self.named = count, width, named
        self.picks = tuple(picks) or tuple(range(count))
        chosen = "" if self.picks == tuple(range(count)) else f", layers {' '.join(map(str, self.picks))}"
        self.__qualname__ = f"Converted[{named}{chosen}]"

    @property
    def depth(self) -> int:
        """Layers of all blocks together."""
        return len(self.picks)

    def pick(self, layers: Sequence[int]) -> Self:
        """The same network with these of its layers, in this order; a layer may be taken several times, by several
        blocks."""
        wrong = [i for i in layers if not 0 <= i < self.count]
        if wrong or not layers:
            raise ValueError(f"layers={list(layers)} are not layers of this network; use some of 0 to {self.count - 1}")
        made = copy(self)
        Converted.__init__(made, self.count, self.width, self.named, layers)
        return made

    def __call__(self, layers: range) -> nn.Module:
        """The block with these layers of a plan."""
        if layers.start < 0 or layers.stop > self.depth:
            raise ValueError(
                f"layers {layers.start} to {layers.stop - 1} are asked for, but there are {self.depth}; use "
                f"depth={self.depth} in the recipe"
            )
        return self.block({str(i): self.picks[i] for i in layers})

    @property
    @abstractmethod
    def original(self) -> nn.Module:
        """The network that was converted."""

    @abstractmethod
    def block(self, layers: Mapping[str, int]) -> nn.Module:
        """A backbone of copies: names of its layers -> those of the network."""


class ConvertedLibrary(Converted):
    """A network of another library."""

    def __init__(self, network: nn.Module, path: str, kind: Kind, outputs: int, noisy: int, special_id: int) -> None:
        self.network = network
        self.path = path
        self._kind, self._outputs, self._noisy, self._special_id = kind, outputs, noisy, special_id
        self._bare = returns_bare(network, path, example(network, kind, special_id))
        layers: Any = network.get_submodule(path)
        config: Any = network.config
        settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        named = f"{type(network).__name__}, {fingerprint(network, settings)}"
        super().__init__(len(layers), _width(network), named)

    @property
    def original(self) -> nn.Module:
        return self.network

    def block(self, layers: Mapping[str, int]) -> ConvertedBackbone:
        kept = KEPT.get(type(self.network).__name__, "")
        copied = Copier(self.frozen)
        ends, line = without_layers(self.network, self.path, self._bare, kept, copied)
        every: Any = self.network.get_submodule(self.path)
        modulated = 0 if self._kind == "image" else self.width
        own = {name: ConvertedLayer(copied(every[i]), i, modulated, self._bare) for name, i in layers.items()}
        return ConvertedBackbone(ends, line, own, self.width, self._kind, self._outputs, self._noisy, self._special_id)


class ConvertedBackboneOf(Converted):
    """A backbone (``oneblock.backbone``) with weights, for example that of a trained model.

    Args:
        settings: what the fingerprint is made of besides the weights.
    """

    def __init__(self, backbone: nn.Module, width: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        self.backbone = backbone
        layers = as_backbone(backbone).layers
        named = f"{type(backbone).__name__}, {fingerprint(backbone, settings or {})}"
        super().__init__(len(layers), width, named)

    @property
    def original(self) -> nn.Module:
        return self.backbone

    def block(self, layers: Mapping[str, int]) -> nn.Module:
        every = list(as_backbone(self.backbone).layers.values())
        empty = {id(self.backbone.layers): nn.ModuleDict()}  # copied without layers, which then join
        copied = Copier(self.frozen)
        made: Any = copied(self.backbone, empty)
        for name, i in layers.items():
            made.layers[name] = copied(every[i])
        made.requires_grad_(not self.frozen)
        trained: nn.Module = made.train()
        return trained


def convert(
    network: nn.Module, *, outputs: int = 0, layers: str = "", noisy: int = 0, special_id: int | None = None
) -> Converted:
    """A network that exists as a backbone, with its weights: a language model or a classifier of images of the
    transformers library, a DiT of diffusers, or a backbone of one's own (``stem``, ``layers``, ``head``). It is cut
    into blocks by ``train(recipe, backbone=convert(network, ...), ...)``.

    The recipe's task must be what the network is for: a causal language model is trained by a ``CausalRecipe``, a
    masked one by a ``MaskedRecipe``, a classifier of images by a ``ClassifyRecipe``, and a DiT by an ``ImageRecipe``,
    with EDM's preconditioning and noise levels. Depth and width of the recipe become those of the network.

    Args:
        network: as its library makes it; it stays as it is. Its weights are those that every block starts with.
        outputs: symbols of the vocabulary, classes, or channels of images; its head must have as many, or more. A
            backbone of one's own needs none.
        layers: path of the list of its layers, e.g. ``"transformer.h"``; empty looks for it.
        noisy: width of the noisy targets that it is shown; 0 is ``outputs``, as for evidence (``precondition``).
        special_id: the id that stands before a text, or for a masked place; None is the network's own, or the first
            that is no symbol.

    Raises:
        ValueError: the network cannot be cut (``convert.discover``), or its answers and ids do not fit.
    """
    if all(hasattr(network, part) for part in ("stem", "layers", "head")):
        return ConvertedBackboneOf(network)
    path = find_layers(network, layers)
    kind = kind_of(network)
    size = _outputs(network, kind)
    if not 1 <= outputs <= size:
        raise ValueError(
            f"outputs={outputs} does not fit {type(network).__name__}, which answers with {size}; use 1 to {size}"
        )
    if special_id is None:
        special_id = _special_id_of(network, kind, outputs)
    return ConvertedLibrary(network, path, kind, outputs, noisy or outputs, special_id)


ENDINGS: dict[str, Kind] = {
    "ForCausalLM": "text",
    "LMHeadModel": "text",
    "ForMaskedLM": "masked-text",
    "ForImageClassification": "classify",
    "DiTTransformer2DModel": "image",
}
"""What the class of a network is called -> what it is."""


def kind_of(network: nn.Module) -> Kind:
    """What a network is for; one that is for nothing known is a ``ValueError``."""
    name = type(network).__name__
    for ending, kind in ENDINGS.items():
        if name.endswith(ending):
            return kind
    raise ValueError(
        f"{name} is of no kind that is known; a class whose name ends with {', '.join(ENDINGS)} is allowed: the "
        "network with its head"
    )


def example(network: nn.Module, kind: Kind, special_id: int) -> dict[str, Any]:
    """Arguments of a call of ``network``, on its device."""
    first = next(network.parameters())
    config: Any = network.config
    if kind == "image":
        images = torch.zeros(2, config.in_channels, config.sample_size, config.sample_size, device=first.device)
        steps = torch.zeros(2, device=first.device)
        return {"hidden_states": images.to(first.dtype), "timestep": steps, "class_labels": steps.long()}
    if kind == "classify":
        size = getattr(config, "image_size", 0)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        images = torch.zeros(2, getattr(config, "num_channels", 3), height, width, device=first.device)
        return {"pixel_values": images.to(first.dtype)}
    ids = torch.full((2, 4), special_id, dtype=torch.long, device=first.device)
    return {"input_ids": ids, **({"use_cache": False} if kind == "text" else {})}


def fingerprint(network: nn.Module, settings: Mapping[str, Any]) -> str:
    """16 hex digits of a network's settings and weights."""
    digest = hashlib.sha256(repr(sorted(settings.items(), key=str)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # sums in place of all bytes: a network of billions is read once, and a single tensor of it is copied at a time
        exact = tensor.double()
        digest.update(repr([float(exact.sum()), float(exact.square().sum())]).encode())
    return digest.hexdigest()[:16]


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that is zero at the start."""
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _aligned(values: Tensor, h: Tensor) -> Tensor:
    """``values`` (n, k) with as many axes as ``h`` (n, ..., d); those with a place for each of h's stay."""
    return values if values.ndim == h.ndim else values.view(len(values), *[1] * (h.ndim - 2), values.shape[-1])


def _width(network: nn.Module) -> int:
    config: Any = network.config
    for name in ("hidden_size", "n_embd", "dim", "d_model"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    if hasattr(config, "attention_head_dim"):
        return int(config.num_attention_heads * config.attention_head_dim)
    raise ValueError(f"{type(network).__name__} does not say how wide its hidden state is (config.hidden_size)")


def _outputs(network: nn.Module, kind: Kind) -> int:
    config: Any = network.config
    if kind == "image":
        return int(config.out_channels or config.in_channels)
    return int(config.num_labels if kind == "classify" else config.vocab_size)


def _special_id_of(network: nn.Module, kind: Kind, outputs: int) -> int:
    """The network's own start or mask, if it is no symbol; else the first id that is none."""
    config: Any = network.config
    names: dict[Kind, str] = {"text": "bos_token_id", "masked-text": "mask_token_id"}
    own = getattr(config, names[kind], None) if kind in names else 0
    if kind in ("classify", "image") or (isinstance(own, int) and outputs <= own < config.vocab_size):
        return int(own or 0)
    if outputs < config.vocab_size:
        return outputs
    what = "start of a text" if kind == "text" else "mask"
    raise ValueError(
        f"outputs={outputs} are all ids of {type(network).__name__}, and none is left for the {what}; resize its "
        f"embeddings to {outputs + 1}, or say which id it is with special_id=..."
    )
