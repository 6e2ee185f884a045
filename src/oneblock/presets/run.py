"""From a recipe and data to a trained run."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

from torch import nn

from oneblock.backbone import BuildBackbone, refuse_while_loading
from oneblock.blockwise import Blockwise
from oneblock.checks import check_choice
from oneblock.data import Batches
from oneblock.plan import PLAN_FILE, Plan, write_plan
from oneblock.presets.base import AnyRecipe, ImageFacts, Recipe, TextFacts, end_to_end
from oneblock.presets.cost import block_bytes
from oneblock.presets.data import Data, open_data
from oneblock.presets.door import check_plan, read_plan
from oneblock.presets.kept import keep_network, known_backbone, started_backbone
from oneblock.presets.own import check_frozen, sized
from oneblock.presets.places import keep_place, located
from oneblock.presets.resume import going_on, run_source
from oneblock.presets.tasks import check_own, own_backbone, plan_augment, plan_task, training_blockwise
from oneblock.presets.teacher import Teacher, known_teacher, taught, taught_task
from oneblock.train.drive import BARS, Watch, drive
from oneblock.train.feed import placed
from oneblock.train.loop import Idle, Run
from oneblock.train.machine import HERE, Machine, captures, compiles
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.shown import shown
from oneblock.train.strategy import Turns, check_job, check_turns, job_name, job_specs, plan_optimizer

LARGE = 64 * 2**20
"""Bytes of a block's weights above which its memory matters more than the time of an allocation."""
M_MMAP_THRESHOLD = -3
"""An option of ``mallopt``: the size from which memory is mapped, and unmapped when it is freed (malloc.h)."""

Strategy = Literal["all", "one-block", "end-to-end", "plan-only", "round-robin"]
"""``"round-robin"`` is what ``"all"`` was called."""
Order = Literal["sequential", "turns"]


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
    strategy: Strategy = "all",
    block: int | str | None = None,
    order: Order = "sequential",
    turn_seconds: float = Turns.seconds,
    idle: Idle = Turns.idle,
    accept_data: bool = False,
    teacher: Teacher | None = None,
    machine: Machine = HERE,
    watch: Watch = BARS,
) -> Trained:
    """Train a recipe: all blocks, one after the other, in this process. The same call goes on where it was stopped, and
    so does one with another ``order``, on which nothing that is learned depends.

    Args:
        out: directory of the run.
        data: a name, a source or a Dataset (``presets.data``); None is what the task usually trains on.
        backbone: a network of one's own in the place of the task's: called with ``layers=range(...)``, gives a
            ``Backbone`` of these layers of its ``recipe.depth``. A run keeps a network of another library
            (``ob.convert``), and goes on without being given it again.
        device: where a block trains; None is ``machine.device``.
        strategy: all blocks; with ``"one-block"`` the ``block`` that is named (0 is the noisiest, ``"trunk"`` that of
            ``branch``); the whole network as a single block; or only write the plan, for jobs elsewhere.
        order: each block to its end, or all in turns, so that all advance; blocks that share stem and head take turns
            after every step.
        turn_seconds: that a block trains before the next has its turn; 0 is a single step.
        idle: where blocks wait for their turn: left on the device, in host memory, or in their checkpoints alone.
        accept_data: go on with a run though its data have changed, with a note in the run's record.
        teacher: a trained model of images, or a converted network with its scheduler: blocks learn its answers in the
            place of the data (``tasks.distilled``), at the noise levels that it knows. Its forward pass is not in the
            budget. The device holds its weights, or, if it is of one block and in host memory, one of its layers at a
            time (``train.visiting``).

    Raises:
        ValueError: anything that does not fit together, before any work; data that have changed since the run was
            started, with the files that differ.
        NonFiniteError: a loss was not finite.
    """
    refuse_while_loading("train")
    check_choice("strategy", strategy, get_args(Strategy))
    turns = _turns(strategy, order, turn_seconds, idle)
    directory, recipe = Path(out), _asked(recipe, strategy)
    data = _found(directory, recipe.usual_data if data is None else data)
    backbone = started_backbone(directory) if backbone is None else backbone
    with shown() if watch.bars else nullcontext():
        source, facts = open_data(recipe, data)
    remade = partial(_plan_of, recipe, backbone=backbone, teacher=teacher)
    plan, source, note = going_on(remade(facts), source, facts, remade, data, directory, accept_data)
    job = _job(plan, strategy, block)
    check_turns(plan, turns)
    if strategy == "plan-only":
        job_specs(plan)
        keep_network(plan, directory, backbone)
        write_plan(plan, directory)
        if not note:
            keep_place(plan, directory, data)
        return Trained(str(out), plan, 0.0)
    machine = machine if device is None else replace(machine, device=device)
    run = start_run(plan, directory, source, machine, backbone=backbone, warn=watch.warn, note=note, teacher=teacher)
    if not note:
        keep_place(plan, directory, data)
    return Trained(str(out), plan, drive(run, job, turns=turns, watch=watch))


def make_plan(
    recipe: Recipe,
    data: Data | None = None,
    backbone: Callable[..., nn.Module] | None = None,
    strategy: Strategy = "all",
    teacher: Teacher | None = None,
) -> tuple[Plan, Batches]:
    """The plan of a recipe, and its training samples; arguments and errors of ``train``."""
    recipe = _asked(recipe, strategy)
    source, facts = open_data(recipe, data)
    return _plan_of(recipe, facts, backbone, teacher), source


def _turns(strategy: Strategy, order: Order, seconds: float, idle: Idle) -> Turns | None:
    """The turns that are asked for; None for one block after the other."""
    check_choice("order", order, get_args(Order))
    turns = Turns(seconds=seconds, idle=idle)
    if order == "turns":
        if strategy not in ("all", "round-robin"):
            raise ValueError(f"order={order!r} goes with --strategy all, not {strategy}")
        return turns
    for name, value, usual in (("turn_seconds", seconds, Turns.seconds), ("idle", idle, Turns.idle)):
        if value != usual:
            raise ValueError(f"{name}={value!r} goes with --order turns; one after the other, no block waits")
    return None


def _asked(recipe: AnyRecipe, strategy: Strategy) -> AnyRecipe:
    """The recipe that a strategy trains. What must be known of the data may be something else for it."""
    if strategy != "end-to-end":
        return recipe
    if recipe.of_several():
        raise ValueError(f"{recipe.of_several()} needs two blocks or more; leave it out, or use another strategy")
    return end_to_end(recipe)


def _plan_of(
    recipe: Recipe,
    facts: ImageFacts | TextFacts,
    backbone: Callable[..., nn.Module] | None,
    teacher: Teacher | None = None,
) -> Plan:
    if backbone is None:
        return taught(recipe.plan(facts), recipe, teacher)
    own = own_backbone(backbone)
    if own.frame and recipe.task != "image":
        raise ValueError(
            f"the network keeps the frame {own.frame['frame']!r} of images, and task {recipe.task!r} has none; use an "
            "ImageRecipe, or a network without a frame"
        )
    plan = sized(recipe, backbone).plan(facts, own)
    check_own(plan, backbone)
    check_frozen(plan, backbone)
    return taught(plan, recipe, teacher)


def _found(directory: Path, data: Data) -> Data:
    """``data``, or where the run in ``directory`` has kept that they lie."""
    if not (directory / PLAN_FILE).is_file():
        return data
    return cast(Data, located(read_plan(directory), directory, data))


def start_run(
    plan: Plan,
    out: Path,
    source: Batches,
    machine: Machine = HERE,
    ranks: Ranks = ALONE,
    backbone: BuildBackbone | None = None,
    warn: Callable[[str], None] = BARS.warn,
    note: str = "",
    teacher: Teacher | None = None,
) -> Run:
    """Claim ``out`` for ``plan`` (another run's directory is refused) and gather what its jobs need."""
    check_plan(plan)
    task = plan_task(plan, source)
    job_specs(plan)
    blocks = training_blockwise(plan, backbone)
    device = machine.torch_device()
    task = taught_task(plan, task, known_teacher(plan, teacher, backbone), device)
    largest = _largest(plan, blocks, backbone)
    if largest > _memory():
        raise ValueError(
            f"the largest block of the plan has {largest / 1e9:.3g} GB of weights, more than this machine's memory, "
            f"{_memory() / 1e9:.3g} GB; use a smaller width, or more blocks"
        )
    if device.type == "cpu" and largest >= LARGE:
        _return_memory()
    if ranks.first:
        keep_network(plan, out, backbone)
    write_plan(plan, out)
    here = placed(source, device)
    return Run(
        plan=plan,
        directory=out,
        blockwise=blocks,
        task=task.to(device) if device.type == "cuda" else task,
        source=here,
        settings=plan_optimizer(plan),
        augment=plan_augment(plan),
        device=device,
        ranks=ranks,
        checkpointing=machine.checkpointing,
        compile=compiles(device, machine.compile),
        capture=captures(device, machine.capture),
        prefetch=device.type == "cuda" and here is source,
        save_every=machine.save_every,
        keep=machine.keep,
        warn=warn,
        reseed=backbone is not None,
        note=note,
    )


def _largest(plan: Plan, blocks: Blockwise, backbone: BuildBackbone | None) -> int:
    """Bytes of the weights of the largest block. A user's own network may need real tensors to be built."""
    if backbone is None:
        return block_bytes(plan)
    largest = blocks.denoiser(max(range(plan.num_blocks), key=plan.layers.__getitem__))
    return sum(p.numel() * p.element_size() for p in largest.parameters())


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def open_run(
    plan: Plan,
    directory: Path,
    data: Data | None = None,
    machine: Machine = HERE,
    ranks: Ranks = ALONE,
    backbone: BuildBackbone | None = None,
    warn: Callable[[str], None] = BARS.warn,
    accept_data: bool = False,
    teacher: Teacher | None = None,
) -> Run:
    """What a job of a planned run needs, from the plan, the data and nothing else."""
    if backbone is not None:
        check_own(plan, backbone)
    backbone = known_backbone(plan, directory, backbone, weights=True)
    source, note = run_source(plan, directory, data, accept_data)
    run = start_run(plan, directory, source, machine, ranks, backbone, warn, note, teacher)
    if not note and ranks.first:
        keep_place(plan, directory, located(plan, directory, data))
    return run


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
