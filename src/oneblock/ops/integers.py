"""Arithmetic of networks that have no floating-point numbers: 8-bit values, 32-bit sums, division by shifting.

That of EGG (Sarkar et al., "Evolution Strategies at the Hyperscale", Appendices G and H,
https://arxiv.org/abs/2511.16652; nano-egg). 16 stands for 1.0. Everything is clipped to [-127, 127], so that a negation
never overflows, and every division rounds down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ONE = 16
"""Stands for 1.0."""
MOST = 127
BITS = 16
"""Units of a logit, and of a log-likelihood, in a bit."""
LOG_STEPS = 28 * BITS
"""Sums of 256 powers, each below ``2^(4 + 16)``, are below 2^28."""


def clipped(values: Tensor) -> Tensor:
    """Whole numbers of any size -> 8 bits."""
    return values.clamp(-MOST, MOST).to(torch.int8)


def shift_of(inputs: int) -> int:
    """The shift that divides a sum of ``inputs`` products by ``16 sqrt(inputs)``.

    Raises:
        ValueError: ``inputs`` is not a power of 4.
    """
    power = inputs.bit_length() - 1
    if inputs < 1 or inputs != 1 << power or power % 2:
        raise ValueError(
            f"{inputs} inputs are not a power of 4, so that sqrt({inputs}) is no shift; use 16, 64, 256, ..."
        )
    return 4 + power // 2


def products(x: Tensor, matrix: Tensor) -> Tensor:
    """``x matrix^T`` in 32 bits: (k, n), (m, n) of 8 bits -> (k, m)."""
    return torch._int_mm(x, matrix.T)


def linear(x: Tensor, matrix: Tensor, own: Tensor | None = None) -> Tensor:
    """``clip((x matrix^T + own) // (16 sqrt(n)))`` of 8 bits.

    Args:
        x: (k, n); matrix (m, n).
        own: (k, m) in 32 bits, what a member of a population adds; None for nothing.
    """
    total = products(x, matrix)
    return clipped((total if own is None else total.add_(own)) >> shift_of(matrix.shape[1]))


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """``clip(x weight // mean|x|)``, the mean rounded down and at least 1; x (..., d) and weight of 8 bits."""
    wide = x.to(torch.int32)
    mean = (wide.abs().sum(-1, keepdim=True, dtype=torch.int32) // x.shape[-1]).clamp_(min=1)
    return clipped(torch.div(wide * weight, mean, rounding_mode="floor"))


class LogLikelihood:
    """``y_t - floor(16 log2(sum_i floor(16 2^(y_i / 16)) / 16))`` for logits y + 128 in [0, 255], in 1/16 bit.

    Tables of 256 powers, and of the sums at which the logarithm grows by one unit: a search in these is exact.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        powers = [math.floor(ONE * 2 ** (i / BITS)) for i in range(256)]
        steps = [_root(k) for k in range(LOG_STEPS + 1)]
        self._powers = torch.tensor(powers, dtype=torch.int32, device=device)
        self._steps = torch.tensor(steps, dtype=torch.int32, device=device)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (..., 256) of 8 bits, targets (...) of 0 to 255 -> (...), 0 or less."""
        places = logits.to(torch.int32) + 128
        total = self.powers(logits).sum(-1, dtype=torch.int32)
        log = torch.bucketize(total, self._steps, right=True, out_int32=True) - 1 - 4 * BITS
        return places.gather(-1, targets[..., None].to(torch.int64))[..., 0] - log

    def powers(self, logits: Tensor) -> Tensor:
        """What the probabilities of 8-bit logits are in the ratio of, in 32 bits."""
        return self._powers[logits.to(torch.int32) + 128]


def _root(k: int) -> int:
    """The smallest whole number s with ``16 log2(s) >= k``, that is ``s^16 >= 2^k``."""
    guess = int(2 ** (k / BITS))
    while guess**BITS < 1 << k:
        guess += 1
    while guess > 1 and (guess - 1) ** BITS >= 1 << k:
        guess -= 1
    return guess
