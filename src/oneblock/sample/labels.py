"""From noise to a class: a few calls of the denoiser for every sample, each at a lower level than the one before
(``sample.calls``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.sample.calls import Calls


@dataclass(frozen=True)
class Answer:
    """Class probabilities after every call (calls, n, k), and how many calls each sample took (n,)."""

    probabilities: Tensor
    calls: Tensor


def check_draws(draws: int, calls: Calls) -> None:
    """Refuse several draws of a path on which nothing is drawn."""
    if draws < 1 or (draws > 1 and not calls.noisy):
        raise ValueError(
            f"draws={draws} with path={calls.path!r}: only noisy paths differ; use draws=1 or path='euler' or 'redraw'"
        )


@torch.no_grad()
def classify(
    denoiser: DenoiserLike,
    table: Tensor,
    condition: Condition,
    calls: Calls,
    draws: int = 1,
    confident: float = 1.0,
    seed: int = 0,
) -> Answer:
    """Classify n samples with at most one call of ``denoiser``, which gives logits, at each level.

    Args:
        table: (k, d), rows of the classes; says device and precision of the noisy labels.
        condition: what the denoiser is told of each sample, e.g. its image.
        draws: noisy paths for each sample, whose probabilities are averaged; above 1 they need a path from noise.
        confident: a sample takes no further call once a class has this probability; its answer stays. 1 takes all.
        seed: of everything random.
    """
    check_draws(draws, calls)
    count = len(condition)
    generator = torch.Generator().manual_seed(seed)
    z = calls.start(table, (draws, count), generator).clone()
    sums = table.new_zeros(draws, count, len(table))
    answers = table.new_zeros(len(calls.levels), count, len(table))
    taken = torch.zeros(count, dtype=torch.long, device=table.device)
    active = torch.arange(count, device=table.device)
    for i, level in enumerate(calls.levels):
        if not len(active):
            break
        seen = z[:, active]
        logits = _call(denoiser, seen, level, condition.take(active.repeat(draws)))
        sums[:, active], found = calls.probabilities(i, sums[:, active], seen, logits, table)
        mean = found.mean(0)
        answers[i:, active] = mean
        taken[active] = i + 1
        if i + 1 < len(calls.levels):
            z[:, active] = calls.onward(i, seen, logits.softmax(-1), table, generator)
        if confident < 1.0:  # a rounded probability may well be 1
            active = active[mean.amax(-1) < confident]
    return Answer(answers, taken)


def _call(denoiser: DenoiserLike, z: Tensor, level: float, condition: Condition) -> Tensor:
    """Logits (draws, n, k) at noisy labels (draws, n, d), told n samples ``draws`` times over."""
    logits = denoiser(z.flatten(0, 1), z.new_full((len(condition),), level), condition)
    return logits.unflatten(0, z.shape[:2])
