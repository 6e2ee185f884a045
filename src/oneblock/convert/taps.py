"""Taps: modules that stand in the places of a network's layers, so that its own code runs without them.

A library's forward pass does what comes before the layers, calls each of them with the hidden state and whatever else
it needs (masks, positions, caches), and does what comes after. With taps in their places the same code gives, up to the
last tap, what the layers are called with; and with a hidden state handed to the last tap, what is made of it. So no
library's forward pass is written again.

A layer of two streams takes the tokens of a text and of an image apart, and returns both. The hidden state is then one
tensor: the text, and behind it the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from oneblock.convert.copies import Copier


class Form(Enum):
    """What a layer takes and returns."""

    BARE = "the hidden state"
    FIRST = "the hidden state, and a tuple that begins with it"
    STREAMS = "image and text tokens, and a pair of text and image tokens"


@dataclass(frozen=True)
class Call:
    """What a layer is called with besides the hidden state.

    Args:
        text: tokens of the hidden state that are a stream of their own.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    text: int = 0


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
    """

    def __init__(self, layer: nn.Module, index: int, count: int, line: Line, form: Form) -> None:
        super().__init__()
        self._plain = {
            name: value for name, value in vars(layer).items() if isinstance(value, int | float | str | None)
        }
        self._index, self._last, self._line, self._form = index, index == count - 1, line, form

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
        streams, call = split_call(args, kwargs, self._form)
        if session.hidden is None:
            session.hidden = joined(streams)
        session.calls.append(call)
        if not self._last:
            return as_answer(streams, self._form)
        if session.answer is None:
            raise ReachedError
        return as_answer(taken_apart(session.answer, call), self._form)


Streams = tuple[Tensor, ...]
"""The hidden state (n, t, d) as a layer takes it: one tensor, or those of text and image."""


def split_call(args: tuple[Any, ...], kwargs: dict[str, Any], form: Form) -> tuple[Streams, Call]:
    """The hidden state of a call of a layer, and the rest."""
    rest, left = dict(kwargs), list(args)
    hidden = left.pop(0) if left else rest.pop("hidden_states")
    if form is not Form.STREAMS:
        return (hidden,), Call(tuple(left), rest)
    text = left.pop(0) if left else rest.pop("encoder_hidden_states")
    return (text, hidden), Call(tuple(left), rest, text.shape[1])


def joined(streams: Streams) -> Tensor:
    """The hidden state as one tensor."""
    return streams[0] if len(streams) == 1 else torch.cat(streams, dim=1)


def taken_apart(h: Tensor, call: Call) -> Streams:
    """The hidden state as the layer of ``call`` takes it."""
    return (h[:, : call.text], h[:, call.text :]) if call.text else (h,)


def as_answer(streams: Streams, form: Form) -> Any:
    """The hidden state as a layer returns it."""
    return streams[0] if form is Form.BARE else streams


def from_answer(answer: Any, form: Form, h: Tensor, call: Call) -> Tensor:
    """The hidden state after a layer of ``form`` that was given ``h``, of its ``answer``; a text that is not returned,
    as no layer comes after, stays as it was."""
    if form is Form.BARE:
        found: Tensor = answer
    elif form is Form.FIRST:
        found = answer[0]
    else:
        text, image = answer
        found = torch.cat([h[:, : call.text] if text is None else text, image], dim=1)
    return found


def called(layer: nn.Module, form: Form, h: Tensor, call: Call) -> Tensor:
    """The hidden state after ``layer``, which takes the one ``h`` before it."""
    if form is Form.STREAMS:
        text, image = taken_apart(h, call)
        answer = layer(image.contiguous(), text.contiguous(), *call.args, **call.kwargs)
    else:
        answer = layer(h, *call.args, **call.kwargs)
    return from_answer(answer, form, h, call)


def without_layers(
    network: nn.Module, layers: Sequence[nn.Module], forms: Sequence[Form], copier: Copier | None = None
) -> tuple[nn.Module, Line]:
    """A copy of ``network`` with taps in the places of its layers, which are not copied, and what the taps share."""
    line = Line()
    taps = {
        id(layer): Tap(layer, i, len(layers), line, form)
        for i, (layer, form) in enumerate(zip(layers, forms, strict=True))
    }
    return (copier or Copier())(network, taps), line


class _Watch:
    """Hooks on layers while their network is called: the form of each, and whether one continues the other."""

    def __init__(self, layers: Sequence[nn.Module], path: str) -> None:
        self.layers, self.path = layers, path
        self.forms: list[Form] = []
        self._args: tuple[Any, ...] = ()
        self._kwargs: dict[str, Any] = {}
        self._after: Tensor | None = None

    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps what a layer is called with, which it may change in its place."""
        self._args = tuple(map(_kept, args))
        self._kwargs = {name: _kept(value) for name, value in kwargs.items()}

    def after(self, layer: nn.Module, args: Any, answer: Any) -> None:
        """Checks what it answers."""
        i = len(self.forms)
        if i == len(self.layers) or layer is not self.layers[i]:
            raise ValueError(f"the layers in {self.path} are not called once each, and in their order")
        form = _form(self._kwargs, answer)
        streams, call = split_call(self._args, self._kwargs, form)
        hidden = joined(streams)
        after = from_answer(answer, form, hidden, call)
        if not isinstance(after, Tensor) or after.shape != hidden.shape:
            shape = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise ValueError(
                f"layer {i} of {self.path} takes a hidden state of {tuple(hidden.shape)} and returns {shape}; the "
                "layers of a residual network keep the shape"
            )
        if self._after is not None and not _same(hidden, self._after):
            raise ValueError(
                f"the network changes the hidden state between layers {i - 1} and {i} of {self.path}, where a block "
                "may end; only networks whose layers continue each other are cut"
            )
        self.forms.append(form)
        self._after = after.clone()


@torch.no_grad()
def forms_of(network: nn.Module, layers: Sequence[nn.Module], path: str, call: dict[str, Any]) -> list[Form]:
    """What each of the layers takes and returns, when ``network`` is called.

    Raises:
        ValueError: a layer is not called in its turn, or changes the shape of the hidden state, or the network changes
            it between two layers.
    """
    watch = _Watch(layers, path)
    hooks = [layer.register_forward_pre_hook(watch.before, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(watch.after) for layer in layers]
    training = network.training
    try:
        network.eval()(**call)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    if len(watch.forms) < len(layers):
        raise ValueError(f"{len(layers)} layers in {path} are called {len(watch.forms)} times; each must be once")
    return watch.forms


def _form(kwargs: dict[str, Any], answer: Any) -> Form:
    if isinstance(answer, Tensor):
        return Form.BARE
    text: Any = kwargs.get("encoder_hidden_states")
    if not isinstance(text, Tensor) or not isinstance(answer, tuple) or len(answer) != 2:
        return Form.FIRST
    returned = answer[0] is None or answer[0].shape == text.shape
    return Form.STREAMS if returned and isinstance(answer[1], Tensor) else Form.FIRST


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())
