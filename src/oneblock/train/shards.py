"""The merged model: a directory whose safetensors shards are the blocks, loadable with one block in memory.

``config.json`` is the plan, ``model.safetensors.index.json`` maps each tensor to its shard, ``block-b.safetensors``
holds the averaged weights of block b under names ``blocks.b.*``.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Blockwise, Denoiser
from oneblock.convert.kept import copy_settings
from oneblock.data.places import hand_on
from oneblock.plain import read_plain, write_whole
from oneblock.plan import NETWORK_FOLDER, PLAN_FILE, Plan, read_plan, read_plan_file
from oneblock.train.ahead import ReadAhead
from oneblock.train.block import compile_layers
from oneblock.train.checkpoint import (
    CheckpointError,
    DamagedError,
    Stamp,
    checkpoints,
    load_checkpoint,
    read_stamp,
    save_checkpoint,
)
from oneblock.train.exported import ExportedFiles, is_export, read_export
from oneblock.train.layout import checkpoint_misfit, of_training, own_parameters, shard_misfit, trained_parameters

INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
Parameters = Callable[[int], Mapping[str, Tensor]]
"""The trained parameters of block b by name; their values are not looked at."""


def merge(
    directory: Path, output: Path, last_step: int, partial: bool = False, parameters: Parameters | None = None
) -> list[str]:
    """Merge the blocks that were trained in ``directory`` into one model at ``output``.

    Args:
        last_step: the step at which a block is finished.
        partial: merge what exists: unfinished blocks as they stand, and without those that are missing or damaged.
        parameters: of each block's network; None compares the files with each other alone.

    Returns:
        What is missing, unfinished or damaged, a line for each block; empty unless ``partial``.

    Raises:
        CheckpointError: names every block that is missing, unfinished, damaged, or of another plan or network (with
            ``partial``: not one block can be used); nothing is written.
        ValueError: ``output`` holds something else.
    """
    plan = read_plan(directory)
    ready, problems = _collect(directory, plan, last_step, parameters)
    if problems and not (partial and ready):
        raise CheckpointError(f"cannot merge {directory}: {'; '.join(problems)}")
    check_output(output, plan)
    output.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    size = 0
    for block in range(plan.num_blocks):
        shard = shard_name(block)
        if block not in ready:
            (output / shard).unlink(missing_ok=True)  # of an earlier merge
            continue
        stored, stamp = load_checkpoint(ready[block], plan.hash, f"block-{block}")
        named = {f"blocks.{block}.{name}": tensor for name, tensor in _averages(stored).items()}
        save_checkpoint(output / shard, named, stamp)
        index |= dict.fromkeys(sorted(named), shard)
        size += sum(t.numel() * t.element_size() for t in named.values())
    hand_on(directory, output)
    copy_settings(directory / NETWORK_FOLDER, output / NETWORK_FOLDER)
    _write_model(output, plan, index, size)
    return problems


def check_finished(directory: Path, plan: Plan, last_step: int, parameters: Parameters | None = None) -> None:
    """Refuse a run or merged model that lacks a block, or has one that is unfinished or damaged.

    Raises:
        CheckpointError: names every such block.
    """
    if not (directory / CONFIG_FILE).is_file():
        _, problems = _collect(directory, plan, last_step, parameters)
    else:
        stamps = (
            read_stamp(directory / shard_name(block), plan.hash, f"block-{block}") for block in range(plan.num_blocks)
        )
        problems = [
            f"{stamp.job} stands at step {stamp.step} of {last_step}" for stamp in stamps if stamp.step < last_step
        ]
    if problems:
        raise CheckpointError(f"{directory} is not finished: {'; '.join(problems)}")


def copy_model(directory: Path, output: Path, plan: Plan, parameters: Parameters | None = None) -> None:
    """Copy the merged model in ``directory``, every shard checked before anything is written; errors as ``merge``."""
    listed = read_index(directory, plan)
    names = {b: shard_name(b) for b in range(plan.num_blocks)}
    shards = {b: directory / name for b, name in names.items() if listed is None or name in listed.values()}
    check_output(output, plan)
    sizes: dict[str, tuple[str, int]] = {}
    for block, path in shards.items():
        weights = read_shard(directory, plan, block, parameters(block) if parameters else None)
        sizes |= {f"blocks.{block}.{name}": (path.name, t.nbytes) for name, t in sorted(weights.items())}
    output.mkdir(parents=True, exist_ok=True)
    for path in shards.values():
        shutil.copyfile(path, output / path.name)
    hand_on(directory, output)
    copy_settings(directory / NETWORK_FOLDER, output / NETWORK_FOLDER)
    _write_model(output, plan, {name: file for name, (file, _) in sizes.items()}, sum(n for _, n in sizes.values()))


def save_model(output: Path, plan: Plan, denoiser: Denoiser, last_step: int) -> None:
    """Write the weights that the blocks of ``denoiser`` have now as a merged model of ``plan``.

    Args:
        last_step: the step at which a block of the plan is finished.

    Raises:
        ValueError: ``output`` holds something else.
    """
    check_output(output, plan)
    output.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    size = 0
    for block in range(plan.num_blocks):
        weights = trained_parameters(denoiser.block(block).backbone)
        named = {f"blocks.{block}.{name}": tensor for name, tensor in weights.items()}
        save_checkpoint(output / shard_name(block), named, Stamp(plan.hash, f"block-{block}", last_step, last_step))
        index |= dict.fromkeys(sorted(named), shard_name(block))
        size += sum(t.nbytes for t in named.values())
    _write_model(output, plan, index, size)


def check_output(output: Path, plan: Plan) -> None:
    """Refuse a place for a merged model that holds something else: a run, a model of another plan, foreign shards."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; give the model a directory of its own")
    if (output / PLAN_FILE).exists():
        raise ValueError(f"{output} holds a run; give the model a directory of its own")
    if (output / CONFIG_FILE).exists():
        if read_plan_file(output / CONFIG_FILE).hash != plan.hash:
            raise ValueError(f"{output} holds a model of another plan; use another directory")
        return
    for block in range(plan.num_blocks):  # without config.json it may be a merge that was killed
        path = output / shard_name(block)
        if path.exists():
            try:
                read_stamp(path, plan.hash, f"block-{block}")
            except CheckpointError as error:
                raise ValueError(
                    f"{output} holds something other than a model ({error}); give the model a directory of its own"
                ) from error


def _collect(
    directory: Path, plan: Plan, last_step: int, parameters: Parameters | None
) -> tuple[dict[int, Path], list[str]]:
    ready: dict[int, Path] = {}
    problems: list[str] = []
    ends: dict[str, Tensor] = {}
    for block in range(plan.num_blocks):
        found = checkpoints(directory / f"block-{block}")
        if not found:
            problems.append(f"block {block} has no checkpoint (train it with --block {block})")
            continue
        try:
            stored, stamp = read_block(found[-1], plan, block, parameters(block) if parameters else None)
            _check_ends(found[-1], ends, stored)
        except CheckpointError as error:
            problems.append(f"block {block}: {error}")
            continue
        if stamp.step < last_step:
            problems.append(f"block {block} stands at step {stamp.step} of {last_step} (resume it)")
        ready[block] = found[-1]
    return ready, problems


def read_block(
    path: Path, plan: Plan, block: int, parameters: Mapping[str, Tensor] | None = None, job: str = ""
) -> tuple[dict[str, Tensor], Stamp]:
    """All tensors of a block's checkpoint, which must be those of its network.

    Args:
        parameters: of the network; None takes those that the file speaks of.
        job: the checkpoint's; the block's own if empty, or the trunk, which is built like block 0.

    Raises:
        CheckpointError: damaged, or of another plan, block or network.
    """
    stored, stamp = load_checkpoint(path, plan.hash, job or f"block-{block}")
    wanted = own_parameters(stored) if parameters is None else parameters
    wrong = checkpoint_misfit(stored, wanted, str(plan.recipe.get("optimizer")))
    layers = {name.split(".")[1] for name in wanted if name.startswith("layers.")}
    if not wrong and layers - {str(i) for i in plan.layer_range(block)}:
        wrong = f"it has the layers {', '.join(sorted(layers))}"
    if wrong or not wanted:
        raise CheckpointError(f"{path} is another network's than block {block} of the plan ({wrong or 'it is empty'})")
    return stored, stamp


def read_shard(
    directory: Path, plan: Plan, block: int, parameters: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The averaged weights of a block of a merged model; arguments and errors as ``read_block``."""
    path = directory / shard_name(block)
    stored, _ = load_checkpoint(path, plan.hash, f"block-{block}")
    prefix = f"blocks.{block}."
    weights = {name.removeprefix(prefix): t for name, t in stored.items()}
    wrong = shard_misfit(stored, weights if parameters is None else parameters, prefix)
    if wrong or not weights:
        raise CheckpointError(f"{path} is another network's than block {block} of the plan ({wrong or 'it is empty'})")
    listed = read_index(directory, plan)
    if listed is not None and {name for name, file in listed.items() if file == path.name} != stored.keys():
        raise CheckpointError(f"{directory / INDEX_FILE} names other tensors than {path.name} has; merge the run again")
    return weights


def read_index(directory: Path, plan: Plan) -> dict[str, str] | None:
    """Which tensor is in which shard, for other programs; None where the file is missing, which this one does not need.

    Raises:
        CheckpointError: it does not list shards of this model.
    """
    path = directory / INDEX_FILE
    if not path.exists():
        return None
    try:
        values = read_plain(path)
    except ValueError as error:
        raise CheckpointError(f"{error}; merge the run again") from error
    listed = (
        values.get("weight_map") if isinstance(values, dict) and values.keys() == {"metadata", "weight_map"} else None
    )
    shards = {shard_name(block): f"blocks.{block}." for block in range(plan.num_blocks)}
    if not isinstance(listed, dict) or not all(
        isinstance(file, str) and file in shards and name.startswith(shards[file]) for name, file in listed.items()
    ):
        raise CheckpointError(f"{path} is not the index of this model of {plan.num_blocks} shards; merge the run again")
    return listed


def shard_name(block: int) -> str:
    """The file of a block of a merged model."""
    return f"block-{block}.safetensors"


def _check_ends(path: Path, ends: dict[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """All blocks of a plan have the same stem and head: refuse another shape than that of the first block."""
    mine = {name: t for name, t in own_parameters(stored).items() if not name.startswith("layers.")}
    wrong = shard_misfit(mine, ends or mine, "")
    if wrong:
        raise CheckpointError(f"{path} has another stem or head than the first block ({wrong})")
    ends.update(mine)


def is_run(directory: Path) -> bool:
    """Whether a directory is a run's, or holds a merged or an exported model."""
    return any((directory / name).is_file() for name in (CONFIG_FILE, PLAN_FILE)) or is_export(directory)


def open_plan(directory: Path) -> Plan:
    """The plan of a run's directory, or of a merged or exported model."""
    if (directory / CONFIG_FILE).is_file():
        return read_plan_file(directory / CONFIG_FILE)
    if is_export(directory):
        return read_export(directory).plan
    if not (directory / PLAN_FILE).is_file():
        raise ValueError(
            f"{directory} is neither a run nor a merged model; give a directory with {PLAN_FILE} or {CONFIG_FILE}"
        )
    return read_plan(directory)


class BlockFiles:
    """The blocks of a merged model or of a run's newest checkpoints, with their averaged weights."""

    def __init__(self, directory: Path, blockwise: Blockwise) -> None:
        self._directory = directory
        self._blockwise = blockwise
        self._merged = (directory / CONFIG_FILE).is_file()

    def start(self, block: int) -> BlockDenoiser:
        """The block with fresh weights; ``CheckpointError`` without a file of it, or with one of another plan."""
        # before a network is built that may be another one
        read_stamp(self._file(block), self._blockwise.plan.hash, f"block-{block}")
        return self._blockwise.denoiser(block)

    def read(self, block: int, denoiser: BlockDenoiser) -> None:
        """Fill the block from its file; ``CheckpointError`` if that is damaged, or another network's."""
        plan, parameters = self._blockwise.plan, trained_parameters(denoiser.backbone)
        if self._merged:
            weights = read_shard(self._directory, plan, block, parameters)
        else:
            weights = _averages(read_block(self._file(block), plan, block, parameters)[0])
        # buffers and frozen parameters are made with the block, and parameters that are tied to others come with these
        denoiser.backbone.load_state_dict(weights, strict=False)

    def _file(self, block: int) -> Path:
        if self._merged:
            return self._directory / shard_name(block)
        found = checkpoints(self._directory / f"block-{block}")
        if not found:
            raise CheckpointError(
                f"{self._directory} has no checkpoint of block {block}; train it with --block {block}"
            )
        return found[-1]


def open_denoiser(
    directory: Path,
    blockwise: Blockwise,
    device: torch.device,
    resident: int | None = None,
    compile: bool = False,
    ahead: bool | None = None,
) -> Denoiser:
    """The denoiser of the whole noise range over a run, or a merged or exported model. Files of another plan are
    refused at once, what else is wrong with a block when it is needed.

    Args:
        resident: how many blocks are kept on the device; None keeps all.
        compile: pass each layer through ``torch.compile``, which takes seconds for every shape of a call.
        ahead: read the next block into host memory while the present one works; None does so with CUDA and
            ``resident`` blocks. On a CPU the device is host memory, which would hold one block more.
    """
    files: BlockFiles | ExportedFiles
    if is_export(directory):
        files = ExportedFiles(directory, blockwise)
    else:
        _check_stamps(directory, blockwise.plan)
        files = BlockFiles(directory, blockwise)

    def place(block: BlockDenoiser) -> BlockDenoiser:
        block.to(device).eval()
        if compile:
            compile_layers(block)
        return block

    if ahead is None:
        ahead = device.type == "cuda" and resident is not None
    reader = ReadAhead(files.start, files.read, place)

    def load(block: int) -> BlockDenoiser:
        if compile and resident is not None:
            gc.collect()  # compiled layers hold themselves, and the block before was let go just now
        return reader.load(block)

    return Denoiser(blockwise.plan.partition, load, resident, reader if ahead else None)


def _check_stamps(directory: Path, plan: Plan) -> None:
    merged = (directory / CONFIG_FILE).is_file()
    for block in range(plan.num_blocks):
        job = f"block-{block}"
        for path in [directory / shard_name(block)] if merged else checkpoints(directory / job)[-1:]:
            with suppress(DamagedError):
                read_stamp(path, plan.hash, job)


def _averages(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {name: t for name, t in tensors.items() if name.startswith("ema/") and not of_training(name)}
    return {name.removeprefix("ema/"): t for name, t in named.items()}


def _write_model(output: Path, plan: Plan, index: Mapping[str, str], size: int) -> None:
    """The files beside the shards; the plan comes last, and says that all are there."""
    values = {"metadata": {"total_size": size}, "weight_map": index}
    write_whole(output / INDEX_FILE, json.dumps(values, indent=2) + "\n")
    write_whole(output / CONFIG_FILE, plan.to_json())
