"""What the recipes of all tasks have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeVar, cast

from oneblock.noise import NoiseLaw, law_to_dict
from oneblock.partition import Bands, make_partition, split_layers
from oneblock.plan import Plain, Plan, Shared
from oneblock.train.step import OptimizerSettings
from oneblock.train.strategy import Budget

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


# Learning rate times width: what was best for a whole network of width 64 (docs/log.md), scaled as Adam's rate scales
# with width (Yang et al., Table 3, https://arxiv.org/abs/2203.03466).
IMAGE_RATE = 0.4
CLASSIFY_RATE = 0.128
TEXT_RATE = 0.128


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a plan needs besides its task. Plain values; the command line mirrors them.

    Args:
        data: the source's name, e.g. ``"fashion-mnist"``, and ``fingerprint`` of its training images.
        size: one dial for depth, width and heads; ``depth``, ``width``, ``heads`` override it when above 0.
        blocks: number of blocks; must divide the depth unless ``layers`` gives an uneven split.
        overlap: how far a block trains beyond its band.
        sigma_data: standard deviation of the targets, for the preconditioning.
        budget: layer evaluations of the whole plan.
        batch_size, block_batch_size, branch, hold, warmup: see ``train.strategy.Budget``.
        shared: who trains stem and head (``Plan.shared``); ``"synced"`` takes the mean every ``sync_every`` steps.
        optimizer: see ``train.step.OptimizerSettings``.
    """

    data: str
    fingerprint: str
    size: Size = "micro"
    depth: int = 0
    width: int = 0
    heads: int = 0
    blocks: int = 3
    layers: tuple[int, ...] = ()
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
    seed: int = 0
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Depth, width and heads."""
        if self.size not in SIZES:
            raise ValueError(f"size={self.size!r} is unknown; use one of {', '.join(SIZES)}")
        depth, width, heads = SIZES[self.size]
        return self.depth or depth, self.width or width, self.heads or heads

    def plan(
        self, task: str, architecture: dict[str, Plain], law: NoiseLaw, bands: Bands, settings: Mapping[str, Plain]
    ) -> Plan:
        """The plan of ``task``; ``settings`` join the recipe's own. ``ValueError`` on anything that does not fit
        together."""
        depth, _, _ = self.dimensions
        layers = self.layers or split_layers(depth, self.blocks)
        if sum(layers) != depth:
            raise ValueError(f"layers={layers} adds up to {sum(layers)}, the depth is {depth}; make them agree")
        if self.sync_every < 1:
            raise ValueError(f"sync_every={self.sync_every} is no number of steps; use 1 or more")
        budget = Budget(
            layer_evaluations=self.budget,
            batch_size=self.batch_size,
            block_batch_size=self.block_batch_size,
            branch=self.branch,
            hold=self.hold,
            warmup=self.warmup,
        )
        return Plan(
            task=task,
            architecture=architecture,
            layers=tuple(layers),
            noise=law_to_dict(law),
            edges=make_partition(law, len(layers), self.overlap, bands).edges,
            overlap=self.overlap,
            sigma_data=self.sigma_data,
            recipe={
                "data": self.data,
                "fingerprint": self.fingerprint,
                "sync_every": self.sync_every,
                **settings,
                **asdict(budget),
                **asdict(self.optimizer),
            },
            seed=self.seed,
            shared=self.shared,
        )


@dataclass(frozen=True, kw_only=True)
class PictureRecipe(Recipe):
    """A recipe of a task on images.

    Args:
        image_shape: (channels, height, width) of the images, or of what is denoised of them.
        num_classes: of their labels.
        patch: side of a patch in pixels.
        flip: mirror images at random.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    patch: int = 4
    flip: bool = False

    @property
    def image_size(self) -> int:
        """Side of the images, which must be square."""
        _, height, width = self.image_shape
        if height != width:
            raise ValueError(f"images are {height} x {width}; use square images (--image-size resizes and crops)")
        return height


Config = TypeVar("Config")


def network_config(kind: type[Config], plan: Plan) -> Config:
    """The shape of a plan's network: its architecture without the name."""
    settings = {key: value for key, value in plan.architecture.items() if key != "name"}
    return cast(Callable[..., Config], kind)(**settings)


def training_bands(plan: Plan) -> dict[int | None, tuple[float, float]]:
    """The band (lower, upper) that each block of a plan trains on; the seed block (None) has the whole range."""
    partition = plan.partition
    bands: dict[int | None, tuple[float, float]] = {None: (partition.law.low, partition.law.high)}
    return bands | {b: partition.training_band(b) for b in range(plan.num_blocks)}


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
