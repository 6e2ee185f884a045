"""Copies of parts of a network, in which some tensors may not be copies: frozen ones, and those without content."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from oneblock.convert.counting import faking

Module = TypeVar("Module", bound=nn.Module)


class Copier:
    """Makes the deep copies that a block consists of. While tensors are fake (``memory.fake_tensors``) the copies have
    no content, so that a network of any size is copied at once.

    Args:
        frozen: parameters of the copies are not trained, and share their memory with those that they stand in for,
            which nothing writes.
    """

    def __init__(self, frozen: bool = False) -> None:
        self._frozen = frozen
        self._shared: dict[int, Tensor] = {}

    def __call__(self, module: Module, memo: dict[int, Any] | None = None) -> Module:
        """A copy of ``module``.

        Args:
            memo: what stands in the places of parts that are not copied, by their ``id``, as for ``deepcopy``.
        """
        found = dict(memo or {})
        fake = faking()
        for tensor in _tensors(module):
            shared = self._frozen and isinstance(tensor, nn.Parameter)
            if id(tensor) in found or not (fake or shared):
                continue
            known = self._shared if shared else found
            if id(tensor) not in known:
                known[id(tensor)] = _stand_in(tensor, fake, self._frozen)
            found[id(tensor)] = known[id(tensor)]
        return deepcopy(module, found)


def emptied(tensor: Tensor) -> Tensor:
    """A tensor of the same form without content, while tensors are fake."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def source_of(parameter: Tensor) -> Tensor | None:
    """What a frozen parameter of a copy, or one without content, stands in for; None for others."""
    return getattr(parameter, "copied_from", None)


def _stand_in(tensor: Tensor, fake: bool, frozen: bool) -> Tensor:
    made = emptied(tensor) if fake else tensor.detach()
    if not isinstance(tensor, nn.Parameter):
        return made
    parameter: Any = nn.Parameter(made, requires_grad=tensor.requires_grad and not frozen)
    parameter.copied_from = tensor
    return cast(Tensor, parameter)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers and plain attributes."""
    for part in module.modules():
        yield from part.parameters(recurse=False)
        yield from part.buffers(recurse=False)
        yield from (value for value in vars(part).values() if isinstance(value, Tensor))
