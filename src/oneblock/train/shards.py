"""The merged model: a directory whose safetensors shards are the blocks, loadable with one block in memory.

``config.json`` is the plan, ``model.safetensors.index.json`` maps each tensor to its shard, ``block-b.safetensors``
holds the averaged weights of block b under names ``blocks.b.*``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Blockwise, Denoiser
from oneblock.plan import PLAN_FILE, Plan, read_plan, read_plan_file
from oneblock.train.checkpoint import CheckpointError, checkpoints, load_checkpoint, save_checkpoint

INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"


def merge(directory: Path, output: Path, last_step: int, partial: bool = False) -> list[str]:
    """Merge the blocks that were trained in ``directory`` into one model at ``output``.

    Args:
        last_step: the step at which a block is finished.
        partial: merge what exists: unfinished blocks as they stand, and without those that are missing or damaged.

    Returns:
        What is missing, unfinished or damaged, a line for each block; empty unless ``partial``.

    Raises:
        CheckpointError: names every block that is missing, unfinished, damaged or of another plan (with ``partial``:
            not one block can be used); nothing is written.
    """
    plan = read_plan(directory)
    ready, problems = _collect(directory, plan, last_step)
    if problems and not (partial and ready):
        raise CheckpointError(f"cannot merge {directory}: {'; '.join(problems)}")
    if (output / CONFIG_FILE).exists() and Plan.from_json((output / CONFIG_FILE).read_text()).hash != plan.hash:
        raise ValueError(f"{output} holds a model of another plan; use another directory")
    output.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    size = 0
    for block in range(plan.num_blocks):
        shard = f"block-{block}.safetensors"
        if block not in ready:
            (output / shard).unlink(missing_ok=True)  # of an earlier merge
            continue
        stored, stamp = load_checkpoint(ready[block], plan.hash, f"block-{block}")
        named = {f"blocks.{block}.{name}": tensor for name, tensor in _averages(stored).items()}
        save_checkpoint(output / shard, named, stamp)
        index |= dict.fromkeys(sorted(named), shard)
        size += sum(t.numel() * t.element_size() for t in named.values())
    _write(output / INDEX_FILE, json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2) + "\n")
    _write(output / CONFIG_FILE, plan.to_json())
    return problems


def _collect(directory: Path, plan: Plan, last_step: int) -> tuple[dict[int, Path], list[str]]:
    ready: dict[int, Path] = {}
    problems: list[str] = []
    for block in range(plan.num_blocks):
        found = checkpoints(directory / f"block-{block}")
        if not found:
            problems.append(f"block {block} has no checkpoint (train it with --block {block})")
            continue
        try:
            _, stamp = load_checkpoint(found[-1], plan.hash, f"block-{block}")
        except CheckpointError as error:
            problems.append(f"block {block}: {error}")
            continue
        if stamp.step < last_step:
            problems.append(f"block {block} stands at step {stamp.step} of {last_step} (resume it)")
        ready[block] = found[-1]
    return ready, problems


def is_run(directory: Path) -> bool:
    """Whether a directory is a run's or a merged model."""
    return any((directory / name).is_file() for name in (CONFIG_FILE, PLAN_FILE))


def open_plan(directory: Path) -> Plan:
    """The plan of a run's directory or of a merged model."""
    if (directory / CONFIG_FILE).is_file():
        return read_plan_file(directory / CONFIG_FILE)
    if not (directory / PLAN_FILE).is_file():
        raise ValueError(
            f"{directory} is neither a run nor a merged model; give a directory with {PLAN_FILE} or {CONFIG_FILE}"
        )
    return read_plan(directory)


def block_loader(directory: Path, blockwise: Blockwise, device: torch.device) -> Callable[[int], BlockDenoiser]:
    """A function that gives block b with its averaged weights, from a merged model or a run's newest checkpoint."""
    merged = (directory / CONFIG_FILE).is_file()

    def load(block: int) -> BlockDenoiser:
        job = f"block-{block}"
        if merged:
            stored, _ = load_checkpoint(directory / f"{job}.safetensors", blockwise.plan.hash, job)
            prefix = f"blocks.{block}."
            weights = {name.removeprefix(prefix): t for name, t in stored.items()}
        else:
            found = checkpoints(directory / job)
            if not found:
                raise CheckpointError(f"{directory} has no checkpoint of block {block}; train it with --block {block}")
            weights = _averages(load_checkpoint(found[-1], blockwise.plan.hash, job)[0])
        denoiser = blockwise.denoiser(block)
        differing = sorted(dict(denoiser.backbone.named_parameters()).keys() ^ weights.keys())
        if differing:
            raise CheckpointError(
                f"block {block} in {directory} is another network's: only one of both has {', '.join(differing)}"
            )
        # buffers are made with the block, and parameters that are tied to others come with these
        denoiser.backbone.load_state_dict(weights, strict=False)
        return denoiser.to(device).eval()

    return load


def open_denoiser(directory: Path, blockwise: Blockwise, device: torch.device, resident: int | None = None) -> Denoiser:
    """The denoiser of the whole noise range over a run or a merged model; ``resident`` blocks are kept in memory."""
    return Denoiser(blockwise.plan.partition, block_loader(directory, blockwise, device), resident)


def _averages(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("ema/"): t for name, t in tensors.items() if name.startswith("ema/")}


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
