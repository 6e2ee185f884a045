"""From a plan to its blocks, and to what training them will cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from oneblock.blockwise import BlockDenoiser, Blockwise
from oneblock.memory import DryRun, PeakBytes, fake_tensors, peak_bytes, step_flops
from oneblock.optim.adamw import make_state, state_tensors
from oneblock.plan import Plan
from oneblock.presets.base import plan_budget, plan_optimizer
from oneblock.presets.tasks import build_backbone, task_parts
from oneblock.train.block import BlockLearner, block_learner, block_losses
from oneblock.train.learner import rehearse
from oneblock.train.step import JobSpec
from oneblock.train.strategy import job_specs


def blockwise(plan: Plan) -> Blockwise:
    """Blocks of a plan, ready to be built one by one."""
    return Blockwise(build_backbone(plan), plan, task_parts(plan).frame(plan))


def block_bytes(plan: Plan) -> int:
    """Bytes of the weights of the largest block."""
    with torch.device("meta"):
        largest = build_backbone(plan)(range(max(plan.layers)))
    return sum(p.numel() * p.element_size() for p in largest.parameters())


def training_peak(plan: Plan, checkpointing: bool = False, real: bool = False) -> PeakBytes:
    """Peak bytes of training the costliest job of a plan, counted without running it (``memory.peak_bytes``).

    Args:
        checkpointing: recompute activations layer by layer.
        real: count on real tensors instead, to check the count.
    """
    job = costliest_job(plan)
    return peak_bytes(lambda: dry_run(plan, job, checkpointing), real)


def all_resident(plan: Plan, peak: PeakBytes) -> PeakBytes:
    """The ``training_peak`` of one process that also holds the weights, averages and optimizer states of all other
    blocks, as with ``idle="device"``."""
    trained = costliest_job(plan).block or 0
    idle = cache(partial(_idle_bytes, plan))  # the same for all blocks of so many layers
    kinds = dict(peak.by_kind)
    for block, num_layers in enumerate(plan.layers):
        if block != trained:
            for kind, size in idle(num_layers).items():
                kinds[kind] = kinds.get(kind, 0) + size
    return PeakBytes(sum(kinds.values()), kinds)


def costliest_job(plan: Plan) -> JobSpec:
    """The job whose steps have the most layer evaluations."""
    return max(job_specs(plan, plan_budget(plan)), key=lambda job: job.step_evaluations)


def dry_run(plan: Plan, job: JobSpec, checkpointing: bool = False) -> DryRun:
    """One training step of ``job`` on empty samples, for ``memory.peak_bytes`` and ``memory.step_flops``."""
    parts = task_parts(plan)
    task, batch = parts.empty_task(plan), parts.empty_batch(plan, job.batch_size, job.block)
    learner = untrained_learner(plan, job, checkpointing)

    def step() -> None:
        rehearse([learner], block_losses(learner, task, batch), job.batch_size)

    return DryRun(
        learner.module,
        learner.optimizer,
        (batch.targets, batch.noised.z, *batch.condition.tensors(), batch.noised.sigma, *learner.averages.values()),
        step,
    )


@dataclass(frozen=True)
class SampleFlops:
    """Floating-point operations that a training step spends on one sample: in stem and head, and in each layer."""

    ends: int
    layer: int

    def step(self, job: JobSpec) -> int:
        """Operations of one step of ``job``, the same number that ``memory.step_flops`` finds in ``dry_run``."""
        return job.batch_size * (self.ends + len(job.layers) * self.layer)


def training_flops(plan: Plan, checkpointing: bool = False) -> SampleFlops:
    """What training the backbone of a plan costs, however many blocks it is cut into.

    Every layer of a backbone costs the same and so does every sample: one sample with one layer and with two say all.
    """
    plan = replace(plan, recipe={**plan.recipe, "accumulate": 1})
    sample = replace(costliest_job(plan), batch_size=1)
    one, two = (
        step_flops(partial(dry_run, plan, replace(sample, layers=range(layers)), checkpointing)) for layers in (1, 2)
    )
    return SampleFlops(ends=2 * one - two, layer=two - one)


def untrained_learner(plan: Plan, job: JobSpec, checkpointing: bool = False) -> BlockLearner:
    """The learner of ``job``, with weights that are not those of a run."""
    backbone = build_backbone(plan)(job.layers)
    denoiser = BlockDenoiser(backbone, task_parts(plan).empty_frame(plan), checkpointing)
    return block_learner(job, denoiser, plan_optimizer(plan))


def _idle_bytes(plan: Plan, num_layers: int) -> dict[str, int]:
    """Bytes by kind of a block that has trained and waits."""
    with fake_tensors():
        learner = untrained_learner(plan, replace(costliest_job(plan), layers=range(num_layers)))
        make_state(learner.optimizer)
        kinds: dict[str, list[torch.Tensor]] = {
            "Parameter": list(learner.weights.values()),
            "Buffer": list(learner.module.buffers()),
            "Optstate": [t for p in learner.weights.values() for t in state_tensors(learner.optimizer, p).values()],
            "Other": list(learner.averages.values()),
        }
        return {kind: sum(t.numel() * t.element_size() for t in tensors) for kind, tensors in kinds.items()}
