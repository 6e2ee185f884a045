"""Policies of revealing: which masked places get their symbols after a call. Training and sampling share one object.

A policy sees for every place the probability of the likeliest symbol, and which places are masked.

- ``Uncertainty``: the surest places, as long as their uncertainties add up to less than tau (Rozonoyer et al., "Learned
  Relay Representations", https://arxiv.org/abs/2605.22967; the rule of entropy-bounded unmasking, Ben-Hamu et al.,
  https://arxiv.org/abs/2505.24857, with ``1 - p`` for the entropy);
- ``Threshold``: all places that are sure enough, and the surest of every window, so that each call goes on everywhere
  (Wu et al., "Fast-dLLM", Section 3.3, https://arxiv.org/abs/2505.22618);
- ``Schedule``: any places, as many as the masked share falls by in a step of a fixed schedule (Sahoo et al., "Simple
  and Effective Masked Diffusion Language Models", Equation 7, https://arxiv.org/abs/2406.07524).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from oneblock.checks import check_count, check_fields, check_number


class Policy(Protocol):
    """Says what is revealed after a call."""

    def __call__(self, sure: Tensor, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """bool (n, t): places to reveal, all of them ``hidden``.

        Args:
            sure: (n, t), the probability of the likeliest symbol, in [0, 1].
            hidden: bool (n, t), which places are masked.
            generator: of all randomness; on any device.
        """

    @property
    def number(self) -> float:
        """What tells it from others of its kind."""

    def settled(self) -> Policy:
        """The same for sampling, without what is varied in training alone."""


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Places in the order of their uncertainty ``1 - sure`` while the sum of these stays below tau; at least one."""

    tau: float = 0.15
    """0 reveals one place a call."""
    spread: float = 0.1
    """In training every call draws its tau from N(tau, spread), cut at 0."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("tau", self.tau, least=0)
        check_number("spread", self.spread, least=0)

    def __call__(self, sure: Tensor, hidden: Tensor, generator: torch.Generator) -> Tensor:
        tau = torch.full((), self.tau, device=generator.device)
        if self.spread:
            tau = tau + self.spread * torch.randn((), generator=generator, device=generator.device)
        unsure = (1 - sure.double()).masked_fill(~hidden, torch.inf)
        ordered, places = unsure.sort(dim=-1, stable=True)
        taken = ordered.cumsum(-1) < tau.to(sure.device).clamp_min(0)
        taken[:, 0] = True
        return torch.zeros_like(hidden).scatter(-1, places, taken) & hidden

    @property
    def number(self) -> float:
        return self.tau

    def settled(self) -> Self:
        return replace(self, spread=0.0)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Places that are surer than a probability, and the surest masked place of every window."""

    probability: float = 0.85
    window: int = 32
    """Places of a window."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("probability", self.probability, least=0, most=1)
        check_count("window", self.window)

    def __call__(self, sure: Tensor, hidden: Tensor, generator: torch.Generator) -> Tensor:
        left = sure.masked_fill(~hidden, -1.0)
        best = [torch.zeros_like(part).scatter(-1, part.argmax(-1, keepdim=True), 1.0) for part in self._cut(left)]
        return ((sure > self.probability) | torch.cat(best, -1).bool()) & hidden

    def _cut(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split(self.window, -1)

    @property
    def number(self) -> float:
        return self.probability

    def settled(self) -> Self:
        return self


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Any place with probability ``1 / (steps m)``, where m is the share of places that are masked: what is expected
    to be masked falls by ``1 / steps`` in a call."""

    steps: int = 64

    def __post_init__(self) -> None:
        check_fields(self)
        check_count("steps", self.steps)

    def __call__(self, sure: Tensor, hidden: Tensor, generator: torch.Generator) -> Tensor:
        share = hidden.double().mean(-1, keepdim=True)
        drawn = torch.rand(hidden.shape, generator=generator, device=generator.device).to(hidden.device)
        return (drawn * self.steps * share < 1) & hidden

    @property
    def number(self) -> float:
        return self.steps

    def settled(self) -> Self:
        return self


PolicyName = Literal["uncertainty", "threshold", "schedule"]


def policy_of(name: PolicyName, at: float = 0.0) -> Policy:
    """A policy by its name.

    Args:
        at: its tau, its probability or its number of steps; 0 is the usual one.
    """
    if name == "schedule":
        return Schedule(steps=round(at)) if at else Schedule()
    if name == "threshold":
        return Threshold(probability=at) if at else Threshold()
    return Uncertainty(tau=at) if at else Uncertainty()
