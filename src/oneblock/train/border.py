"""The block before, of a plan whose blocks are trained in order (``Plan.in_order``)."""

from __future__ import annotations

from pathlib import Path

import torch

from oneblock.blockwise import BlockDenoiser, Blockwise
from oneblock.train.checkpoint import CheckpointError, checkpoints, job_folder, read_stamp
from oneblock.train.shards import BlockFiles
from oneblock.train.step import JobSpec


def block_before(directory: Path, blockwise: Blockwise, spec: JobSpec, device: torch.device) -> BlockDenoiser | None:
    """The block whose states ``spec`` goes on from, on ``device``: with averaged weights, frozen, in evaluation mode.
    None where it goes on from none.

    Args:
        directory: of the run, where that block has been trained.

    Raises:
        CheckpointError: that block is missing, unfinished or damaged.
    """
    if not spec.before or spec.block is None:
        return None
    block = spec.block - 1
    try:
        _check_finished(directory, blockwise.plan.hash, f"block-{block}", spec.last_step)
        files = BlockFiles(directory, blockwise)
        denoiser = files.start(block)
        files.read(block, denoiser)
    except CheckpointError as error:
        raise CheckpointError(
            f"{spec.name} goes on from the states of block {block}, which is not there ({error}); train block {block} "
            f"first (--block {block})"
        ) from error
    return denoiser.to(device).requires_grad_(False).eval()


def _check_finished(directory: Path, plan: str, job: str, last_step: int) -> None:
    found = checkpoints(job_folder(directory, job))
    if not found:
        raise CheckpointError(f"{directory} has no checkpoint of it")
    step = read_stamp(found[-1], plan, job).step
    if step < last_step:
        raise CheckpointError(f"it stands at step {step} of {last_step}")
