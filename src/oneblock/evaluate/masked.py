"""Masked diffusion of text: a bound on its bits per byte, and text that it writes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import MANY, check_count, check_seed
from oneblock.evaluate.device import at_borders, device_of
from oneblock.evaluate.writing import WRITING, Writing, tokens_per_byte, weights
from oneblock.partition import Partition
from oneblock.plan import Plan
from oneblock.presets.masked import masked_task, plan_length, plan_vocabulary
from oneblock.presets.relay import hands_on, plan_policy
from oneblock.sample.carry import Carrying
from oneblock.sample.masked import reveal
from oneblock.sample.relay import nats_in_calls, reveal_by
from oneblock.tasks.masked import nelbo

TIMES = 4
"""Masked shares of every band for each window."""
BATCH = 128
"""Windows of a call."""


def evaluate_masked(
    denoiser: DenoiserLike,
    plan: Plan,
    tokens: Tensor,
    *,
    bands: Partition | None = None,
    times: int = TIMES,
    new: Tensor | None = None,
    calls: int = 0,
) -> dict[str, Any]:
    """The bound of held-out windows ``tokens`` (n, t), in nats per token and bits per byte, with its Monte-Carlo
    standard error.

    Args:
        bands: those that nats are reported of (None: the plan's own).
        times: masked shares of every band for each window.
        new: tokens (n,) at the end of each window that are counted (None: all of them).
        calls: also a bound for a sampler that reveals a window in so many calls, at places in an order drawn at random
            (``sample.relay.nats_in_calls``), with a state where the plan's denoiser hands one on (0: no).
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
        **({"bits_in_calls": bits_in_calls(denoiser, plan, tokens, calls, weight) * per_byte} if calls else {}),
    }


def bits_in_calls(
    denoiser: DenoiserLike, plan: Plan, tokens: Tensor, calls: int, weights: Tensor | None = None
) -> float:
    """A bound on the bits per token of windows ``tokens`` (n, t) that are revealed in ``calls`` calls, each token
    counted as often as ``weights`` (n, t) say."""
    task, carry = masked_task(plan), hands_on(plan)
    if plan.in_order:
        denoiser = at_borders(denoiser, "across")
    parts = [
        nats_in_calls(denoiser, task.law, part, task.mask, calls, carry=carry, seed=i)
        for i, part in enumerate(tokens.split(BATCH))
    ]
    nats = torch.cat(parts).double()
    return float((nats if weights is None else nats * weights.to(nats)).mean()) / math.log(2)


@dataclass(frozen=True)
class Written:
    """Texts, and the calls of the denoiser that each took."""

    texts: list[str]
    calls: list[int]


def write_masked(denoiser: DenoiserLike, plan: Plan, writing: Writing = WRITING, seed: int = 0) -> list[str]:
    """Texts of the plan's length that begin with the prompt."""
    return written_masked(denoiser, plan, writing, seed).texts


def written_masked(denoiser: DenoiserLike, plan: Plan, writing: Writing = WRITING, seed: int = 0) -> Written:
    """The same with their calls. Where the plan's denoiser hands states on, each call is given the last one's;
    over the borders of bands where blocks have learned that."""
    check_seed("seed", seed)
    task, vocabulary, length = masked_task(plan), plan_vocabulary(plan), plan_length(plan)
    given = writing.prompts(vocabulary, length)
    tokens = torch.full((len(given), length), task.mask)
    tokens[:, : given.shape[1]] = given
    tokens, carry = tokens.to(device_of(denoiser)), hands_on(plan)
    if plan.in_order:
        denoiser = at_borders(denoiser, "across")
    if writing.order == "policy":
        found = reveal_by(
            denoiser,
            task.law,
            tokens,
            task.mask,
            plan_policy(plan),
            carry=carry,
            most=writing.reveals - 1,
            temperature=writing.temperature,
            top_p=writing.top_p,
            seed=seed,
        )
        return Written([vocabulary.decode(row) for row in found.tokens.cpu()], found.calls.tolist())
    steps = reveal(
        Carrying(denoiser) if carry else denoiser,
        task.law,
        tokens,
        task.mask,
        writing.reveals,
        writing.order,
        writing.temperature,
        writing.top_p,
        seed,
    )
    *_, last = steps
    return Written([vocabulary.decode(row) for row in last.cpu()], [writing.reveals] * len(tokens))
