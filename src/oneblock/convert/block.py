"""A block of a network of another library: the layers that were asked for, and the ends of the network around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.condition import Condition
from oneblock.convert.counting import as_of_real_tensors
from oneblock.convert.kind import Kind
from oneblock.convert.prompts import Prompts
from oneblock.convert.taps import Call, Form, Line, ReachedError, Session, called
from oneblock.models.layers import NoiseEmbedder


@dataclass(frozen=True)
class Carried:
    """What a stem hands on: the call of the whole network, what each layer is called with, the shape of the noisy
    targets, and the embedded noise level (n, d)."""

    call: dict[str, Any]
    calls: list[Call]
    shape: torch.Size
    noise: Tensor | None


class ConvertedLayer(nn.Module):
    """A layer of another library, called as its own network calls it, with the noise level before it.

    Args:
        width: of the hidden state; 0 for a layer that the network tells the noise level itself.
    """

    def __init__(self, layer: nn.Module, index: int, width: int, form: Form) -> None:
        super().__init__()
        self.layer = layer
        self.modulation = zero_linear(width, 2 * width) if width else None
        self._index, self._form = index, form

    def forward(self, h: Tensor, modulation: Carried) -> Tensor:
        """Hidden state (n, ..., d) -> hidden state (n, ..., d)."""
        if self.modulation is not None and modulation.noise is not None:
            scale, shift = _aligned(self.modulation(F.silu(modulation.noise)), h).chunk(2, dim=-1)
            h = h + scale * F.layer_norm(h, h.shape[-1:]) + shift
        return called(self.layer, self._form, h, modulation.calls[self._index])


class ConvertedBackbone(nn.Module):
    """A block of a converted network.

    Args:
        ends: the network with taps for layers; ``line`` is what they share.
        kind: says how the network is called and what of its answer counts.
        noisy: width of the noisy targets.
        prompts: what the network is told of each class besides (``convert.prompts``); empty for nothing.
    """

    def __init__(
        self,
        ends: nn.Module,
        line: Line,
        layers: dict[str, ConvertedLayer],
        width: int,
        kind: Kind,
        noisy: int,
        prompts: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.ends = ends
        self.layers = nn.ModuleDict(layers)
        self.noise = None if kind.knows_noise else NoiseEmbedder(width)
        self.noisy = None if kind.knows_targets else zero_linear(noisy, width)
        self.prompts = Prompts(prompts) if prompts else None
        line.own = list(layers.values())
        self._line, self._kind = line, kind

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Carried]:
        """Noisy targets (n, t, k), (n, k) or (n, c, h, w), or masked tokens (n, t); noise conditioning (n,)."""
        call = self._kind.call(z, noise, condition)
        if self.prompts is not None:
            call = self._kind.with_texts(call, self.prompts(condition))
        session = Session()
        try:
            self._run(session, call)
        except ReachedError:
            pass
        h = cast(Tensor, session.hidden)
        if self.noisy is not None:
            h = h + _aligned(self.noisy(z.to(h.dtype)), h)
        embedded = None if self.noise is None else self.noise(noise).to(h.dtype)
        return h, Carried(call, session.calls, z.shape, embedded)

    def head(self, h: Tensor, modulation: Carried) -> Tensor:
        """Logits (n, ..., outputs) or images (n, outputs, h, w), from the hidden state after the last layer."""
        return self._kind.answer(self._run(Session(answer=h), modulation.call), modulation.shape)

    def _run(self, session: Session, call: dict[str, Any]) -> Any:
        self._line.sessions.append(session)
        try:
            with as_of_real_tensors():
                return self.ends(**call)
        finally:
            self._line.sessions.pop()


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that is zero at the start."""
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _aligned(values: Tensor, h: Tensor) -> Tensor:
    """``values`` (n, k) with as many axes as ``h`` (n, ..., d); those with a place for each of h's stay."""
    return values if values.ndim == h.ndim else values.view(len(values), *[1] * (h.ndim - 2), values.shape[-1])
