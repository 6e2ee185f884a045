"""States in sampling: a wrapper that carries them from call to call, so that every sampler can do without knowing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, overload

import torch
from torch import Tensor

from oneblock.blockwise import Denoiser, DenoiserLike
from oneblock.condition import Condition
from oneblock.state import NOBODY, START, Hidden, State, StatefulDenoiser

Carry = Literal["private", "twice", "across", "off"]
"""What happens to a state in sampling: it lives within a band, whose first call has none (private); the same, and the
first call of a band is made a second time with the state that it has left, at the same level (twice); it also goes from
band to band (across); there is none (off)."""


class Carrying:
    """A denoiser whose calls hand states on; for one run of a sampler.

    Args:
        denoiser: knows states.
    """

    def __init__(self, denoiser: DenoiserLike) -> None:
        self._denoiser = cast(StatefulDenoiser, denoiser)
        self.state: State = START

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        answer, self.state = self._denoiser(z, sigma, condition, self.state)
        return answer


@dataclass(frozen=True)
class AtBorders:
    """A denoiser of the whole noise range that says what becomes of a state at the border of a band.

    Args:
        denoiser: whose states are private.
        carry: ``"private"``, ``"twice"`` or ``"across"``.
    """

    denoiser: Denoiser
    carry: Carry

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...

    def __call__(
        self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        if state is None:
            return self.denoiser(z, sigma, condition)
        owners = self.denoiser.owners(sigma).to(z.device)
        if self.carry == "across" and isinstance(state, Hidden):
            state = state.of(owners)
        answer, left = self.denoiser(z, sigma, condition, state)
        if self.carry != "twice" or not isinstance(left, Hidden):
            return answer, left
        before = state.owner if isinstance(state, Hidden) else torch.full_like(owners, NOBODY)
        new = (before != owners).nonzero()[:, 0]
        if not len(new):
            return answer, left
        again, now = self.denoiser(z[new], sigma[new], condition.take(new), left.take(new))
        tokens = left.tokens.index_copy(0, new, cast(Hidden, now).tokens)
        return answer.index_copy(0, new, again), Hidden(tokens, left.owner)
