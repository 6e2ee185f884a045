"""From noise to a class: a few calls of the denoiser for every sample, each at a lower level than the one before
(``sample.calls``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.sample.calls import Calls


@dataclass(frozen=True)
class Answer:
    """Class probabilities after every call (calls, n, k), and how many calls each sample took (n,)."""

    probabilities: Tensor
    calls: Tensor


@torch.no_grad()
def classify(
    denoiser: DenoiserLike,
    table: Tensor,
    images: Tensor,
    calls: Calls,
    draws: int = 1,
    confident: float = 1.0,
    seed: int = 0,
) -> Answer:
    """Classify ``images`` (n, c, h, w) with at most one call of ``denoiser``, which gives logits, at each level.

    Args:
        table: (k, d), rows of the classes.
        draws: noisy paths for each image, whose probabilities are averaged; above 1 it needs a path from noise.
        confident: an image takes no further call once a class has this probability; its answer stays. 1 takes all.
        seed: of everything random.
    """
    if draws < 1 or (draws > 1 and not calls.noisy):
        raise ValueError(
            f"draws={draws} with path={calls.path!r}: only noisy paths differ; use draws=1 or path='euler' or 'redraw'"
        )
    table = table.to(images)
    generator = torch.Generator().manual_seed(seed)
    z = calls.start(table, (draws, len(images)), generator).clone()
    sums = images.new_zeros(draws, len(images), len(table))
    answers = images.new_zeros(len(calls.levels), len(images), len(table))
    taken = torch.zeros(len(images), dtype=torch.long, device=images.device)
    active = torch.arange(len(images), device=images.device)
    for i, level in enumerate(calls.levels):
        if not len(active):
            break
        seen = z[:, active]
        logits = _call(denoiser, seen, level, images[active])
        sums[:, active], found = calls.probabilities(i, sums[:, active], seen, logits, table)
        mean = found.mean(0)
        answers[i:, active] = mean
        taken[active] = i + 1
        if i + 1 < len(calls.levels):
            z[:, active] = calls.onward(i, seen, logits.softmax(-1), table, generator)
        if confident < 1.0:  # a rounded probability may well be 1
            active = active[mean.amax(-1) < confident]
    return Answer(answers, taken)


def _call(denoiser: DenoiserLike, z: Tensor, level: float, images: Tensor) -> Tensor:
    """Logits (draws, n, k) at noisy labels (draws, n, d) of images (n, ...)."""
    draws, count, _ = z.shape
    repeated = images.expand(draws, *images.shape).flatten(0, 1)
    logits = denoiser(z.flatten(0, 1), images.new_full((draws * count,), level), repeated)
    return logits.unflatten(0, (draws, count))
