"""What training a plan will cost, before any of it is trained: bytes and floating-point operations, from shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import torch

from oneblock.blockwise import BlockDenoiser
from oneblock.data import Bytes, vocabulary_size
from oneblock.memory import DryRun, PeakBytes, fake_tensors, peak_bytes, step_flops
from oneblock.optim.adamw import make_state, state_tensors
from oneblock.plan import Plan
from oneblock.presets.base import ImageFacts, Recipe, TextFacts, TextRecipe, end_to_end
from oneblock.presets.causal import CausalRecipe, with_symbols
from oneblock.presets.tasks import build_backbone, task_parts, without_content
from oneblock.train.block import BlockLearner, block_learner, block_losses
from oneblock.train.learner import rehearse
from oneblock.train.step import JobSpec
from oneblock.train.strategy import job_specs, plan_optimizer


def block_bytes(plan: Plan) -> int:
    """Bytes of the weights of the largest block."""
    with without_content():
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
    return max(job_specs(plan), key=lambda job: job.step_evaluations)


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


Strategy = Literal["end-to-end", "all resident", "own block"]


@dataclass(frozen=True)
class Cost:
    """What one way of training costs: bytes at the peak of one process, operations of a step and of the whole run.

    Args:
        strategy: the whole network as a single block; a block with the others waiting on the device; a block alone.
        samples_per_step: of the costliest job.
    """

    strategy: Strategy
    blocks: int
    checkpointing: bool
    samples_per_step: int
    peak: PeakBytes
    step_flops: int
    total_flops: int

    @property
    def name(self) -> str:
        blocks = f", {self.blocks} blocks" if self.blocks > 1 else ""
        return f"{self.strategy}{blocks}{', checkpointing' if self.checkpointing else ''}"


@dataclass(frozen=True)
class Fit:
    """How to train within a device's memory: the row that fits, and the recipe with its blocks and micro-batches."""

    cost: Cost
    recipe: Recipe


@dataclass(frozen=True)
class Costs:
    """What every way of training costs and, where a limit was asked for, the one to take.

    Args:
        rows: end-to-end first, then by the number of blocks.
        limit: bytes, None where none was asked for.
        fit: None where nothing fits, or no limit was asked for.
    """

    rows: tuple[Cost, ...]
    limit: int | None = None
    fit: Fit | None = None


def cost(recipe: Recipe, *, image_size: int = 32, channels: int = 3, classes: int = 10, fit: int | str = "") -> Costs:
    """What training will cost, counted from shapes with the batch, optimizer and weight average that training uses.

    Nothing is allocated: a network far larger than this machine is counted too. The bytes are those of tensors; a GPU
    adds its context, fragmentation and the workspaces of its kernels.

    Args:
        image_size, channels, classes: of images; a text needs nothing.
        fit: memory of the device, in bytes or as ``"24GiB"``: find the fewest blocks that train in it.
    """
    recipe, limit = recipe.settled(), parse_bytes(fit) if fit else None
    facts: ImageFacts | TextFacts = ImageFacts(shape=(channels, image_size, image_size), num_classes=classes)
    if isinstance(recipe, TextRecipe):
        facts = TextFacts(vocabulary=Bytes())  # byte pairs are not learned: only the number of symbols costs anything
    rows = tuple(_rows(recipe, facts))
    return Costs(rows, limit, None if limit is None else fitting(recipe, facts, rows, limit))


def fitting(recipe: Recipe, facts: ImageFacts | TextFacts, rows: Sequence[Cost], limit: int) -> Fit | None:
    """The fewest blocks whose training fits into ``limit`` bytes, without checkpointing where that is enough; smaller
    micro-batches come last, with as many blocks as there can be."""
    own = [row for row in rows if row.strategy != "all resident"]
    for row in sorted(own, key=lambda row: (row.blocks, row.checkpointing)):
        if row.peak.total <= limit:
            return Fit(row, _with_blocks(recipe, row.blocks))
    last = own[-1]
    plan = _counted(_with_blocks(recipe, last.blocks), facts)
    accumulate = 2 * recipe.accumulate
    while accumulate <= last.samples_per_step:
        smaller = replace(plan, recipe={**plan.recipe, "accumulate": accumulate})
        if training_peak(smaller, checkpointing=True).total <= limit:
            return Fit(last, replace(_with_blocks(recipe, last.blocks), accumulate=accumulate))
        accumulate *= 2
    return None


def _rows(recipe: Recipe, facts: ImageFacts | TextFacts) -> Iterator[Cost]:
    """For every number of blocks that divides the depth all blocks on the device and the own block alone, each also
    with checkpointing; of given layers their own number alone."""
    numbers = [1]
    if recipe.layers:
        numbers.append(len(recipe.layers))
    elif not (_recurrent(recipe) and recipe.blocks == 1):
        depth, _, _ = recipe.dimensions
        numbers += [blocks for blocks in range(2, depth + 1) if depth % blocks == 0]
    plans = [_counted(_with_blocks(recipe, blocks), facts) for blocks in numbers]
    flops = {checkpointing: training_flops(plans[0], checkpointing) for checkpointing in (False, True)}
    for plan in plans:
        for checkpointing in (False, True):
            yield from _plan_rows(plan, checkpointing, flops[checkpointing])


def _with_blocks(recipe: Recipe, blocks: int) -> Recipe:
    if blocks > 1:
        return recipe if recipe.layers else replace(recipe, blocks=blocks)
    if _recurrent(recipe):  # is one block, and no ordinary network
        return replace(recipe, blocks=1, layers=(), branch=0.0)
    return end_to_end(recipe)


def _recurrent(recipe: Recipe) -> bool:
    return isinstance(recipe, CausalRecipe) and recipe.prelude + recipe.coda > 0


def _counted(recipe: Recipe, facts: ImageFacts | TextFacts) -> Plan:
    plan = recipe.plan(facts)
    if isinstance(recipe, CausalRecipe):
        return with_symbols(plan, vocabulary_size(recipe.vocabulary))
    if isinstance(recipe, TextRecipe):
        return replace(plan, architecture={**plan.architecture, "vocabulary": vocabulary_size(recipe.vocabulary)})
    return plan


def _plan_rows(plan: Plan, checkpointing: bool, flops: SampleFlops) -> Iterator[Cost]:
    largest = costliest_job(plan)
    step = flops.step(largest)
    per_evaluation = step / largest.step_evaluations
    total = round(sum(job.evaluations for job in job_specs(plan)) * per_evaluation)
    own = training_peak(plan, checkpointing)
    peaks: dict[Strategy, PeakBytes] = {"end-to-end": own}
    if plan.num_blocks > 1:
        peaks = {"all resident": all_resident(plan, own), "own block": own}
    for strategy, peak in peaks.items():
        yield Cost(strategy, plan.num_blocks, checkpointing, largest.batch_size, peak, step, total)


def parse_bytes(value: int | str) -> int:
    """``1000000``, ``"24GiB"``, ``"80GB"``, ``"512MiB"`` -> bytes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKMGT]?)(i?)B?", str(value).strip())
    size = 0
    if found:
        number, scale, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(scale.upper() or " "))
    if size < 1:
        raise ValueError(f"size={value!r} is not a number of bytes; write 24GiB, 80GB or 512MiB")
    return size
