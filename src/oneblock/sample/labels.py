"""From noise to a class: a few calls of the denoiser, each at a lower level than the one before.

One call for each block, at the upper edge of its band, costs as much as one pass through the whole network. After a
call at level s the noisy label goes to the next level s' by Euler's step of ``dz/dsigma = (z - D) / sigma``, that is
``z' = (s'/s) z + (1 - s'/s) D`` (Shing et al., "DiffusionBlocks", Equation 5 with its sign mended,
https://arxiv.org/abs/2506.14202), or, on the mean path, to the expected row D itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition

LabelPath = Literal["euler", "mean"]
Pool = Literal["last", "probabilities", "evidence"]


@dataclass(frozen=True)
class Answer:
    """Class probabilities after every call (calls, n, k), and how many calls each sample took (n,)."""

    probabilities: Tensor
    calls: Tensor


@torch.no_grad()
def classify(
    denoiser: DenoiserLike,
    table: Tensor,
    condition: Condition,
    levels: Sequence[float],
    path: LabelPath = "mean",
    pool: Pool = "last",
    draws: int = 1,
    confident: float = 1.0,
    seed: int = 0,
) -> Answer:
    """Classify n samples with at most one call of ``denoiser``, which gives logits, at each level.

    Args:
        table: (k, d), rows of the classes; says device and precision of the noisy labels.
        condition: what the denoiser is told of each sample, e.g. its image.
        levels: descending noise levels.
        path: from pure noise with Euler's steps, or over expected rows from the mean of all rows.
        pool: what the answer is made of: the last call; the mean probabilities of all calls; or ``"evidence"``, where
            what each call was told by z (``z . T_k / sigma^2``, Bayes' rule) is taken out of its logits and the rest,
            logits of ``p(y | x)``, is averaged.
        draws: noisy paths for each sample, whose probabilities are averaged; needs ``path="euler"`` when above 1.
        confident: a sample takes no further call once a class has this probability; its answer stays. 1 takes all.
        seed: of the noise.
    """
    if not levels or any(a <= b for a, b in pairwise(levels)):
        raise ValueError(f"levels={tuple(levels)} do not descend; give at least one level, the noisiest first")
    if draws < 1 or (draws > 1 and path != "euler"):
        raise ValueError(f"draws={draws} with path={path!r}: only noisy paths differ; use draws=1 or path='euler'")
    count = len(condition)
    z = table.mean(0).expand(draws, count, -1).clone()
    if path == "euler":
        z = levels[0] * torch.randn(z.shape, generator=torch.Generator().manual_seed(seed)).to(z)
    sums = table.new_zeros(draws, count, len(table))
    answers = table.new_zeros(len(levels), count, len(table))
    calls = torch.zeros(count, dtype=torch.long, device=table.device)
    active = torch.arange(count, device=table.device)
    for i, (level, after) in enumerate(zip(levels, [*levels[1:], 0.0], strict=True)):
        if not len(active):
            break
        seen = z[:, active]
        logits = _call(denoiser, seen, level, condition.take(active.repeat(draws)))
        sums[:, active] = _add(pool, sums[:, active], logits, seen @ table.mT / level**2)
        found = _answer(pool, sums[:, active], i + 1).mean(0)
        answers[i:, active] = found
        calls[active] = i + 1
        expected = logits.softmax(-1) @ table
        a = after / level
        z[:, active] = a * seen + (1 - a) * expected if path == "euler" else expected
        if confident < 1.0:  # a rounded probability may well be 1
            active = active[found.amax(-1) < confident]
    return Answer(answers, calls)


def _call(denoiser: DenoiserLike, z: Tensor, level: float, condition: Condition) -> Tensor:
    """Logits (draws, n, k) at noisy labels (draws, n, d), told n samples ``draws`` times over."""
    logits = denoiser(z.flatten(0, 1), z.new_full((len(condition),), level), condition)
    return logits.unflatten(0, z.shape[:2])


def _add(pool: Pool, sums: Tensor, logits: Tensor, evidence: Tensor) -> Tensor:
    if pool == "last":
        return logits
    if pool == "probabilities":
        return sums + logits.softmax(-1)
    return sums + (logits.log_softmax(-1) - evidence)


def _answer(pool: Pool, sums: Tensor, calls: int) -> Tensor:
    if pool == "probabilities":
        return sums / calls
    return (sums / calls if pool == "evidence" else sums).softmax(-1)
