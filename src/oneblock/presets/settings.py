"""What the recipe of a plan holds besides budget and optimizer, by its task: typed, checked, and matched with the
network.

These classes declare every key that a plan may have; a key with a default may be missing, as it was in plans of earlier
versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeVar, cast

from oneblock.checks import check_fields, check_least, check_number, shown
from oneblock.data import Augmentation, Vocabulary, vocabulary_from_dict
from oneblock.data.reading import Reading
from oneblock.framewise import LevelPolicy
from oneblock.models.gpt import GPTConfig
from oneblock.noise import CosineMask, LinearMask
from oneblock.plan import Plan
from oneblock.presets.align import check_align
from oneblock.presets.captions import check_captions
from oneblock.presets.causal import TokenTable, work_factors
from oneblock.presets.classify import LabelInput
from oneblock.presets.codec import PIXELS, fitted_in, num_components
from oneblock.presets.frames import FrameSettings, check_frame
from oneblock.presets.masked import MaskedWeighting
from oneblock.presets.objective import Objective as ImageObjective
from oneblock.presets.objective import check_objective
from oneblock.presets.relay import (
    POLICY,
    POLICY_AT,
    RELAY,
    RELAY_CALLS,
    RELAY_SLOTS,
    CarryFrom,
    RelayKind,
    check_across,
)
from oneblock.presets.video import Objective, streams_of
from oneblock.sample.policy import PolicyName, policy_of
from oneblock.table import TableKind
from oneblock.tasks.classify import LabelLoss, Weighting

MOST_NUMBERS = 2**28
"""Of a table of vectors for classes or symbols: 1 GiB."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Of every task.

    Args:
        data: name of the training data, ``fingerprint`` of their content: hex digits, or nothing where a plan is made
            for counting alone.
        sync_every: steps between two averages of ``shared="synced"``.
    """

    data: str
    fingerprint: str
    sync_every: int

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "sync_every")
        _check_hex("fingerprint", self.fingerprint)

    def fit(self, plan: Plan, network: Any) -> None:
        """Refuse settings that do not fit the rest of their plan, or the shape of its ``network``."""


@dataclass(frozen=True, kw_only=True)
class PictureSettings(RunSettings):
    """Of the tasks on images.

    Args:
        autoencoder: fingerprint of the autoencoder whose latents are used; empty for pixels.
        classes: names of the classes, in order; empty where they have none.
        max_pixels: images of files with more are left out.
    """

    autoencoder: str
    classes: tuple[str, ...] = ()
    max_pixels: int = Reading.max_pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "max_pixels")
        _check_hex("autoencoder", self.autoencoder)

    def fit(self, plan: Plan, network: Any) -> None:
        _check_law(plan, masks=False)
        count = network.num_classes
        if self.classes and count and len(self.classes) != count:
            raise ValueError(f"recipe.classes names {len(self.classes)} classes, but architecture.num_classes={count}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"recipe.classes={shown(self.classes)} names a class twice; use other names")


@dataclass(frozen=True, kw_only=True)
class ImageSettings(PictureSettings, FrameSettings):
    """Of ``task="image"``; the head works as much as ``end_layers`` layers; where the network is told captions some of
    these, and the ``words`` that it knows, or where the ``text_encoder`` lies."""

    label_dropout: float
    objective: ImageObjective = "edm"
    codec: str = PIXELS
    codec_patch: int = 1
    codec_values: tuple[float, ...] = ()
    align: float = 0.0
    align_features: str = ""
    align_layer: int = 0
    end_layers: int = 0
    flip: bool = False
    whole_share: float = 0.0
    teacher: str = ""
    carry: float = 0.0
    carry_from: CarryFrom = "noisier"
    words: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    text_encoder: str = ""
    text_encoder_hash: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("carry", self.carry, least=0, most=1)
        _check_hex("teacher", self.teacher)
        _check_hex("text_encoder_hash", self.text_encoder_hash)
        check_number("label_dropout", self.label_dropout, least=0, below=1)
        check_number("whole_share", self.whole_share, least=0, below=1)

    def fit(self, plan: Plan, network: Any) -> None:
        super().fit(plan, network)
        check_frame(plan)
        check_captions(self.words, self.text_encoder_hash, plan.architecture)
        self._check_codec(plan, network)
        check_number("align", self.align, least=0)
        check_align(plan, min(plan.layers))
        check_objective(plan, getattr(network, "noise_scale", None), getattr(network, "jumps", False))
        ends = getattr(network, "end_layers", 0)
        if self.end_layers != ends:
            raise ValueError(
                f"recipe.end_layers={self.end_layers} does not count the work of the head, which is {ends}"
            )

    def _check_codec(self, plan: Plan, network: Any) -> None:
        """Refuse a codec whose numbers are not there, or whose components the network does not have."""
        check_least(self, 1, "codec_patch")
        components, told = num_components(self.codec), [key for key in plan.recipe if key.startswith("codec_")]
        if not components and told:
            raise ValueError(f"recipe.{told[0]} goes with a recipe.codec that was fitted, not with {self.codec!r}")
        if not components:
            return
        found = fitted_in(plan)
        shape = getattr(network, "shape", (getattr(network, "channels", 0),))
        if self.autoencoder or found is None or found.components != shape[0]:
            raise ValueError(
                f"recipe.codec={self.codec!r} does not fit a network of {shape[0]} channels, or an autoencoder"
            )


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(PictureSettings):
    """Of ``task="classify"``; ``prototypes`` are the values of the class vectors of that table, row by row."""

    table: TableKind
    table_width: int
    prototypes: tuple[float, ...]
    inputs: LabelInput
    weighting: Weighting
    loss: LabelLoss
    label_smoothing: float
    flip: bool
    crop: int
    operations: int
    magnitude: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("label_smoothing", self.label_smoothing, least=0, below=1)
        Augmentation(flip=self.flip, crop=self.crop, operations=self.operations, magnitude=self.magnitude)

    def fit(self, plan: Plan, network: Any) -> None:
        super().fit(plan, network)
        count = network.num_classes
        if count < 2:
            raise ValueError(f"architecture.num_classes={count} leaves nothing to tell apart; use 2 or more")
        rows = self.prototypes if self.table == "prototypes" else None
        _check_table("prototypes", rows, count, self.table_width, square=self.table == "simplex")
        if self.table == "orthonormal" and self.table_width < count:
            raise ValueError(f"recipe.table_width={self.table_width} holds no {count} orthonormal rows; use {count}")
        _check_shown(network, self.inputs, self.table_width, count)


@dataclass(frozen=True, kw_only=True)
class VideoSettings(PictureSettings):
    """Of ``task="video"``; a layer works ``passes`` times on every frame. ``fps`` frames were taken in a second of a
    file of video, 0 for all."""

    objective: Objective
    shift: float
    levels: LevelPolicy
    label_dropout: float
    first_clean: float
    passes: int = 1
    fps: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("shift", self.shift, above=0)
        check_number("label_dropout", self.label_dropout, least=0, below=1)
        check_number("first_clean", self.first_clean, least=0, below=1)
        check_number("fps", self.fps, least=0)

    def fit(self, plan: Plan, network: Any) -> None:
        super().fit(plan, network)
        streams = streams_of(self.levels)
        found = getattr(network, "streams", "one")
        if found != streams:
            raise ValueError(f"architecture.streams={found!r}, but recipe.levels={self.levels!r} needs {streams!r}")
        if self.passes != (2 if streams == "two" else 1):
            raise ValueError(f"recipe.passes={self.passes} does not count the work of {streams} streams")


@dataclass(frozen=True, kw_only=True)
class TextSettings(RunSettings):
    """Of the tasks on text: the vocabulary, as ``Vocabulary.to_dict`` writes it."""

    vocabulary: Literal["bytes", "characters", "byte-pair"]
    merges: tuple[str, ...] = ()

    @property
    def opened(self) -> Vocabulary:
        """The vocabulary."""
        merges = {"merges": self.merges} if self.vocabulary == "byte-pair" else {}
        return vocabulary_from_dict({"vocabulary": self.vocabulary, **merges})

    def fit(self, plan: Plan, network: Any) -> None:
        if ("merges" in plan.recipe) != (self.vocabulary == "byte-pair"):
            raise ValueError(f"recipe.merges do not go with recipe.vocabulary={self.vocabulary!r}, but with byte-pair")
        size, symbols = self.opened.size, network.vocabulary
        if size != symbols:
            raise ValueError(f"architecture.vocabulary={symbols}, but the vocabulary of the recipe has {size} symbols")


@dataclass(frozen=True, kw_only=True)
class MaskedSettings(TextSettings):
    """Of ``task="masked-text"``."""

    weighting: MaskedWeighting = "bound"
    relay: RelayKind = "mlm"
    relay_calls: int = 1
    relay_slots: int = 1
    policy: PolicyName = "uncertainty"
    policy_at: float = 0.0
    relay_across: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "relay_calls", "relay_slots")
        check_number("policy_at", self.policy_at, least=0)
        policy_of(self.policy, self.policy_at)

    def fit(self, plan: Plan, network: Any) -> None:
        super().fit(plan, network)
        _check_law(plan, masks=True)
        together = (RELAY, RELAY_CALLS, RELAY_SLOTS, POLICY, POLICY_AT)
        told = [name for name in together if name in plan.recipe]
        if told and len(told) < len(together):
            raise ValueError(f"recipe.{told[0]} goes with {', '.join(together)}; give all of them, or none")
        check_across(plan)


@dataclass(frozen=True, kw_only=True)
class CausalSettings(TextSettings):
    """Of ``task="text"``; ``rows`` are the values of the token vectors of co-occurrence, row by row. A layer works
    ``passes`` times on every token, stem and head as much as ``end_layers`` layers."""

    table: TokenTable
    table_width: int
    rows: tuple[float, ...]
    inputs: LabelInput
    clean: float
    passes: int = 1
    end_layers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.clean <= 1.0:
            raise ValueError(f"clean={self.clean} is not a share; use 0 to 1")

    def fit(self, plan: Plan, network: Any) -> None:
        super().fit(plan, network)
        _check_law(plan, masks=False)
        symbols = network.vocabulary
        rows = self.rows if self.table == "co-occurrence" else None
        _check_table("rows", rows, symbols, self.table_width, square=self.table == "simplex")
        _check_shown(network, self.inputs, self.table_width, symbols)
        own = not isinstance(network, GPTConfig)
        factors = (1, 0) if own else work_factors(network.streams, network.prelude, network.coda)
        if (self.passes, self.end_layers) != factors:
            raise ValueError(
                f"recipe.passes={self.passes}, recipe.end_layers={self.end_layers} do not count the work of this "
                f"network, which is {factors[0]} and {factors[1]}"
            )


Kind = TypeVar("Kind")


def parsed(kind: type[Kind], values: Any, where: str) -> Kind:
    """A dataclass from the ``values`` of a plan that it declares; others are left.

    Raises:
        ValueError: names the key that is missing, or whose value is not allowed.
    """
    known = {field.name: field for field in fields(cast(Any, kind))}
    needed = {name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING}
    missing = sorted(needed - set(values))
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    try:
        return kind(**{name: value for name, value in values.items() if name in known})
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error


def check_keys(values: Any, where: str, *kinds: Any) -> None:
    """Refuse keys that none of the dataclasses ``kinds`` declares."""
    allowed = {field.name for kind in kinds for field in fields(kind)}
    unknown = sorted(set(values) - allowed)
    if unknown:
        raise ValueError(f"{where} has the unknown keys {', '.join(unknown)[:80]}; it may have {sorted(allowed)}")


def _check_hex(name: str, value: str) -> None:
    if value and not (len(value) == 16 and set(value) <= set("0123456789abcdef")):
        raise ValueError(f"{name}={value[:40]!r} is not a fingerprint; it has 16 hex digits")


def _check_law(plan: Plan, masks: bool) -> None:
    if isinstance(plan.partition.law, LinearMask | CosineMask) != masks:
        needed = "shares of masked tokens (linear-mask, cosine-mask)" if masks else "noise levels, not of masks"
        raise ValueError(f"noise.law={plan.noise['law']!r} does not fit task {plan.task!r}; it needs a law of {needed}")


def _check_table(name: str, rows: Sequence[float] | None, count: int, width: int, square: bool) -> None:
    """A table of ``count`` vectors of ``width`` numbers; ``rows`` are its values where the plan holds them."""
    if width < 1 or count * width > MOST_NUMBERS or (square and width != count):
        allowed = str(count) if square else f"1 to {MOST_NUMBERS // count}"
        raise ValueError(f"recipe.table_width={width} does not fit {count} vectors; use {allowed}")
    if rows is not None and len(rows) != count * width:
        raise ValueError(f"recipe.{name} has {len(rows)} numbers; {count} vectors of {width} have {count * width}")


def _check_shown(network: Any, inputs: LabelInput, width: int, count: int) -> None:
    """What the network is shown of a noisy vector: itself, or the evidence for each of ``count`` rows."""
    needed = width if inputs == "scaled" else count
    found = getattr(network, "label_width", needed)
    if found != needed:
        raise ValueError(f"architecture.label_width={found}, but recipe.inputs={inputs!r} shows vectors of {needed}")
