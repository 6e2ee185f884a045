"""Masked diffusion of text: a bound on its bits per byte, and text that it writes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import MANY, check_count, check_seed
from oneblock.evaluate.device import device_of
from oneblock.evaluate.writing import WRITING, Writing, tokens_per_byte, weights
from oneblock.partition import Partition
from oneblock.plan import Plan
from oneblock.presets.masked import masked_task, plan_length, plan_vocabulary
from oneblock.sample.masked import reveal
from oneblock.tasks.masked import nelbo

TIMES = 4
"""Masked shares of every band for each window."""


def evaluate_masked(
    denoiser: DenoiserLike,
    plan: Plan,
    tokens: Tensor,
    *,
    bands: Partition | None = None,
    times: int = TIMES,
    new: Tensor | None = None,
) -> dict[str, Any]:
    """The bound of held-out windows ``tokens`` (n, t), in nats per token and bits per byte, with its Monte-Carlo
    standard error.

    Args:
        bands: those that nats are reported of (None: the plan's own).
        times: masked shares of every band for each window.
        new: tokens (n,) at the end of each window that are counted (None: all of them).
    """
    check_count("times", times, most=MANY)
    tokens, weight = tokens.to(device_of(denoiser)), weights(tokens, new)
    bound = nelbo(denoiser, masked_task(plan), bands or plan.partition, tokens, times, weights=weight)
    per_byte = tokens_per_byte(tokens, plan_vocabulary(plan), new)
    bits, error = bound.bits(per_byte)
    return {
        "bits_per_byte": bits,
        "error": error if math.isfinite(error) else None,  # of a single time and window nothing is known
        "nats_per_token": bound.total,
        "nats_per_band": bound.bands,
        "tokens": int((weight > 0).sum()),
        "tokens_per_byte": per_byte,
    }


def write_masked(denoiser: DenoiserLike, plan: Plan, writing: Writing = WRITING, seed: int = 0) -> list[str]:
    """Texts of the plan's length that begin with the prompt."""
    check_seed("seed", seed)
    task, vocabulary, length = masked_task(plan), plan_vocabulary(plan), plan_length(plan)
    given = writing.prompts(vocabulary, length)
    tokens = torch.full((len(given), length), task.mask)
    tokens[:, : given.shape[1]] = given
    steps = reveal(
        denoiser,
        task.law,
        tokens.to(device_of(denoiser)),
        task.mask,
        writing.reveals,
        writing.order,
        writing.temperature,
        writing.top_p,
        seed,
    )
    *_, last = steps
    return [vocabulary.decode(row) for row in last.cpu()]
