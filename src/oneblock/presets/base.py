"""What the recipes of all tasks have in common.

A recipe is what a user asks for: plain values, with every default in this folder and nowhere else. With what is known
of the data (``ImageFacts``, ``TextFacts``) it makes a plan.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, TypeVar, cast

from oneblock.checks import check_count, check_fields, check_number
from oneblock.data import Vocabulary
from oneblock.data.reading import Reading
from oneblock.noise import NoiseLaw, law_to_dict
from oneblock.optim.adamw import AdamWKind
from oneblock.optim.fitness import ShapingName
from oneblock.partition import Bands, make_partition, split_layers
from oneblock.plan import Plain, Plan, Shared
from oneblock.presets.codec import Fit
from oneblock.train.evolve import UpdateName, UpdateSettings
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


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """What a plan must know of captions.

    Args:
        words: those that the network knows; none where a text encoder reads captions.
        longest: words of the longest caption, or tokens of the encoder.
        examples: some captions.
        encoder: directory of the text encoder, and ``encoder_hash`` what tells it from others.
        width: of its vectors.
    """

    words: tuple[str, ...]
    longest: int
    examples: tuple[str, ...] = ()
    encoder: str = ""
    encoder_hash: str = ""
    width: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What a plan must know of images, which need not be at hand.

    Args:
        shape: (channels, height, width) of what the network works on; of a backbone of one's own, any shape.
        num_classes: of their labels; 0 where they have none.
        classes: one name for each; empty where they are called by their numbers.
        data: the source's name, e.g. ``"fashion-mnist"``, and ``fingerprint`` of its training images.
        autoencoder: fingerprint of the frozen autoencoder whose latents are denoised; empty for pixels.
        rows: values of the class vectors ``table="prototypes"``, row by row.
        max_pixels: images of files with more were left out (``data.reading``).
        fps: frames that were taken in a second of a file of video; 0 for all.
        captions: of images that have captions in the place of classes.
        fit: fits a codec on the training images (``presets.codec``); None where they are not at hand.
    """

    shape: tuple[int, ...]
    num_classes: int
    classes: tuple[str, ...] = ()
    data: str = ""
    fingerprint: str = ""
    autoencoder: str = ""
    rows: tuple[float, ...] = ()
    max_pixels: int = Reading.max_pixels
    fps: float = 0.0
    captions: CaptionFacts | None = None
    fit: Fit | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """What a plan must know of a text, which need not be at hand.

    Args:
        vocabulary: of the tokens; the plan holds it.
        data: the source's name, e.g. ``"books"``, and ``fingerprint`` of its training tokens.
        rows: values of the token vectors ``table="co-occurrence"``, row by row.
    """

    vocabulary: Vocabulary
    data: str = ""
    fingerprint: str = ""
    rows: tuple[float, ...] = ()


@dataclass(frozen=True)
class OwnBackbone:
    """A network of the user's own, as a plan names it.

    Args:
        name: ``"module:Class"``.
        frame: that of a network which keeps its own (``schedule.frame_to_dict``); empty for EDM's.
    """

    name: str
    frame: Mapping[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """The network and how its work is spent, whatever the task. A value of the wrong type is a ``ValueError``."""

    task: ClassVar[str]
    usual_data: ClassVar[str]
    rate_at_width_1: ClassVar[float]
    """Learning rate times width: what was best for a whole network of width 64 (docs/log.md), scaled as Adam's rate
    scales with width (Yang et al., Table 3, https://arxiv.org/abs/2203.03466)."""

    size: Size = "micro"
    """one dial for depth, width and heads"""
    depth: int = 0
    """layers (0: what --size says)"""
    width: int = 0
    """width (0: what --size says)"""
    heads: int = 0
    """attention heads (0: what --size says)"""
    blocks: int = 3
    """number of blocks; must divide the depth"""
    layers: tuple[int, ...] = ()
    """layers of each block, noisiest first, instead of an even split: --layers 1 2 3"""
    overlap: float = 0.05
    """how far a block trains beyond its band, in log sigma"""
    sigma_data: float = 0.5
    """standard deviation of the targets, for the preconditioning"""
    budget: int | str = "1.15M"
    """work of the whole run in layer evaluations: 800000, 300k, 1.2M"""
    batch_size: int = 48
    """samples per step over the whole noise range"""
    block_batch_size: int = Budget.block_batch_size
    """samples per step of a block that owns a band (0: --batch-size divided by the number of blocks)"""
    branch: float = Budget.branch
    """share of the budget that trains one block, the trunk, on the whole range, from which every block then starts"""
    hold: float = Budget.hold
    """share of the steps at constant learning rate before the cosine"""
    warmup: float = Budget.warmup
    """share of the steps of linear warm-up"""
    shared: Shared = "private"
    """who trains stem and head: each block its own (private); its own, averaged every --sync-every steps (synced); or
    all blocks the same one, in one process (joint)"""
    sync_every: int = 100
    """steps between two averages of --shared synced"""
    optimizer: AdamWKind = OptimizerSettings.optimizer
    """adamw8bit keeps AdamW's moments in 8 bits: a quarter of their memory (pip install 'oneblock[eightbit]')"""
    learning_rate: float = 0.0
    """peak learning rate of AdamW (0: what fits the width)"""
    weight_decay: float = OptimizerSettings.weight_decay
    """weight decay of AdamW, on matrices"""
    beta1: float = OptimizerSettings.beta1
    """decay of AdamW's mean of gradients"""
    beta2: float = OptimizerSettings.beta2
    """decay of AdamW's mean of squared gradients"""
    ema_gamma: float = OptimizerSettings.ema_gamma
    """exponent of the weight average; 16.97 averages over about 5 % of the training"""
    clip: float = OptimizerSettings.clip
    """largest gradient norm"""
    accumulate: int = OptimizerSettings.accumulate
    """micro-batches per step"""
    precision: Literal["fp32", "bf16"] = OptimizerSettings.precision
    """bf16 runs the network under autocast"""
    update: UpdateName = UpdateSettings.update
    """how gradients are found: evolution scores a population of networks instead of a backward pass"""
    population: int = UpdateSettings.population
    """networks that --update evolution scores in every step; even"""
    weight_noise: float = UpdateSettings.weight_noise
    """standard deviation of what each of them adds to every weight"""
    noise_rank: int = UpdateSettings.noise_rank
    """rank of what it adds to a matrix (0: full rank)"""
    shaping: ShapingName = UpdateSettings.shaping
    """how the fitness of the population weighs what its members add"""
    chunk: int = UpdateSettings.chunk
    """members of the population that are scored at once: even, or 1; memory grows with it"""
    seed: int = 0
    """every random number follows from it"""

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("depth", 0), ("width", 0), ("heads", 0), ("blocks", 1), ("sync_every", 1)):
            check_count(name, getattr(self, name), least)
        for layers in self.layers:
            check_count("layers", layers)
        check_number("sigma_data", self.sigma_data, above=0)
        check_number("overlap", self.overlap, least=0)
        _ = self.update_settings

    @abstractmethod
    def plan(self, facts: Any, backbone: OwnBackbone | None = None) -> Plan:
        """The plan of a run, given the ``facts`` of its data (``ImageFacts``, for text ``TextFacts``).

        Args:
            backbone: a network of the user's own in the place of the task's.

        Raises:
            ValueError: anything that does not fit together.
        """

    def ordinary(self) -> Self:
        """The same network, without noise conditioning where its task allows: what end-to-end training trains."""
        return self

    def one_block(self) -> Self:
        """The recipe for a single block, without what only several blocks can have."""
        return replace(self, blocks=1, layers=(), branch=0.0)

    def of_several(self) -> str:
        """The settings that only several blocks can have and that are not as usual, ``name=value``; empty for none."""
        return f"branch={self.branch}" if self.branch else ""

    def settled(self) -> Self:
        """The recipe with the settings filled in that one of its fields stands for."""
        return self

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Depth, width and heads."""
        depth, width, heads = SIZES[self.size]
        return self.depth or depth, self.width or width, self.heads or heads

    @property
    def layer_split(self) -> tuple[int, ...]:
        """Layers of each block, noisiest first."""
        found = self.settled()
        depth, _, _ = found.dimensions
        layers = found.layers or split_layers(depth, found.blocks)
        if sum(layers) != depth:
            raise ValueError(f"layers={layers} adds up to {sum(layers)}, but the depth is {depth}; make them agree")
        return layers

    @property
    def layer_evaluations(self) -> int:
        """The budget as a number."""
        return parse_count(self.budget)

    @property
    def optimizer_settings(self) -> OptimizerSettings:
        """How every block's weights are updated."""
        names = [field.name for field in fields(OptimizerSettings) if field.name != "learning_rate"]
        rate = self.learning_rate or self.rate_at_width_1 / self.dimensions[1]
        return OptimizerSettings(learning_rate=rate, **{name: getattr(self, name) for name in names})

    @property
    def update_settings(self) -> UpdateSettings:
        """How gradients are found.

        Raises:
            ValueError: a value is not allowed, or belongs to evolution, which is not asked for.
        """
        names = [field.name for field in fields(UpdateSettings)]
        found = UpdateSettings(**{name: getattr(self, name) for name in names})
        for name in names[1:]:
            if self.update == "backpropagation" and getattr(found, name) != getattr(UpdateSettings(), name):
                raise ValueError(f"{name}={getattr(found, name)!r} goes with update='evolution'; leave it out")
        return found

    def _plan(
        self,
        facts: ImageFacts | TextFacts,
        architecture: dict[str, Plain],
        law: NoiseLaw,
        bands: Bands | Sequence[float],
        settings: Mapping[str, Plain],
    ) -> Plan:
        """The plan of the task; ``settings`` join the recipe's own."""
        layers, update = self.layer_split, self.update_settings
        budget = Budget(
            layer_evaluations=self.layer_evaluations,
            batch_size=self.batch_size,
            block_batch_size=self.block_batch_size,
            branch=self.branch,
            hold=self.hold,
            warmup=self.warmup,
        )
        return Plan(
            task=self.task,
            architecture=architecture,
            layers=layers,
            noise=law_to_dict(law),
            edges=make_partition(law, len(layers), self.overlap, bands).edges,
            overlap=self.overlap,
            sigma_data=self.sigma_data,
            recipe={
                "data": facts.data,
                "fingerprint": facts.fingerprint,
                "sync_every": self.sync_every,
                **settings,
                **asdict(budget),
                **asdict(self.optimizer_settings),
                **({} if update == UpdateSettings() else asdict(update)),
            },
            seed=self.seed,
            shared=self.shared,
        )


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def end_to_end(recipe: AnyRecipe) -> AnyRecipe:
    """The rival of every comparison: the whole network as a single block, not told of noise where that can be."""
    return recipe.ordinary().one_block()


def shallow(recipe: AnyRecipe) -> AnyRecipe:
    """The control of every comparison: a network of one block's depth, trained end-to-end with the whole budget."""
    return replace(end_to_end(recipe), depth=max(recipe.layer_split))


def experts(recipe: AnyRecipe) -> AnyRecipe:
    """The rival with the most parameters (eDiff-I, https://arxiv.org/abs/2211.01324): every block is a network of the
    whole depth for its own band. All of them together get the work of the whole run."""
    layers = recipe.layer_split
    depth = sum(layers)
    return replace(recipe, depth=depth * len(layers), layers=(depth,) * len(layers), branch=0.0)


@dataclass(frozen=True, kw_only=True)
class PictureRecipe(Recipe):
    """The network of a task on images."""

    usual_data: ClassVar[str] = "digits"

    patch: int = 0
    """pixels along a patch (0: 4, or 2 for images below 16 pixels)"""
    flip: bool = False
    """mirror images at random"""

    def patch_of(self, shape: tuple[int, ...]) -> int:
        """Pixels along a patch of images (channels, height, width)."""
        return self.patch or (2 if shape[1] < 16 else 4)


@dataclass(frozen=True, kw_only=True)
class TextRecipe(Recipe):
    """The network of a task on text."""

    usual_data: ClassVar[str] = "books"
    rate_at_width_1: ClassVar[float] = 0.128

    vocabulary: str = "characters"
    """characters (a to z and space), bytes, or bpe:SIZE (byte pairs learned from the training text)"""
    length: int = 128
    """tokens of a training window"""
    kv_heads: int = 0
    """heads of keys and values (0: as many as --heads)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("length", self.length)


def square(facts: ImageFacts) -> tuple[int, int]:
    """Channels and side of images, which must be square."""
    if len(facts.shape) != 3:
        raise ValueError(
            f"samples have shape {facts.shape}; this network takes images (channels, height, width): give a backbone "
            "of your own for other data"
        )
    channels, height, width = facts.shape
    if height != width:
        raise ValueError(f"images are {height} x {width}; use square images (--image-size resizes and crops)")
    return channels, height


def parse_count(value: int | str) -> int:
    """``800000``, ``"800000"``, ``"300k"``, ``"1.2M"``, ``"2G"`` -> a whole number of layer evaluations, 1 or more."""
    text = str(value)
    scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    number = text[:-1] if scale > 1 else text
    try:
        count = round(float(number) * scale)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise ValueError(f"budget={value!r} is not a number of layer evaluations; write 800000, 300k or 1.2M")
    return count


Config = TypeVar("Config")


def network_config(kind: type[Config], plan: Plan) -> Config:
    """The shape of a plan's network: its architecture without the name."""
    settings = {key: value for key, value in plan.architecture.items() if key != "name"}
    return cast(Callable[..., Config], kind)(**settings)


def training_bands(plan: Plan) -> dict[int | None, tuple[float, float]]:
    """The band (lower, upper) that each block of a plan trains on; the trunk (None) has the whole range."""
    partition = plan.partition
    bands: dict[int | None, tuple[float, float]] = {None: (partition.law.low, partition.law.high)}
    return bands | {b: partition.training_band(b) for b in range(plan.num_blocks)}
