"""The noise levels of a training batch: from the band of its block, and a share of them from the whole range.

The share is that of DeMe ("Decouple-Then-Merge", https://arxiv.org/abs/2410.06664), whose branches draw some of their
levels from the whole range.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from oneblock.plan import Plan
from oneblock.train.step import JobSpec

WHOLE_SHARE = "whole_share"
"""The key of a plan's recipe; a plan without it draws from bands alone."""


def draw_levels(plan: Plan, spec: JobSpec, count: int, generator: torch.Generator) -> Tensor:
    """Noise levels (float32, (count,), on the generator's device) of a batch of the job ``spec``.

    The first samples have levels of the job's band, the last ``whole_samples`` of the whole range; both are stratified.
    Which samples these are is fixed, as the order of the samples is random already.
    """
    partition = plan.partition
    whole = whole_samples(plan, spec, count)
    drawn = []
    if whole < count:
        drawn.append(partition.levels(*spec.band, count - whole, generator))
    if whole:
        drawn.append(partition.levels(partition.law.low, partition.law.high, whole, generator))
    return drawn[0] if len(drawn) == 1 else torch.cat(drawn)


def whole_samples(plan: Plan, spec: JobSpec, count: int) -> int:
    """How many of ``count`` samples of a job have levels of the whole noise range beside its band."""
    return 0 if spec.block is None else round(_share(plan) * count)


def check_share(plan: Plan, spec: JobSpec) -> None:
    """Refuse a share that a batch of the job ``spec`` cannot have with a ``ValueError``."""
    share = _share(plan)
    if not share or spec.block is None:
        return
    if plan.num_blocks == 1:
        raise ValueError(
            f"whole_share={share} needs two blocks or more: a single one has the whole noise range; use "
            "whole_share=0, or more blocks"
        )
    count = spec.batch_size
    whole = whole_samples(plan, spec, count)
    if not 0 < whole < count:
        part = "none" if whole == 0 else "all"
        raise ValueError(
            f"whole_share={share} of the {count} samples that a block has in a step are {part} of them; use another "
            "share, or a larger block_batch_size"
        )


def _share(plan: Plan) -> float:
    return cast(float, plan.recipe.get(WHOLE_SHARE, 0.0))
