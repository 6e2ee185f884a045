"""Guidance and ensembles: wrappers that are denoisers themselves, so every sampler accepts them.

They know states (``oneblock.state``) if those that they wrap do: each branch, and each member, carries its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import check_number
from oneblock.condition import Condition
from oneblock.precondition import aligned
from oneblock.state import START, Several, State, StatefulDenoiser, branches


def check_guidance(scale: float, interval: tuple[float, float]) -> None:
    """Refuse a scale below 0, and an interval in which nothing would be guided: a ``ValueError``."""
    check_number("guidance", scale, least=0)
    lower, upper = interval
    if not 0 <= lower < upper:
        raise ValueError(
            f"guidance_interval={interval} is not an interval; use two noise levels from 0 on, the lower one first"
        )


@dataclass(frozen=True)
class ClassifierFree:
    """``D_null + scale (D - D_null)`` inside an interval of noise levels, ``D`` outside; ``D_null`` is told nothing.

    Ho and Salimans, "Classifier-Free Diffusion Guidance", Equation 6, https://arxiv.org/abs/2207.12598 (their w is
    ``scale - 1``); the interval: Kynkaanniemi et al., https://arxiv.org/abs/2404.07724.

    Args:
        denoiser: trained with conditions of which some were nulled (label dropout); it is told one that has a ``null``.
        scale: 1 means no guidance.
        interval: ``(lower, upper)`` noise levels between which guidance acts.

    Raises:
        ValueError: see ``check_guidance``.
    """

    denoiser: DenoiserLike
    scale: float
    interval: tuple[float, float] = (0.0, float("inf"))

    def __post_init__(self) -> None:
        check_guidance(self.scale, self.interval)

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...

    def __call__(
        self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        lower, upper = self.interval
        acts = (sigma >= lower) & (sigma <= upper)
        if self.scale == 1.0 or not bool(acts.any()):
            if state is None:
                return self.denoiser(z, sigma, condition)
            answer, left = cast(StatefulDenoiser, self.denoiser)(z, sigma, condition, branches(state, 2)[0])
            return answer, Several((left, START))
        both = condition.join(condition.null())
        inputs = torch.cat([z, z]), torch.cat([sigma, sigma]), both
        scale = aligned(torch.where(acts, self.scale, 1.0).to(z.dtype), z)
        if state is None:
            told, untold = self.denoiser(*inputs).chunk(2)
            return untold + scale * (told - untold)
        of_told, of_untold = branches(state, 2)
        answers, left = cast(StatefulDenoiser, self.denoiser)(*inputs, of_told.join(of_untold))
        told, untold = answers.chunk(2)
        count = len(z)
        halves = left.take(slice(0, count)), left.take(slice(count, 2 * count))
        return untold + scale * (told - untold), Several(halves)


@dataclass(frozen=True)
class Ensemble:
    """Denoisers whose answers are logits, as one whose probabilities are the mean of theirs.

    Args:
        members: one or more; all are asked in every call.
    """

    members: Sequence[DenoiserLike]

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...

    def __call__(
        self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        answers, left = _asked(self.members, z, sigma, condition, state)
        logs = torch.stack([answer.float().log_softmax(-1) for answer in answers])
        pooled = logs.logsumexp(0) - math.log(len(self.members))
        return pooled if state is None else (pooled, left)


@dataclass(frozen=True)
class Averaged:
    """Denoisers whose answers are clean targets, as one whose answer is the mean of theirs.

    Args:
        members: one or more; all are asked in every call.
    """

    members: Sequence[DenoiserLike]

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...

    def __call__(
        self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        answers, left = _asked(self.members, z, sigma, condition, state)
        pooled = torch.stack(answers).mean(0)
        return pooled if state is None else (pooled, left)


def _asked(
    members: Sequence[DenoiserLike], z: Tensor, sigma: Tensor, condition: Condition, state: State | None
) -> tuple[list[Tensor], State]:
    """The answers of all members; with a ``state`` also what each has left."""
    if state is None:
        return [member(z, sigma, condition) for member in members], START
    answers: list[Tensor] = []
    left: list[State] = []
    for member, own in zip(members, branches(state, len(members)), strict=True):
        answer, new = cast(StatefulDenoiser, member)(z, sigma, condition, own)
        answers.append(answer)
        left.append(new)
    return answers, Several(tuple(left))
