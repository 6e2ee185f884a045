"""Guidance and ensembles: wrappers that are denoisers themselves, so every sampler accepts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import check_number
from oneblock.condition import Condition
from oneblock.precondition import aligned


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

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        lower, upper = self.interval
        acts = (sigma >= lower) & (sigma <= upper)
        if self.scale == 1.0 or not bool(acts.any()):
            return self.denoiser(z, sigma, condition)
        both = condition.join(condition.null())
        told, untold = self.denoiser(torch.cat([z, z]), torch.cat([sigma, sigma]), both).chunk(2)
        scale = aligned(torch.where(acts, self.scale, 1.0).to(z.dtype), z)
        return untold + scale * (told - untold)


@dataclass(frozen=True)
class Ensemble:
    """Denoisers whose answers are logits, as one whose probabilities are the mean of theirs.

    Args:
        members: one or more; all are asked in every call.
    """

    members: Sequence[DenoiserLike]

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        logs = torch.stack([member(z, sigma, condition).float().log_softmax(-1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))


@dataclass(frozen=True)
class Averaged:
    """Denoisers whose answers are clean targets, as one whose answer is the mean of theirs.

    Args:
        members: one or more; all are asked in every call.
    """

    members: Sequence[DenoiserLike]

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return torch.stack([member(z, sigma, condition) for member in self.members]).mean(0)
