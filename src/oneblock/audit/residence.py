"""How long chains stay: the likeness of successive states, its onset, and how many have not left yet.

Residence is not memorisation: chains also stay in constant or striped images (``audit.attractors``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from oneblock.checks import check_count

Features = Callable[[Tensor], Tensor]
"""Vectors (n, d) of states (n, ...)."""


def flat(x: Tensor) -> Tensor:
    """The numbers of each state as a vector."""
    return x.flatten(1)


def residence(states: Iterable[Tensor], features: Features = flat) -> Tensor:
    """``S_k = cos(phi(x_k), phi(x_{k-1}))`` (cycles, n) of a stream that begins with the start x_0 (n, ...)."""
    found, before = [], None
    for x in states:
        phi = features(x)
        if before is not None:
            found.append(torch.cosine_similarity(phi, before, dim=1))
        before = phi
    return torch.stack(found)


def steps(states: Iterable[Tensor]) -> Tensor:
    """``|x_k - x_{k-1}|`` (cycles, n), in units of the median of the first cycle: the cheap form of ``residence``; what
    stays takes small steps."""
    found, before = [], None
    for x in states:
        if before is not None:
            found.append((x - before).flatten(1).norm(dim=1))
        before = x
    lengths = torch.stack(found)
    return lengths / lengths[0].median().clamp_min(torch.finfo(lengths.dtype).tiny)


def onset(levels: Tensor, window: int = 5, share: float = 0.95) -> int | None:
    """The first cycle from 0 on from which ``levels`` (cycles,) stay, for ``window`` cycles, above ``share`` of their
    rise from the mean of the first ``window`` to that of the last; None if they do not rise or never stay."""
    check_count("window", window, 1, len(levels))
    early, late = levels[:window].mean(), levels[-window:].mean()
    if not late > early:
        return None
    above = levels >= early + share * (late - early)
    lasting = above.unfold(0, window, 1).all(1).nonzero()
    return int(lasting[0]) if len(lasting) else None


def survival(inside: Tensor) -> Tensor:
    """The share (cycles,) of n chains that have not left by each cycle; ``inside`` bool (cycles, n)."""
    return inside.cumprod(0).double().mean(1)


def half_at(sigmas: Sequence[float], shares: Sequence[float]) -> float:
    """The amplitude at which half of the chains leave: how deep a basin is.

    Args:
        sigmas: ascending amplitudes.
        shares: of the chains that stay, at each.

    Returns:
        Interpolated in ln sigma where the share first falls below 1/2; where it is below from the start, or never,
        the nearer end of ``sigmas``.
    """
    below = next((i for i, share in enumerate(shares) if share < 0.5), None)
    if below is None:
        return sigmas[-1]
    if below == 0:
        return sigmas[0]
    (low, high), (before, after) = sigmas[below - 1 : below + 1], shares[below - 1 : below + 1]
    part = (before - 0.5) / (before - after)
    return math.exp(math.log(low) + part * math.log(high / low))
