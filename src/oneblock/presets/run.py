"""From a recipe and data to a trained run."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from oneblock.backbone import BuildBackbone, refuse_while_loading
from oneblock.blockwise import Blockwise
from oneblock.checks import check_choice
from oneblock.data import Batches
from oneblock.plan import Plan, write_plan
from oneblock.presets.base import Recipe, end_to_end
from oneblock.presets.cost import block_bytes
from oneblock.presets.data import Data, open_data, plan_source
from oneblock.presets.tasks import blockwise, check_own, own_backbone, plan_augment, plan_task
from oneblock.train.drive import BARS, Watch, drive
from oneblock.train.loop import Idle, Run
from oneblock.train.machine import HERE, Machine
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.strategy import check_job, check_turns, job_name, job_specs, plan_optimizer

LARGE = 64 * 2**20
"""Bytes of a block's weights above which its memory matters more than the time of an allocation."""
M_MMAP_THRESHOLD = -3
"""An option of ``mallopt``: the size from which memory is mapped, and unmapped when it is freed (malloc.h)."""

Strategy = Literal["round-robin", "one-block", "end-to-end", "plan-only"]


@dataclass(frozen=True)
class Trained:
    """A run that has been trained, or planned: its directory and plan, and the seconds that it took."""

    directory: str
    plan: Plan
    seconds: float


def train(
    recipe: Recipe,
    *,
    out: str | Path,
    data: Data | None = None,
    backbone: Callable[..., nn.Module] | None = None,
    device: str | None = None,
    strategy: Strategy = "round-robin",
    block: int | str | None = None,
    stride: int = 100,
    idle: Idle = "host",
    machine: Machine = HERE,
    watch: Watch = BARS,
) -> Trained:
    """Train a recipe: all blocks, one after the other, in this process. The same call goes on where it was stopped.

    Args:
        out: directory of the run.
        data: a name, a source or a Dataset (``presets.data``); None is what the task usually trains on.
        backbone: a network of one's own in the place of the task's: called with ``layers=range(...)``, gives a
            ``Backbone`` of these layers of its ``recipe.depth``.
        device: where a block trains; None is ``machine.device``.
        strategy: all blocks; with ``"one-block"`` the ``block`` that is named (0 is the noisiest, ``"trunk"`` that of
            ``branch``); the whole network as a single block; or only write the plan, for jobs elsewhere.
        stride: steps of a block before the next has its turn.
        idle: where blocks wait for their turn: left on the device, in host memory, or in their checkpoints alone.

    Raises:
        ValueError: anything that does not fit together, before any work.
        NonFiniteError: a loss was not finite.
    """
    refuse_while_loading("train")
    check_choice("strategy", strategy, get_args(Strategy))
    check_turns(stride, idle)
    plan, source = make_plan(recipe, data, backbone, strategy)
    job = _job(plan, strategy, block)
    if strategy == "plan-only":
        job_specs(plan)
        write_plan(plan, Path(out))
        return Trained(str(out), plan, 0.0)
    machine = machine if device is None else replace(machine, device=device)
    run = start_run(plan, Path(out), source, machine, backbone=backbone, warn=watch.warn)
    return Trained(str(out), plan, drive(run, job, stride=stride, idle=idle, watch=watch))


def make_plan(
    recipe: Recipe,
    data: Data | None = None,
    backbone: Callable[..., nn.Module] | None = None,
    strategy: Strategy = "round-robin",
) -> tuple[Plan, Batches]:
    """The plan of a recipe, and its training samples; arguments and errors of ``train``."""
    if strategy == "end-to-end":
        if recipe.branch:
            raise ValueError(f"branch={recipe.branch} needs two blocks or more; use branch=0 or another strategy")
        recipe = end_to_end(recipe)  # before the data: what it must know of them may be something else
    source, facts = open_data(recipe, data)
    if backbone is None:
        return recipe.plan(facts), source
    plan = recipe.plan(facts, own_backbone(backbone))
    check_own(plan, backbone)
    return plan, source


def start_run(
    plan: Plan,
    out: Path,
    source: Batches,
    machine: Machine = HERE,
    ranks: Ranks = ALONE,
    backbone: BuildBackbone | None = None,
    warn: Callable[[str], None] = BARS.warn,
) -> Run:
    """Claim ``out`` for ``plan`` (another run's directory is refused) and gather what its jobs need."""
    task = plan_task(plan)
    job_specs(plan)
    blocks = blockwise(plan, backbone)
    device = machine.torch_device()
    if device.type == "cpu" and _largest(plan, blocks, backbone) >= LARGE:
        _return_memory()
    write_plan(plan, out)
    return Run(
        plan=plan,
        directory=out,
        blockwise=blocks,
        task=task,
        source=source,
        settings=plan_optimizer(plan),
        augment=plan_augment(plan),
        device=device,
        ranks=ranks,
        checkpointing=machine.checkpointing,
        compile=machine.compile,
        save_every=machine.save_every,
        keep=machine.keep,
        warn=warn,
        reseed=backbone is not None,
    )


def _largest(plan: Plan, blocks: Blockwise, backbone: BuildBackbone | None) -> int:
    """Bytes of the weights of the largest block. A user's own network may need real tensors to be built."""
    if backbone is None:
        return block_bytes(plan)
    largest = blocks.denoiser(max(range(plan.num_blocks), key=plan.layers.__getitem__))
    return sum(p.numel() * p.element_size() for p in largest.parameters())


def open_run(
    plan: Plan,
    directory: Path,
    data: Data | None = None,
    machine: Machine = HERE,
    ranks: Ranks = ALONE,
    backbone: BuildBackbone | None = None,
    warn: Callable[[str], None] = BARS.warn,
) -> Run:
    """What a job of a planned run needs, from the plan, the data and nothing else."""
    if backbone is not None:
        check_own(plan, backbone)
    return start_run(plan, directory, plan_source(plan, data), machine, ranks, backbone, warn)


def _job(plan: Plan, strategy: Strategy, block: int | str | None) -> str | None:
    if strategy != "one-block":
        if block is not None:
            raise ValueError(f"block={block} goes with --strategy one-block, not {strategy}")
        return None
    if block is None:
        raise ValueError(f"--strategy one-block needs --block, from 0 to {plan.num_blocks - 1} (or trunk)")
    name = job_name(plan, block)
    check_job(plan, name)
    return name


def _return_memory() -> None:
    """Have glibc hand freed tensors back to the system at once, for the rest of this process.

    Left alone it keeps them in a heap, which gradients and activations fragment: a ninth more memory for a block
    of 256 MiB. Handing back costs small networks a fifth of their speed, large ones nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
