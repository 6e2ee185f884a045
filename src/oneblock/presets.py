"""Presets: from a few words (a size, a data set) to a full plan, and from a plan to what its jobs need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from typing import Literal, cast

import torch

from oneblock.blockwise import BlockDenoiser, Blockwise, BuildBackbone
from oneblock.memory import DryRun, PeakBytes, fake_tensors, peak_bytes, step_flops
from oneblock.models.dit import DiT, DiTConfig
from oneblock.noise import LogNormal, law_to_dict
from oneblock.optim.adamw import make_state, state_tensors
from oneblock.partition import Bands, make_partition, split_layers
from oneblock.plan import Plain, Plan, Shared
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.image import ImageGeneration
from oneblock.train.step import JobSpec, OptimizerSettings, TrainState, backward, update
from oneblock.train.strategy import Budget, job_specs

Size = Literal["nano", "micro", "tiny", "S", "B", "L", "XL"]

# depth, width, heads. S to XL: Peebles and Xie, Table 1, https://arxiv.org/abs/2212.09748.
SIZES: dict[str, tuple[int, int, int]] = {
    "nano": (6, 64, 2),
    "micro": (6, 96, 3),
    "tiny": (6, 192, 6),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


def usual_learning_rate(width: int) -> float:
    """``0.4 / width``: what was best for a whole network of width 64 (docs/log.md), scaled as Adam's rate scales with
    width (Yang et al., Table 3, https://arxiv.org/abs/2203.03466)."""
    return 0.4 / width


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """What a plan for image generation needs besides the data's shape. Plain values; the command line mirrors them.

    Args:
        data: the source's name, e.g. ``"fashion-mnist"``, and ``fingerprint`` of its training images.
        autoencoder: fingerprint of the frozen autoencoder whose latents are denoised; empty for pixels.
        image_shape: (channels, height, width) of what is denoised.
        size: one dial for depth, width and heads; ``depth``, ``width``, ``heads`` override it when above 0.
        patch: side of a patch in pixels.
        blocks: number of blocks; must divide the depth unless ``layers`` gives an uneven split.
        bands: bands of equal mass, or of equal length in log sigma.
        overlap: how far a block trains beyond its band.
        budget: layer evaluations of the whole plan.
        batch_size, block_batch_size, branch, hold, warmup: see ``train.strategy.Budget``.
        shared: who trains stem and head (``Plan.shared``); ``"synced"`` takes the mean every ``sync_every`` steps.
        label_dropout: share of labels replaced by the null class.
        flip: mirror images at random.
        optimizer: see ``train.step.OptimizerSettings``.
    """

    data: str
    fingerprint: str
    autoencoder: str = ""
    image_shape: tuple[int, int, int]
    num_classes: int
    size: Size = "micro"
    depth: int = 0
    width: int = 0
    heads: int = 0
    patch: int = 4
    blocks: int = 3
    layers: tuple[int, ...] = ()
    bands: Bands = "equal-mass"
    overlap: float = 0.05
    sigma_data: float = 0.5
    budget: int = 1_152_000
    batch_size: int = 48
    block_batch_size: int = 0
    branch: float = 0.0
    hold: float = 0.0
    warmup: float = 0.05
    shared: Shared = "private"
    sync_every: int = 100
    label_dropout: float = 0.1
    flip: bool = False
    seed: int = 0
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)


def image_plan(recipe: ImageRecipe) -> Plan:
    """The plan of an image run; ``ValueError`` on anything that does not fit together."""
    channels, height, width = recipe.image_shape
    if height != width:
        raise ValueError(f"images are {height} x {width}; use square images (--image-size resizes and crops)")
    config = _dit_config(recipe, channels, height)
    layers = recipe.layers or split_layers(config.depth, recipe.blocks)
    if sum(layers) != config.depth:
        raise ValueError(f"layers={layers} adds up to {sum(layers)}, the depth is {config.depth}; make them agree")
    if recipe.sync_every < 1:
        raise ValueError(f"sync_every={recipe.sync_every} is no number of steps; use 1 or more")
    law = LogNormal()
    partition = make_partition(law, len(layers), recipe.overlap, recipe.bands)
    budget = Budget(
        layer_evaluations=recipe.budget,
        batch_size=recipe.batch_size,
        block_batch_size=recipe.block_batch_size,
        branch=recipe.branch,
        hold=recipe.hold,
        warmup=recipe.warmup,
    )
    values: dict[str, Plain] = {
        "data": recipe.data,
        "fingerprint": recipe.fingerprint,
        "autoencoder": recipe.autoencoder,
        "sync_every": recipe.sync_every,
        "label_dropout": recipe.label_dropout,
        "flip": recipe.flip,
        **asdict(budget),
        **asdict(recipe.optimizer),
    }
    return Plan(
        task="image",
        architecture={"name": "dit", **asdict(config)},
        layers=tuple(layers),
        noise=law_to_dict(law),
        edges=partition.edges,
        overlap=recipe.overlap,
        sigma_data=recipe.sigma_data,
        recipe=values,
        seed=recipe.seed,
        shared=recipe.shared,
    )


def _dit_config(recipe: ImageRecipe, channels: int, image_size: int) -> DiTConfig:
    if recipe.size not in SIZES:
        raise ValueError(f"size={recipe.size!r} is unknown; use one of {', '.join(SIZES)}")
    depth, width, heads = SIZES[recipe.size]
    return DiTConfig(
        image_size=image_size,
        channels=channels,
        num_classes=recipe.num_classes,
        depth=recipe.depth or depth,
        width=recipe.width or width,
        heads=recipe.heads or heads,
        patch=recipe.patch,
    )


def build_backbone(plan: Plan) -> BuildBackbone:
    """The builder of a plan's backbone: give it a range of layers."""
    settings = dict(plan.architecture)
    name = settings.pop("name", None)
    if name != "dit":
        raise ValueError(f"architecture {name!r} is unknown; this version of oneblock builds: dit")
    config = cast(Callable[..., DiTConfig], DiTConfig)(**settings)
    return lambda layers: DiT(config, layers)


def blockwise(plan: Plan) -> Blockwise:
    """Blocks of a plan, ready to be built one by one."""
    return Blockwise(build_backbone(plan), plan)


def image_task(plan: Plan) -> ImageGeneration:
    """The task of an image plan."""
    if plan.task != "image":
        raise ValueError(f"task={plan.task!r}: this plan is not for images; use a plan with task 'image'")
    classes, dropout = plan.architecture["num_classes"], plan.recipe["label_dropout"]
    return ImageGeneration(plan.precondition, cast(int, classes), cast(float, dropout))


def plan_budget(plan: Plan) -> Budget:
    """The budget that a plan's recipe holds."""
    return cast(Budget, _pick(Budget, plan))


def plan_optimizer(plan: Plan) -> OptimizerSettings:
    """The optimizer settings that a plan's recipe holds."""
    return cast(OptimizerSettings, _pick(OptimizerSettings, plan))


def _pick(kind: type[Budget] | type[OptimizerSettings], plan: Plan) -> Budget | OptimizerSettings:
    names = list(kind.__dataclass_fields__)
    missing = [name for name in names if name not in plan.recipe]
    if missing:
        raise ValueError(f"the plan's recipe lacks {', '.join(missing)}; restore plan.json from a copy of the run")
    return cast(Callable[..., Budget | OptimizerSettings], kind)(**{name: plan.recipe[name] for name in names})


def block_bytes(plan: Plan) -> int:
    """Bytes of the weights of the largest block."""
    with torch.device("meta"):
        largest = build_backbone(plan)(range(max(plan.layers)))
    return sum(p.numel() * p.element_size() for p in largest.parameters())


def image_shape(plan: Plan) -> tuple[int, int, int]:
    """(channels, height, width) of what an image plan denoises."""
    size = cast(int, plan.architecture["image_size"])
    return cast(int, plan.architecture["channels"]), size, size


def training_peak(plan: Plan, checkpointing: bool = False, real: bool = False) -> PeakBytes:
    """Peak bytes of training the costliest job of an image plan, counted without running it (``memory.peak_bytes``).

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
    """One training step of ``job`` on empty images, for ``memory.peak_bytes`` and ``memory.step_flops``."""
    task, count = image_task(plan), job.batch_size
    images, z = (torch.empty(count, *image_shape(plan)) for _ in range(2))
    labels, sigma = torch.zeros(count, dtype=torch.long), torch.ones(count)
    batch = Batch(Noised(z, sigma, job.block), images, labels)
    state = train_state(plan, job, checkpointing)

    def step() -> None:
        backward(state, task, batch)
        update(state, learning_rate=0.0)

    return DryRun(state.denoiser, state.optimizer, (images, z, labels, sigma, *state.averages.values()), step)


@dataclass(frozen=True)
class SampleFlops:
    """Floating-point operations that a training step spends on one sample: in stem and head, and in each layer."""

    ends: int
    layer: int

    def step(self, job: JobSpec) -> int:
        """Operations of one step of ``job``, the same number that ``memory.step_flops`` finds in ``dry_run``."""
        return job.batch_size * (self.ends + len(job.layers) * self.layer)


def training_flops(plan: Plan, checkpointing: bool = False) -> SampleFlops:
    """What training the backbone of an image plan costs, however many blocks it is cut into.

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
    return TrainState(job, BlockDenoiser(backbone, plan.precondition, checkpointing), plan_optimizer(plan))


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
