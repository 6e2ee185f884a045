"""Relay: hidden tokens of one call enter the next call of the same network.

    h = embed(z) + norm(h'),    h' the hidden tokens of the call before

Rozonoyer et al., "Learned Relay Representations for Forward-Thinking Discrete Diffusion Models", Section 3,
https://arxiv.org/abs/2605.22967. ``norm`` is a LayerNorm, the only new weights. Behind it there may be a linear map, as
in Recurrent Interface Networks (Jabri et al., Section 3.2, https://arxiv.org/abs/2212.11972).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oneblock.backbone import Backbone, Modulation, as_backbone, forward, through
from oneblock.checks import check_choice
from oneblock.condition import Condition
from oneblock.state import START, Hidden, State

Inject = Literal["masked", "all"]
LINK = "relay"
"""Of the weights that a network has besides its own: what their names begin with."""


class Link(nn.Module):
    """The way of a state into the embedding: LayerNorm, then perhaps a linear map.

    Args:
        width: d.
        linear: with a linear map.
        zero_init: its last part starts at zero, so that a state changes nothing; otherwise as torch makes it.
    """

    def __init__(self, width: int, linear: bool, zero_init: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.map = nn.Linear(width, width) if linear else nn.Identity()
        last = self.map if linear else self.norm
        for weights in last.parameters() if zero_init else ():
            nn.init.zeros_(weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, ..., d) -> (n, ..., d)."""
        entered: Tensor = self.map(self.norm(tokens))
        return entered


class RelayAdapter(nn.Module):
    """A backbone whose hidden tokens enter its next call.

    It takes over the network's parts under their own names and adds the weights of ``relay``. It is a backbone itself:
    called without a state it computes exactly what the network computes. Wrap a network before it is compiled, sharded
    or given to an optimizer.

    Args:
        network: a ``Backbone`` whose hidden state is tokens (n, ..., d), with the same axes after the stem as after
            each layer.
        read_layer: after which of its layers the state is read, -1 the last, 0 the first.
        inject: a state enters at the places that are masked, or at all.
        zero_init: a state changes nothing at the start; for a network that has been trained without. One that starts
            from nothing may have False.
        mask_id: the token of a masked place, for ``inject="masked"``.
        width: d; 0 is ``network.config.width``.
        linear: with a linear map behind the norm.

    Raises:
        ValueError: the network is not a backbone, has weights outside of its parts, or the arguments do not fit.
    """

    stem: Callable[[Tensor, Tensor, Condition], tuple[Tensor, Modulation]]
    layers: nn.ModuleDict
    head: Callable[[Tensor, Modulation], Tensor]
    config: object

    def __init__(
        self,
        network: nn.Module,
        read_layer: int = -1,
        inject: Inject = "masked",
        zero_init: bool = True,
        *,
        mask_id: int | None = None,
        width: int = 0,
        linear: bool = False,
    ) -> None:
        super().__init__()
        check_choice("inject", inject, get_args(Inject))
        if (inject == "masked") != (mask_id is not None):
            raise ValueError(
                f"inject={inject!r}, mask_id={mask_id}: give the token of a masked place with inject='masked', and "
                "only then"
            )
        count = len(as_backbone(network).layers)
        if not -count <= read_layer < count:
            raise ValueError(f"read_layer={read_layer} does not exist; use {-count} to {count - 1}")
        _take_over(self, network)
        self.relay = Link(_width(network, width), linear, zero_init)
        self.read_layer, self.inject, self.mask_id = read_layer, inject, mask_id

    def forward(
        self, z: Tensor, noise: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        """The network's prediction, or with a ``state`` the prediction and the next state; see ``relayed``."""
        return forward(self, z, noise, condition) if state is None else relayed(self, z, noise, condition, state)

    def entered(self, z: Tensor, h: Tensor, state: State) -> Tensor:
        """The embedded tokens ``h`` (n, ..., d) of ``z`` (n, ...) with the state."""
        if isinstance(state, Hidden):
            added = self.relay(state.tokens.to(h.dtype)).to(h.dtype)
            return h + torch.where(self._where(z, h, state), added, torch.zeros_like(added))
        if state is not START:
            raise ValueError(f"the state is {type(state).__name__}; a block takes Hidden or START")
        if self.training and torch.is_grad_enabled():  # every parameter gets a gradient, as several processes want it
            return h + 0.0 * self.relay(h.detach()).to(h.dtype)
        return h

    def _where(self, z: Tensor, h: Tensor, state: Hidden) -> Tensor:
        """Where it enters: bool, as many axes as ``h``."""
        present = state.present.view(-1, *[1] * (h.ndim - 1))
        return present & z.eq(self.mask_id)[..., None] if self.mask_id is not None else present

    @property
    def opening(self) -> float:
        """How far the way of the state is open: the norm of the weights that start at zero, over the root of their
        number; waits for their device."""
        last = self.relay.map if isinstance(self.relay.map, nn.Linear) else self.relay.norm
        return float(last.weight.detach().float().square().mean().sqrt())

    def save_relay(self, path: str | Path) -> None:
        """Write the weights of the state's way alone: a safetensors file."""
        save_file({name: t.detach().cpu().contiguous() for name, t in self.relay.state_dict().items()}, str(path))

    def load_relay(self, path: str | Path) -> None:
        """Inverse of ``save_relay``; a ``ValueError`` if the file is of another width or kind."""
        try:
            self.relay.load_state_dict(load_file(str(path)))
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not fit this adapter ({error}); use one of the same width and kind"
            ) from error


def relayed(
    backbone: Backbone, z: Tensor, noise: Tensor, condition: Condition, state: State, checkpointing: bool = False
) -> tuple[Tensor, State]:
    """The prediction of ``backbone`` for ``z`` (n, ...) with the ``state`` of the call before, and the next state,
    owned by block 0. A backbone without ``RelayAdapter`` hands on nothing.

    Args:
        checkpointing: see ``backbone.forward``.
    """
    if not isinstance(backbone, RelayAdapter):
        return forward(backbone, z, noise, condition, checkpointing), START
    h, modulation = backbone.stem(z, noise, condition)
    h = backbone.entered(z, h, state)
    layers = list(backbone.layers.values())
    read = backbone.read_layer % len(layers) + 1
    h = kept = through(layers[:read], h, modulation, checkpointing)
    h = through(layers[read:], h, modulation, checkpointing)
    owner = torch.zeros(len(z), dtype=torch.int64, device=kept.device)
    return backbone.head(h, modulation), Hidden(kept, owner)


def _take_over(adapter: nn.Module, network: nn.Module) -> None:
    """The parts of ``network`` become those of ``adapter``, under the same names."""
    own = [name for name, _ in (*network.named_parameters(recurse=False), *network.named_buffers(recurse=False))]
    children = dict(network.named_children())
    if own or LINK in children:
        name = own[0] if own else LINK
        raise ValueError(
            f"{type(network).__name__}.{name} stands outside of its parts, or has the name of the adapter's own; put "
            "weights and buffers into submodules, of other names than 'relay'"
        )
    for name, child in children.items():
        adapter.add_module(name, child)
    for part in ("stem", "head"):
        if part not in children:  # a method, which knows the network
            setattr(adapter, part, getattr(network, part))
    adapter.config = getattr(network, "config", None)  # type: ignore[assignment]


def _width(network: nn.Module, width: int) -> int:
    found = width or getattr(getattr(network, "config", None), "width", 0)
    if not isinstance(found, int) or found < 1:
        raise ValueError(
            f"width={width}: {type(network).__name__} does not say how wide its tokens are; give width=..."
        )
    return found
