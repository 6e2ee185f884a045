"""Taps: modules that stand in the places of a network's layers, so that its own code runs without them.

A library's forward pass does what comes before the layers, calls each of them with the hidden state and whatever else
it needs (masks, positions, caches), and does what comes after. With taps in their places the same code gives, up to the
last tap, what the layers are called with; and with a hidden state handed to the last tap, what is made of it. So no
library's forward pass is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from oneblock.convert.copies import Copier


@dataclass(frozen=True)
class Call:
    """What a layer is called with besides the hidden state."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class ReachedError(Exception):
    """The last tap was called: what comes after is not wanted."""


@dataclass
class Session:
    """One run through a network with taps.

    Args:
        answer: the hidden state that leaves the last tap; None stops there.
    """

    answer: Tensor | None = None
    hidden: Tensor | None = None
    calls: list[Call] = field(default_factory=list)


@dataclass
class Line:
    """What the taps of a network share.

    Args:
        sessions: those that run; the last one counts.
        own: the layers of the block, each with its library's own as ``layer``.
    """

    sessions: list[Session] = field(default_factory=list)
    own: Sequence[nn.Module] = ()


class Tap(nn.Module):
    """Stands in the place of layer ``index`` of ``count``; has the plain attributes of ``layer``, by which a network
    may choose what it hands to it.

    A network that reaches into its first layer from outside (the end of diffusers' DiT takes the embedder of time step
    and class from there) finds the parts of the block's own first layer, so that it needs no layer that is elsewhere.

    Args:
        line: shared by all taps of a network.
        bare: layers return the hidden state itself; otherwise a tuple that begins with it.
    """

    def __init__(self, layer: nn.Module, index: int, count: int, line: Line, bare: bool) -> None:
        super().__init__()
        self._plain = {
            name: value for name, value in vars(layer).items() if isinstance(value, int | float | str | None)
        }
        self._index, self._last, self._line, self._bare = index, index == count - 1, line, bare

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            if name in self._plain:
                return self._plain[name]
            if self._index == 0 and self._line.own:
                return self._reached(name)
        return super().__getattr__(name)

    def _reached(self, name: str) -> Any:
        first: Any = self._line.own[0]
        if hasattr(first, "unshard"):  # FSDP2 has its weights together only while it is called
            first.unshard()
        return getattr(first.layer, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        session = self._line.sessions[-1]
        hidden, call = split_call(args, kwargs)
        if session.hidden is None:
            session.hidden = hidden
        session.calls.append(call)
        if self._last:
            if session.answer is None:
                raise ReachedError
            hidden = session.answer
        return hidden if self._bare else (hidden,)


def split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    """The hidden state of a call of a layer, and the rest."""
    if args:
        return args[0], Call(args[1:], kwargs)
    rest = dict(kwargs)
    return rest.pop("hidden_states"), Call((), rest)


def without_layers(network: nn.Module, path: str, bare: bool, copier: Copier | None = None) -> tuple[nn.Module, Line]:
    """A copy of ``network`` with taps in the places of its layers, which are not copied, and what the taps share."""
    layers: Any = network.get_submodule(path)
    line = Line()
    taps = {id(layer): Tap(layer, i, len(layers), line, bare) for i, layer in enumerate(layers)}
    return (copier or Copier())(network, taps), line


@torch.no_grad()
def returns_bare(network: nn.Module, path: str, call: dict[str, Any]) -> bool:
    """Whether the layers of ``network`` return the hidden state itself, and not a tuple, when it is called.

    Raises:
        ValueError: a layer is not called, or changes the shape of the hidden state.
    """
    layers: Any = network.get_submodule(path)
    seen: list[tuple[Tensor, Any]] = []

    def watch(module: nn.Module, args: Any, kwargs: Any, answer: Any) -> None:
        seen.append((split_call(args, kwargs)[0], answer))

    hooks = [layer.register_forward_hook(watch, with_kwargs=True) for layer in layers]
    training = network.training
    try:
        network.eval()(**call)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    if len(seen) != len(layers):
        raise ValueError(f"{len(layers)} layers in {path} are called {len(seen)} times; each must be called once")
    bare = isinstance(seen[0][1], Tensor)
    for i, (hidden, answer) in enumerate(seen):
        after = answer if bare else answer[0]
        if not isinstance(after, Tensor) or after.shape != hidden.shape:
            shape = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise ValueError(
                f"layer {i} of {path} takes a hidden state of {tuple(hidden.shape)} and returns {shape}; the layers of "
                "a residual network keep the shape"
            )
    return bare
