"""Which layers of a network with weights each band needs most, before anything is trained.

A specialist is a pruned network for one band. Its layers are those whose network has the lowest loss right after the
others were taken away, on a few samples of the band. Few ways to choose are all tried; of many, layers are taken away
one by one, always the one that is missed least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import torch

from oneblock.blockwise import BlockDenoiser
from oneblock.checks import check_count
from oneblock.convert.converted import Converted
from oneblock.plan import Plan
from oneblock.presets.base import Recipe
from oneblock.presets.data import Data
from oneblock.presets.run import make_plan
from oneblock.presets.tasks import task_parts
from oneblock.tasks.base import Batch

SAMPLES = 256
"""That a choice is tried on."""
ALL_TRIED = 250
"""Ways to choose that are all tried; of more, layers are taken away one by one."""


@torch.no_grad()
def choose_layers(
    network: Converted,
    recipe: Recipe,
    per_block: int,
    data: Data | None = None,
    *,
    samples: int = SAMPLES,
    told: Callable[[str], None] = lambda line: None,
) -> tuple[int, ...]:
    """Layers of ``network`` for each block of ``recipe``, the noisiest first, for ``network.pick``.

    Args:
        recipe: task, number of blocks and bands; with one block a single choice for the whole noise range.
        per_block: layers of each block.
        data: training samples, as of ``train``.
        samples: of the data, on which losses are taken; the same for every choice.
        told: is told of every block which layers it gets, and their loss.

    Raises:
        ValueError: there are not so many layers, or whatever ``train`` refuses.
    """
    check_count("per_block", per_block, most=network.count)
    check_count("samples", samples)
    asked = network.pick([0] * per_block * recipe.blocks)
    plan, source = make_plan(recipe, data, asked)
    chosen: list[int] = []
    for block in range(plan.num_blocks):
        generator = torch.Generator().manual_seed(plan.derive_seed("choose", block))
        drawn = source.batch(0, samples, plan.derive_seed("choose"))
        sigma = plan.partition.draw(block, samples, generator)
        batch = task_parts(plan).task(plan).draw(drawn, sigma, block, generator)
        found, loss = _best(network, plan, batch, per_block)
        told(f"block {block}: layers {' '.join(map(str, found))}, loss {loss:.4f}")
        chosen += found
    return tuple(chosen)


def _best(network: Converted, plan: Plan, batch: Batch, per_block: int) -> tuple[tuple[int, ...], float]:
    every = range(network.count)
    if math.comb(network.count, per_block) <= ALL_TRIED:
        return _lowest(network, plan, batch, list(combinations(every, per_block)))
    left = tuple(every)
    while True:
        left, loss = _lowest(network, plan, batch, [left[:i] + left[i + 1 :] for i in range(len(left))])
        if len(left) == per_block:
            return left, loss


def _lowest(
    network: Converted, plan: Plan, batch: Batch, choices: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], float]:
    losses = [_loss(network, plan, batch, choice) for choice in choices]
    loss = min(losses)
    return choices[losses.index(loss)], loss


def _loss(network: Converted, plan: Plan, batch: Batch, layers: Sequence[int]) -> float:
    parts = task_parts(plan)
    pruned = network.block({str(i): layer for i, layer in enumerate(layers)}).eval()
    denoiser = BlockDenoiser(pruned, parts.frame(plan))
    return float(parts.task(plan).loss(denoiser, batch.noised, batch.targets, batch.condition).weighted.mean())
