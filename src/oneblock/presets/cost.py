"""What training a plan will cost, before any of it is trained: bytes and floating-point operations, from shapes.

What is counted is what trains (``train.block``, ``train.shared``): the same learner, the same micro-batches, and of a
plan that shares stem and head all blocks at once, with what they exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from oneblock.backbone import BuildBackbone
from oneblock.blockwise import BlockDenoiser
from oneblock.memory import DryRun, PeakBytes, fake_tensors, peak_bytes, step_flops
from oneblock.optim.adamw import make_state, state_tensors
from oneblock.plan import Plan
from oneblock.presets.own import alike
from oneblock.presets.tasks import build_backbone, task_parts, training_backbone, without_content
from oneblock.tasks.across import Border
from oneblock.tasks.base import Batch, Loss, Task
from oneblock.tasks.relay import RelayText, Rollout
from oneblock.train.block import BlockLearner, block_learner, block_losses
from oneblock.train.evolve import job_update, plan_update
from oneblock.train.learner import rehearse
from oneblock.train.shared import average, take_turns
from oneblock.train.step import JobSpec
from oneblock.train.strategy import job_specs, plan_optimizer

TOGETHER = "all blocks"
"""Stands for the jobs of blocks that share trained parts, which train in turn and are all on the device."""


def block_bytes(plan: Plan) -> int:
    """Bytes of the weights of the largest block."""
    with without_content():
        largest = build_backbone(plan)(range(max(plan.layers)))
    return sum(p.numel() * p.element_size() for p in largest.parameters())


def training_peak(
    plan: Plan, checkpointing: bool = False, real: bool = False, backbone: BuildBackbone | None = None
) -> PeakBytes:
    """Peak bytes of training a plan, those of its costliest job; arguments and errors of ``job_peaks``."""
    return highest(job_peaks(plan, checkpointing, real, backbone=backbone))


def highest(peaks: Mapping[str, PeakBytes]) -> PeakBytes:
    """The highest of the peaks of some jobs."""
    return max(peaks.values(), key=lambda peak: peak.total)


def job_peaks(
    plan: Plan,
    checkpointing: bool = False,
    real: bool = False,
    parts: int | None = None,
    backbone: BuildBackbone | None = None,
) -> dict[str, PeakBytes]:
    """Peak bytes on the device of every job of a plan, counted without running it (``memory.peak_bytes``).

    A block whose stem and head are its own is alone on the device, as is the trunk. Blocks that share them are one
    entry, ``TOGETHER``.

    Args:
        checkpointing: recompute activations layer by layer.
        real: count on real tensors instead, to check the count.
        parts: count the first micro-batches of a step alone, which are the largest: a lower bound, found sooner.
        backbone: the user's own network, of a plan that names one; it must be possible to build it of tensors without
            content, as ``convert`` makes it.

    Raises:
        ValueError: a job that could not be trained.
    """
    # jobs with layers that are alike and as many samples cost the same
    counted: dict[tuple[object, object, int], PeakBytes] = {}
    peaks: dict[str, PeakBytes] = {}
    for job in job_specs(plan):
        costs = alike(job.layers, backbone), alike(job.before, backbone), job.batch_size
        if plan.shared != "private" and job.block is not None:
            continue
        if costs not in counted:
            counted[costs] = peak_bytes(partial(dry_run, plan, job, checkpointing, parts, backbone), real)
        peaks[job.name] = counted[costs]
    if plan.shared != "private":
        peaks[TOGETHER] = peak_bytes(partial(dry_round, plan, checkpointing, parts, backbone), real)
    return peaks


def all_resident(plan: Plan, checkpointing: bool = False, backbone: BuildBackbone | None = None) -> PeakBytes:
    """The ``training_peak`` of one process that also holds the weights, averages and optimizer states of all other
    blocks, as in turns with ``idle="device"``; frozen weights those of every block."""
    return with_idle(plan, job_peaks(plan, checkpointing, backbone=backbone), backbone)


def with_idle(plan: Plan, peaks: Mapping[str, PeakBytes], backbone: BuildBackbone | None = None) -> PeakBytes:
    """``all_resident``, from the ``job_peaks`` of a plan."""
    blocks = {job.name: job for job in job_specs(plan) if job.name in peaks and job.block is not None}
    counted: dict[object, dict[str, int]] = {}
    for job in blocks.values():
        costs = alike(job.layers, backbone)
        if costs not in counted:
            counted[costs] = _idle_bytes(plan, job, backbone)
    found = {name: peak for name, peak in peaks.items() if name not in blocks}  # the trunk, or all at once
    for name in blocks:
        kinds = dict(peaks[name].by_kind)
        for waits, job in blocks.items():
            if waits != name:
                for kind, size in counted[alike(job.layers, backbone)].items():
                    kinds[kind] = kinds.get(kind, 0) + size
        found[name] = PeakBytes(sum(kinds.values()), kinds)
    return highest(found)


def costliest_job(plan: Plan) -> JobSpec:
    """The job whose steps have the most layer evaluations."""
    return max(job_specs(plan), key=lambda job: job.step_evaluations)


def dry_run(
    plan: Plan,
    job: JobSpec,
    checkpointing: bool = False,
    parts: int | None = None,
    backbone: BuildBackbone | None = None,
) -> DryRun:
    """One training step of ``job`` on empty samples, for ``memory.peak_bytes`` and ``memory.step_flops``; arguments of
    ``job_peaks``."""
    task, batch = task_parts(plan).empty_task(plan), _empty_batch(plan, job)
    learner = untrained_learner(plan, job, checkpointing, backbone=backbone)
    held = (*batch.tensors(), *learner.averages.values())
    if job.before and isinstance(task, RelayText):
        before = _frozen_before(plan, job, backbone)
        step = partial(_rehearse_border, learner, before, task, batch, parts)
        return DryRun(nn.ModuleList([learner.module, before]), learner.optimizer, held, step)
    return DryRun(learner.module, learner.optimizer, held, partial(_rehearse, learner, task, batch, parts))


def dry_pass(plan: Plan, job: JobSpec, checkpointing: bool = False, weights: torch.dtype = torch.float32) -> DryRun:
    """The passes forward and backward of one training step of ``job``, without what follows them; no weight average.

    Args:
        weights: type of the weights, and so of their gradients.
    """
    task, batch = task_parts(plan).empty_task(plan), _empty_batch(plan, job)
    learner = untrained_learner(plan, job, checkpointing, weights)
    losses = block_losses(learner, task, batch)

    def step() -> None:
        learner.update([learner.network.train()], losses, len(batch), learner.step)

    return DryRun(learner.module, learner.optimizer, batch.tensors(), step)


def dry_round(
    plan: Plan, checkpointing: bool = False, parts: int | None = None, backbone: BuildBackbone | None = None
) -> DryRun:
    """The same of all blocks of a plan that shares stem and head: a step of each, and what they exchange."""
    jobs = [job for job in job_specs(plan) if job.block is not None]
    task = task_parts(plan).empty_task(plan)
    batch = _empty_batch(plan, jobs[0])  # that of a block is gone before the next block's is made, and as large
    learners = [untrained_learner(plan, job, checkpointing, backbone=backbone) for job in jobs]
    batches = [replace(batch, noised=replace(batch.noised, block=job.block)) for job in jobs]
    steps = [partial(_rehearse, learner, task, one, parts) for learner, one in zip(learners, batches, strict=True)]

    def step() -> None:
        take_turns(learners, steps, plan.shared)
        if plan.shared == "synced":
            average(learners)

    modules = nn.ModuleList(learner.module for learner in learners)
    averages = (t for learner in learners for t in learner.averages.values())
    first, *others = (learner.optimizer for learner in learners)
    return DryRun(modules, first, (*batch.tensors(), *averages), step, tuple(others))


def untrained_learner(
    plan: Plan,
    job: JobSpec,
    checkpointing: bool = False,
    weights: torch.dtype = torch.float32,
    backbone: BuildBackbone | None = None,
) -> BlockLearner:
    """The learner of ``job``, with weights of type ``weights`` that are not those of a run."""
    made = training_backbone(plan, backbone)(job.layers)
    if weights != torch.float32:
        _retype(made, weights)
    denoiser = BlockDenoiser(made, task_parts(plan).empty_frame(plan), checkpointing)
    return block_learner(job, denoiser, plan_optimizer(plan), update=job_update(plan, job))


@dataclass(frozen=True)
class SampleFlops:
    """Floating-point operations that a training step spends on one sample: in stem and head, and in each layer.

    Args:
        once_ends, once_layer: that it spends once, whatever the batch: evolution adds up the noise of its population.
        before_ends, before_layer: that it spends in the block before, in a job that goes on from the states of one.
    """

    ends: int
    layer: int
    once_ends: int = 0
    once_layer: int = 0
    before_ends: int = 0
    before_layer: int = 0

    def step(self, job: JobSpec) -> int:
        """Operations of one step of ``job``, the same number that ``memory.step_flops`` finds in ``dry_run``."""
        layers, before = len(job.layers), len(job.before)
        asked = self.before_ends + before * self.before_layer if before else 0
        return job.batch_size * (self.ends + layers * self.layer + asked) + self.once_ends + layers * self.once_layer

    def run(self, plan: Plan) -> int:
        """Operations of all steps of all jobs of a plan."""
        return sum((job.last_step - job.first_step) * self.step(job) for job in job_specs(plan))


def training_flops(plan: Plan, checkpointing: bool = False, backbone: BuildBackbone | None = None) -> SampleFlops:
    """What training the backbone of a plan costs, however many blocks it is cut into.

    Every layer of a backbone of ours costs the same and so does every sample: one sample with one layer and with two
    say all. Of the user's own ``backbone`` a layer costs what it does in the mean of the costliest job.
    """
    plan = replace(plan, recipe={**plan.recipe, "accumulate": 1})
    costliest = replace(costliest_job(plan), before=range(0))
    few, many = range(1), range(2) if backbone is None else range(max(2, len(costliest.layers)))

    def stepped(job: JobSpec) -> int:
        return step_flops(partial(dry_run, plan, job, checkpointing, backbone=backbone))

    def counted(samples: int) -> tuple[int, int]:
        """Of a step on so many samples: in stem and head, and in a layer."""
        job = replace(costliest, batch_size=samples)
        return _ends_and_layer(stepped(replace(job, layers=few)), stepped(replace(job, layers=many)), len(many))

    def counted_before() -> tuple[int, int]:
        """The same of a sample in the block before."""
        job = replace(costliest, batch_size=1, block=1, layers=few)
        one, all_of_them = (stepped(replace(job, before=layers)) - stepped(job) for layers in (few, many))
        return _ends_and_layer(one, all_of_them, len(many))

    if plan.in_order:
        return SampleFlops(*counted(1), 0, 0, *counted_before())
    if plan_update(plan).update == "backpropagation":
        return SampleFlops(*counted(1))
    two, three = counted(2), counted(3)
    ends, layer = (b - a for a, b in zip(two, three, strict=True))
    return SampleFlops(ends, layer, two[0] - 2 * ends, two[1] - 2 * layer)


def _ends_and_layer(one: int, many: int, layers: int) -> tuple[int, int]:
    """What stem and head cost, and a layer, if they cost ``one`` with a layer and ``many`` with so many ``layers``."""
    layer = (many - one) // (layers - 1)
    return one - layer, layer


def _retype(module: nn.Module, dtype: torch.dtype) -> None:
    """``module.to(dtype)``, which tensors without content do not allow, of the parameters alone."""
    made: dict[Tensor, nn.Parameter] = {}
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            if p not in made:
                made[p] = nn.Parameter(p.detach().to(dtype), p.requires_grad)
            setattr(part, name, made[p])


def _rehearse(learner: BlockLearner, task: Task, batch: Batch, parts: int | None) -> None:
    """The step of ``train.block.train_step`` on a batch without content."""
    rehearse([learner], block_losses(learner, task, batch)[:parts], len(batch))


def _frozen_before(plan: Plan, job: JobSpec, backbone: BuildBackbone | None) -> BlockDenoiser:
    """The block before ``job``, with weights that are not those of a run."""
    made = BlockDenoiser(build_backbone(plan, backbone)(job.before), task_parts(plan).empty_frame(plan))
    return made.requires_grad_(False).eval()


def _rehearse_border(
    learner: BlockLearner, before: BlockDenoiser, task: RelayText, batch: Batch, parts: int | None
) -> None:
    """A step of ``train.rollout`` in which every slot has just been filled, on a batch without content."""
    block = batch.noised.block
    assert block is not None, "the trunk has no block before"
    border = Border(mask=task.relay.mask, law=task.task.law, share=1.0, times=task.bands[block - 1])
    rollout = task.standing(batch.noised, batch.targets)
    with learner.autocast():
        rollout = replace(rollout, state=border.left(before, rollout.z, rollout.free))
    loss, generator = task.of(block), torch.Generator().manual_seed(0)

    def learned(part: Rollout) -> Loss:
        with learner.autocast():
            return loss(learner.network, part, generator)[0]

    micro = rollout.split(learner.settings.accumulate)[:parts]
    rehearse([learner], [partial(learned, part) for part in micro], len(batch))


def _empty_batch(plan: Plan, job: JobSpec) -> Batch:
    return task_parts(plan).empty_batch(plan, job.batch_size, job.block)


def _idle_bytes(plan: Plan, job: JobSpec, backbone: BuildBackbone | None) -> dict[str, int]:
    """Bytes by kind of a block that has trained and waits."""
    with fake_tensors():
        learner = untrained_learner(plan, job, backbone=backbone)
        make_state(learner.optimizer)
        kinds: dict[str, list[Tensor]] = {
            "Parameter": list(learner.module.parameters()),
            "Buffer": list(learner.module.buffers()),
            "Optstate": [t for p in learner.weights.values() for t in state_tensors(learner.optimizer, p).values()],
            "Other": list(learner.averages.values()),
        }
        return {kind: sum(t.numel() * t.element_size() for t in tensors) for kind, tensors in kinds.items()}
