"""Backbones: residual networks in three parts, built for any range of their layers.

- ``stem(z, noise, condition) -> (h, modulation)``: noisy target (n, ...), noise conditioning (n,) and what the denoiser
  is told become the hidden state, and whatever layers and head must know besides it
- ``layers``: a ``ModuleDict`` from a layer's index in the whole network to ``layer(h, modulation) -> h``
- ``head(h, modulation) -> prediction``

A builder is given the range of layers to build, so that the layers of other blocks never exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oneblock.condition import Condition

Modulation = Any
"""What a stem hands to its layers and its head: a tensor, a tuple, anything. It is the backbone's own affair."""

BuildBackbone = Callable[[range], nn.Module]
"""From a range of layers to a ``Backbone`` that has these and no others, with fresh weights."""


LOADING: ContextVar[str] = ContextVar("loading", default="")
"""``module:Class`` of a user's own network while its module is imported by name."""


def refuse_while_loading(what: str) -> None:
    """Refuse to start anything from a module that is imported for its network alone, with a ``ValueError``: a job that
    imports a program would run it, which starts jobs, and so on without end."""
    if LOADING.get():
        raise ValueError(
            f"{what} is called while {LOADING.get()} is imported for its network; put the call below "
            "`if __name__ == '__main__':` in that module"
        )


class Backbone(Protocol):
    """The three parts of a network; see the module. ``as_backbone`` checks an ``nn.Module`` for them.

    ``isinstance`` does not: from Python 3.12 on it overlooks the parts of an ``nn.Module``.
    """

    @property
    def stem(self) -> Callable[[Tensor, Tensor, Condition], tuple[Tensor, Modulation]]: ...

    @property
    def layers(self) -> nn.ModuleDict: ...

    @property
    def head(self) -> Callable[[Tensor, Modulation], Tensor]: ...


def forward(backbone: Backbone, z: Tensor, noise: Tensor, condition: Condition, checkpointing: bool = False) -> Tensor:
    """The prediction of ``backbone`` for ``z`` (n, ...) at noise conditioning (n,).

    Args:
        checkpointing: recompute the activations of each layer in the backward pass.
    """
    h, modulation = hidden(backbone, z, noise, condition, checkpointing)
    return backbone.head(h, modulation)


def hidden(
    backbone: Backbone, z: Tensor, noise: Tensor, condition: Condition, checkpointing: bool = False
) -> tuple[Tensor, Modulation]:
    """The same up to the head: the hidden state after the last layer, and the modulation."""
    h, modulation = backbone.stem(z, noise, condition)
    return through(backbone.layers.values(), h, modulation, checkpointing), modulation


def through(layers: Iterable[nn.Module], h: Tensor, modulation: Modulation, checkpointing: bool = False) -> Tensor:
    """The hidden state ``h`` after ``layers``, one after the other."""
    for layer in layers:
        if checkpointing and torch.is_grad_enabled():
            # a step that draws from torch's generators is never recorded, and while it is their state cannot be asked
            drawing = not (h.is_cuda and torch.cuda.is_current_stream_capturing())
            h = checkpoint(layer, h, modulation, use_reentrant=False, preserve_rng_state=drawing)
        else:
            h = layer(h, modulation)
    return h


def as_backbone(module: object) -> Backbone:
    """``module`` itself, checked to have the three parts.

    Raises:
        ValueError: it is not an ``nn.Module``, or lacks a part.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"the backbone is a {type(module).__name__}; give a torch.nn.Module with {_PARTS}")
    missing = [name for name in ("stem", "layers", "head") if not hasattr(module, name)]
    if missing:
        raise ValueError(f"{type(module).__name__} has no {' and no '.join(missing)}; a backbone needs {_PARTS}")
    if not isinstance(module.layers, nn.ModuleDict):
        raise ValueError(
            f"{type(module).__name__}.layers is a {type(module.layers).__name__}; a torch.nn.ModuleDict is allowed, "
            'from the index of each layer in the whole network to the layer, {"4": ..., "5": ...}'
        )
    for name in ("stem", "head"):
        if not callable(getattr(module, name)):
            raise ValueError(f"{type(module).__name__}.{name} cannot be called; a backbone needs {_PARTS}")
    return cast(Backbone, module)


def check_layers(backbone: Backbone, layers: range) -> None:
    """Refuse with a ``ValueError`` a backbone whose layers are not the ``layers`` that it was asked for."""
    asked, made = [str(i) for i in layers], list(backbone.layers)
    name = type(backbone).__name__
    if len(made) != len(asked):
        raise ValueError(
            f"{name} was asked for {len(asked)} of its layers, {layers}, and made {len(made)}; the builder must make "
            "the layers of this range and no others"
        )
    if made != asked:
        raise ValueError(
            f"the layers of {name} are named {_listed(made)}; those of {layers} must be named {_listed(asked)}, after "
            "their place in the whole network"
        )


def check_backbone(
    build: BuildBackbone, num_layers: int, z: Tensor, noise: Tensor, condition: Condition, expected: Sequence[int]
) -> None:
    """Refuse a builder that breaks the contract, before any training.

    Builds each layer alone, with stem and head, and calls it on an example. Random numbers come from a generator of
    its own; the default generator stays as it is.

    Args:
        build: gives the network with the layers of a range.
        num_layers: of the whole network.
        z, noise, condition: an example of what its stem is called with: (n, ...), (n,), n samples.
        expected: the shape of its answer.

    Raises:
        ValueError: what is built is not a backbone or has other layers than asked for, a layer changes the shape of the
            hidden state, the head's answer has not the expected shape, or a forward pass changes buffers.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers={num_layers} leaves no layer to call; use 1 or more")
    for i in range(num_layers):
        with torch.random.fork_rng(devices=[z.device] if z.is_cuda else []), torch.no_grad():
            torch.default_generator.manual_seed(0)  # leaves the GPU's alone
            built: object = build(range(i, i + 1))
            backbone = as_backbone(built)
            check_layers(backbone, range(i, i + 1))
            module = cast(nn.Module, built).to(z.device).train()
            before = {name: buffer.clone() for name, buffer in module.named_buffers()}
            _check_shapes(backbone, z, noise, condition, tuple(expected))
            _check_buffers(module, before)


def _check_shapes(
    backbone: Backbone, z: Tensor, noise: Tensor, condition: Condition, expected: tuple[int, ...]
) -> None:
    name = type(backbone).__name__
    entered = backbone.stem(z, noise, condition)
    if not (isinstance(entered, tuple) and len(entered) == 2 and isinstance(entered[0], Tensor)):
        raise ValueError(f"the stem of {name} returns {type(entered).__name__}; it must return a pair, (h, modulation)")
    h, modulation = entered
    for index, layer in backbone.layers.items():
        after = layer(h, modulation)
        if _shape(after) != h.shape:
            raise ValueError(
                f"layer {index} of {name} takes h of shape {tuple(h.shape)} and returns {_shape(after)}; the layers "
                "of a residual network must keep the shape"
            )
        h = after
    answer = _shape(backbone.head(h, modulation))
    if answer != expected:
        raise ValueError(
            f"the head of {name} returns {answer}; it must return {expected} for z of shape {tuple(z.shape)}"
        )


def _check_buffers(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Blocks keep parameters and their averages: what a forward pass writes into buffers would be lost."""
    moved = [name for name, buffer in module.named_buffers() if name not in before or not buffer.equal(before[name])]
    if moved:
        raise ValueError(
            f"{type(module).__name__} changes its buffers in training ({', '.join(moved)}), and a block keeps "
            "parameters alone; use a norm without statistics of batches (LayerNorm, GroupNorm, RMSNorm)"
        )


_PARTS = "stem(z, noise, condition) -> (h, modulation), layers and head(h, modulation)"


def _shape(value: object) -> object:
    """The shape of a tensor, or the type of what was given instead."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "not at all"
