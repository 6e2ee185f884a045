"""States: hidden tokens that one call of a denoiser hands to the next (relay).

A denoiser that knows states is called in two ways:

- ``denoiser(z, sigma, condition) -> answer``, as every denoiser is: no state enters, and none is kept;
- ``denoiser(z, sigma, condition, state) -> (answer, state)``, with what the call before has left, ``START`` for the
  first one.

Both give the same answer for ``START``, so code that knows nothing of states stays as it is. What a state is made of
is the affair of the denoiser that left it: a block leaves ``Hidden`` tokens, a wrapper with several branches one state
for each of them (``Several``). Whoever carries states may take some of the samples, or join two batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final, overload

import torch
from torch import Tensor

from oneblock.condition import Condition, Index

NOBODY = -1
"""Owner of the state of a sample that has none."""


class State(ABC):
    """What a call about n samples has left for the next one."""

    @abstractmethod
    def take(self, index: Index) -> State:
        """The states of the samples of ``index``, in its order."""

    @abstractmethod
    def join(self, other: State) -> State:
        """The states of these samples, then those of others, which the same denoiser has left; else a ``ValueError``.
        Where one of the two is ``START``, it is for as many samples as the other."""

    @abstractmethod
    def detach(self) -> State:
        """The same without a graph."""


class StatefulDenoiser(Protocol):
    """A denoiser that knows states; see the module."""

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...


@final
@dataclass(frozen=True)
class Start(State):
    """No sample has a state; before the first call."""

    def take(self, index: Index) -> Start:
        return self

    def join(self, other: State) -> State:
        if isinstance(other, Hidden):
            return other.none().join(other)
        if isinstance(other, Several):
            return Several(tuple(self.join(part) for part in other.parts))
        return self

    def detach(self) -> Start:
        return self


START = Start()


@final
@dataclass(frozen=True, eq=False)
class Hidden(State):
    """Hidden tokens of n samples.

    Args:
        tokens: (n, ..., d), floating point.
        owner: int64 (n,), the block whose call has left them; ``NOBODY`` for a sample without a state, whose tokens
            are not looked at.
    """

    tokens: Tensor
    owner: Tensor

    def __post_init__(self) -> None:
        if self.owner.dtype != torch.int64 or self.owner.shape != self.tokens.shape[:1]:
            raise ValueError(
                f"owner is {self.owner.dtype} {tuple(self.owner.shape)}, tokens {tuple(self.tokens.shape)}; "
                f"torch.int64 ({len(self.tokens)},) is allowed: one block for each sample"
            )

    @property
    def present(self) -> Tensor:
        """bool (n,): which samples have a state."""
        return self.owner != NOBODY

    def take(self, index: Index) -> Hidden:
        return Hidden(self.tokens[index], self.owner[index])

    def only(self, kept: Tensor) -> Hidden:
        """The same without the states of samples that are not ``kept`` (n,)."""
        return replace(self, owner=torch.where(kept, self.owner, NOBODY))

    def of(self, owner: Tensor | int) -> Hidden:
        """The same, as left by the block ``owner`` (n,); samples without a state have none."""
        return replace(self, owner=torch.where(self.present, owner, NOBODY))

    def none(self) -> Hidden:
        """As many samples without states."""
        return Hidden(torch.zeros_like(self.tokens), torch.full_like(self.owner, NOBODY))

    def join(self, other: State) -> Hidden:
        if isinstance(other, Start):
            other = self.none()
        if not isinstance(other, Hidden):
            raise ValueError(f"Hidden and {type(other).__name__} cannot be joined; use states of one denoiser")
        return Hidden(torch.cat([self.tokens, other.tokens]), torch.cat([self.owner, other.owner]))

    def detach(self) -> Hidden:
        return replace(self, tokens=self.tokens.detach())


@final
@dataclass(frozen=True)
class Several(State):
    """The states of the branches of a wrapper, in its order; each is of the same n samples."""

    parts: tuple[State, ...]

    def take(self, index: Index) -> Several:
        return Several(tuple(part.take(index) for part in self.parts))

    def join(self, other: State) -> Several:
        others = other.parts if isinstance(other, Several) else (other,) * len(self.parts)
        if isinstance(other, Hidden) or len(others) != len(self.parts):
            raise ValueError(
                f"{len(self.parts)} states and {type(other).__name__} cannot be joined; use one denoiser's"
            )
        return Several(tuple(mine.join(theirs) for mine, theirs in zip(self.parts, others, strict=True)))

    def detach(self) -> Several:
        return Several(tuple(part.detach() for part in self.parts))


def branches(state: State, count: int) -> tuple[State, ...]:
    """The states of the ``count`` branches of a wrapper, from what its last call has left."""
    if isinstance(state, Several) and len(state.parts) == count:
        return state.parts
    if isinstance(state, Start):
        return (START,) * count
    raise ValueError(f"the state is of another denoiser, not of one with {count} branches; begin with START")


def joined(states: Sequence[State]) -> State:
    """The states of several batches, one or more, in order."""
    first, *others = states
    for other in others:
        first = first.join(other)
    return first
