"""Exponential moving average of weights with a width proportional to the training so far.

The power-function average of EDM2 (Karras et al., Section 3.1, https://arxiv.org/abs/2312.02696): after step t,
``ema += (1 - beta) (weights - ema)`` with ``beta = (1 - 1/t)^(gamma + 1)``. Unlike a fixed decay it needs no tuning to
the number of steps, and its first update copies the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ema_beta(step: int, gamma: float) -> float:
    """Decay for the update after step ``step`` (1-based); 0 at the first."""
    return float((1.0 - 1.0 / step) ** (gamma + 1.0))


@torch.no_grad()
def ema_follow(averages: dict[str, Tensor], weights: dict[str, Tensor], beta: Tensor) -> None:
    """The same update with the decay ``beta`` as a scalar tensor beside them: 1 leaves ``averages`` as they are.

    ``ema = beta ema + (1 - beta) weights``, rounded otherwise than ``ema_update``.
    """
    names = list(averages)
    moved = torch._foreach_mul([weights[n].detach() for n in names], 1.0 - beta)
    torch._foreach_mul_([averages[n] for n in names], beta)
    torch._foreach_add_([averages[n] for n in names], moved)


@torch.no_grad()
def ema_update(averages: dict[str, Tensor], weights: dict[str, Tensor], beta: float) -> None:
    """Move ``averages`` in place towards ``weights``: same names, same shapes."""
    names = list(averages)
    torch._foreach_lerp_([averages[n] for n in names], [weights[n].detach() for n in names], 1.0 - beta)
