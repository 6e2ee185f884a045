"""From a plan to what its jobs need, and to what they will cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from oneblock.blockwise import BlockDenoiser, Blockwise, BuildBackbone
from oneblock.data import Augment, random_flip
from oneblock.memory import DryRun, PeakBytes, fake_tensors, peak_bytes, step_flops
from oneblock.models.cnn import NoisyCNN
from oneblock.models.dit import DiT
from oneblock.models.encoder import Encoder
from oneblock.models.vit import ViT
from oneblock.optim.adamw import make_state, state_tensors
from oneblock.plan import Plan
from oneblock.precondition import Frame, MaskedTokens
from oneblock.presets.base import plan_budget, plan_optimizer
from oneblock.presets.classify import (
    classify_task,
    empty_labels,
    empty_table,
    empty_task,
    label_augment,
    label_frame,
    label_table,
    vit_config,
)
from oneblock.presets.cnn import CNN_NAME, cnn_config
from oneblock.presets.image import dit_config, empty_images, image_task
from oneblock.presets.masked import empty_masked, encoder_config, masked_task
from oneblock.tasks.base import Batch, Task
from oneblock.train.step import JobSpec, TrainState, backward, update
from oneblock.train.strategy import job_specs


def build_backbone(plan: Plan) -> BuildBackbone:
    """The builder of a plan's backbone: give it a range of layers."""
    name = plan.architecture.get("name")
    if name == "dit":
        dit = dit_config(plan)
        return lambda layers: DiT(dit, layers)
    if name == "vit":
        vit = vit_config(plan)
        return lambda layers: ViT(vit, layers)
    if name == CNN_NAME:
        cnn = cnn_config(plan)
        return lambda layers: NoisyCNN(cnn, layers)
    if name == "encoder":
        encoder = encoder_config(plan)
        return lambda layers: Encoder(encoder, layers)
    raise ValueError(
        f"architecture {name!r} is unknown; this version of oneblock builds: dit, vit, {CNN_NAME}, encoder"
    )


def plan_frame(plan: Plan) -> Frame:
    """What the blocks of a plan are shown of noisy targets."""
    if plan.task == "classify":
        return label_frame(plan, label_table(plan))
    return MaskedTokens() if plan.task == "masked-text" else plan.precondition


def plan_task(plan: Plan) -> Task:
    """The task of a plan."""
    if plan.task == "classify":
        return classify_task(plan)
    return masked_task(plan) if plan.task == "masked-text" else image_task(plan)


def plan_augment(plan: Plan) -> Augment | None:
    """How the training images of a plan are changed at random."""
    if plan.task == "classify":
        return label_augment(plan)
    return random_flip if plan.recipe.get("flip") else None


def empty_batch(plan: Plan, count: int, block: int | None) -> Batch:
    """A batch of ``count`` samples without content."""
    if plan.task == "classify":
        return empty_labels(plan, count, block)
    return empty_masked(plan, count, block) if plan.task == "masked-text" else empty_images(plan, count, block)


def _empty_task(plan: Plan) -> Task:
    return empty_task(plan) if plan.task == "classify" else plan_task(plan)


def _empty_frame(plan: Plan) -> Frame:
    return label_frame(plan, empty_table(plan)) if plan.task == "classify" else plan_frame(plan)


def blockwise(plan: Plan) -> Blockwise:
    """Blocks of a plan, ready to be built one by one."""
    return Blockwise(build_backbone(plan), plan, plan_frame(plan))


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
    return max(job_specs(plan, plan_budget(plan)), key=lambda job: len(job.layers) * job.batch_size)


def dry_run(plan: Plan, job: JobSpec, checkpointing: bool = False) -> DryRun:
    """One training step of ``job`` on empty samples, for ``memory.peak_bytes`` and ``memory.step_flops``."""
    task, batch = _empty_task(plan), empty_batch(plan, job.batch_size, job.block)
    state = train_state(plan, job, checkpointing)

    def step() -> None:
        backward(state, task, batch)
        update(state, learning_rate=0.0)

    return DryRun(
        state.denoiser,
        state.optimizer,
        (batch.targets, batch.noised.z, batch.context, batch.noised.sigma, *state.averages.values()),
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


def train_state(plan: Plan, job: JobSpec, checkpointing: bool = False) -> TrainState:
    """What ``job`` trains, with weights that are not those of a run."""
    backbone = build_backbone(plan)(job.layers)
    return TrainState(job, BlockDenoiser(backbone, _empty_frame(plan), checkpointing), plan_optimizer(plan))


def _idle_bytes(plan: Plan, num_layers: int) -> dict[str, int]:
    """Bytes by kind of a block that has trained and waits."""
    with fake_tensors():
        state = train_state(plan, replace(costliest_job(plan), layers=range(num_layers)))
        make_state(state.optimizer)
        kinds: dict[str, list[torch.Tensor]] = {
            "Parameter": list(state.weights.values()),
            "Buffer": list(state.denoiser.buffers()),
            "Optstate": [t for p in state.weights.values() for t in state_tensors(state.optimizer, p).values()],
            "Other": list(state.averages.values()),
        }
        return {kind: sum(t.numel() * t.element_size() for t in tensors) for kind, tensors in kinds.items()}
