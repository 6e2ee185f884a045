"""The contract of a kind of network of another library: how one is called, and what of its answer counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from oneblock.condition import Condition


@dataclass(frozen=True)
class Argument:
    """An argument of a network's call that has a row for each class.

    Args:
        shape: of a row; 0 for any size.
        needed: the network cannot be called without it.
    """

    shape: tuple[int, ...]
    needed: bool = True


@dataclass(frozen=True)
class Kind(ABC):
    """What a network is for.

    Args:
        outputs: symbols, classes or channels; answers beyond are cut off.
        special_id: the id that stands before a text, or for a masked place.
    """

    outputs: int
    special_id: int = 0

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    """What the class of such a network is called at its end."""
    knows_noise: ClassVar[bool] = False
    """The network is told the noise level itself; layers of others get it here."""
    knows_targets: ClassVar[bool] = False
    """The network is called with noisy targets; to others they are new."""

    @classmethod
    def fits(cls, network: type) -> bool:
        """Whether networks of a class are of this kind."""
        return network.__name__.endswith(cls.endings)

    @classmethod
    def of(cls, network: nn.Module, outputs: int, special_id: int | None) -> Self:
        """The kind of ``network``, as it is called; see ``convert``."""
        size = cls.size(network)
        if not 1 <= outputs <= size:
            allowed = f"use 1 to {size}" if size else "give it a head"
            raise ValueError(
                f"outputs={outputs} does not fit {type(network).__name__}, which answers with {size}; {allowed}"
            )
        return cls(outputs, cls.special_id_of(network, outputs) if special_id is None else special_id)

    @staticmethod
    @abstractmethod
    def size(network: nn.Module) -> int:
        """How many symbols, classes or channels the network answers with."""

    @classmethod
    def special_id_of(cls, network: nn.Module, outputs: int) -> int:
        """The id that stands before a text, or for a masked place; 0 for networks without ids."""
        return 0

    @abstractmethod
    def example(self, network: nn.Module) -> dict[str, Any]:
        """Arguments of a call of ``network``, on its device."""

    def example_shape(self, network: nn.Module) -> torch.Size:
        """Shape of the noisy targets of that call, where the answer is read by it (``answer``)."""
        return torch.Size()

    @abstractmethod
    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        """Arguments of the network's call for noisy targets (n, ...), noise conditioning (n,) and a condition."""

    @staticmethod
    def texts(network: nn.Module) -> Mapping[str, Argument]:
        """Arguments of the network's call that are told for each class besides."""
        return {}

    def with_texts(self, call: dict[str, Any], texts: Mapping[str, Tensor]) -> dict[str, Any]:
        """``call`` with those arguments, a row for each sample."""
        return {**call, **texts}

    def answer(self, found: Any, shape: torch.Size) -> Tensor:
        """What counts of the network's answer: logits (n, ..., outputs), or images (n, outputs, h, w).

        Args:
            shape: of the noisy targets.
        """
        logits: Tensor = found.logits[..., : self.outputs]
        return logits


def config_of(network: nn.Module) -> Any:
    """The configuration of a network of transformers or diffusers."""
    return network.config


def first_of(network: nn.Module) -> Tensor:
    """A parameter of a network, for its device and type."""
    return next(network.parameters())
