"""Learning-rate schedule: linear warm-up, an optional constant part, cosine to zero."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, total: int, warmup: int, hold: int = 0) -> float:
    """Factor in [0, 1] for step ``step`` (0-based) of ``total``.

    Rises linearly over ``warmup`` steps, stays 1 until step ``hold``, then falls as a half cosine and would reach 0 at
    step ``total`` (SGDR without restarts, Loshchilov and Hutter, Equation 5, https://arxiv.org/abs/1608.03983).
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, hold)
    if step < start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, total - start)))
