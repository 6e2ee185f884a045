"""The door for plans: every command and function that reads one from a file reads it here.

A plan is parsed into typed settings once, by what its task and its network declare, and whether the values fit each
other is checked. What comes in can be trained, and nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from oneblock.checks import check_fields, check_least, shown
from oneblock.models.cnn import CNNConfig
from oneblock.models.dit import DiTConfig
from oneblock.models.encoder import EncoderConfig
from oneblock.models.gpt import GPTConfig
from oneblock.models.video import VideoConfig
from oneblock.models.vit import ViTConfig
from oneblock.plan import COPY, PLAN_FILE, Plan
from oneblock.plan import read_plan as read_any_plan
from oneblock.presets.bytes import is_byte_run
from oneblock.presets.cnn import CNN_NAME
from oneblock.presets.settings import (
    CausalSettings,
    ClassifySettings,
    ImageSettings,
    MaskedSettings,
    RunSettings,
    VideoSettings,
    check_keys,
    parsed,
)
from oneblock.train.evolve import UpdateSettings
from oneblock.train.exported import EXPORT_FILE, is_export
from oneblock.train.shards import CONFIG_FILE
from oneblock.train.shards import open_plan as open_any_plan
from oneblock.train.step import OptimizerSettings
from oneblock.train.strategy import Budget, job_specs


@dataclass(frozen=True, kw_only=True)
class OwnPictures:
    """What a plan says of a user's own network for images: the shape of a sample, how many layers it has, and which
    captions it is told (``DiTConfig``)."""

    shape: tuple[int, ...]
    num_classes: int
    depth: int
    tokens: int = 0
    vocabulary: int = 0
    token_width: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "depth")
        check_least(self, 0, "num_classes", "tokens", "vocabulary", "token_width")
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape={self.shape} is not the shape of a sample; use whole numbers, 1 or more")


@dataclass(frozen=True, kw_only=True)
class OwnText:
    """What a plan says of a user's own network for text."""

    vocabulary: int
    context: int
    depth: int

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "vocabulary", "context", "depth")


@dataclass(frozen=True)
class Declared:
    """What the plans of a task hold: settings, networks by name, and what is said of a network of the user's own."""

    settings: type[RunSettings]
    networks: dict[str, type[Any]]
    own: type[Any]


DECLARED: dict[str, Declared] = {
    "image": Declared(ImageSettings, {"dit": DiTConfig}, OwnPictures),
    "classify": Declared(ClassifySettings, {"vit": ViTConfig, CNN_NAME: CNNConfig}, OwnPictures),
    "video": Declared(VideoSettings, {"video": VideoConfig}, OwnPictures),
    "masked-text": Declared(MaskedSettings, {"encoder": EncoderConfig}, OwnText),
    "text": Declared(CausalSettings, {"gpt": GPTConfig}, OwnText),
}


def read_plan(directory: Path) -> Plan:
    """The plan of a run's directory.

    Raises:
        ValueError: names the file, the key, its value and what is allowed.
        OSError: the file cannot be read.
    """
    _refuse_bytes(directory)
    return checked(read_any_plan(directory), str(directory / PLAN_FILE))


def open_plan(directory: Path) -> Plan:
    """The plan of a run's directory, or of a merged or exported model; errors as ``read_plan``."""
    _refuse_bytes(directory)
    merged = (directory / CONFIG_FILE).is_file()
    name = CONFIG_FILE if merged else EXPORT_FILE if is_export(directory) else PLAN_FILE
    return checked(open_any_plan(directory), str(directory / name))


def _refuse_bytes(directory: Path) -> None:
    if is_byte_run(directory):
        raise ValueError(
            f"{directory} is a run of a byte model of whole numbers, which has no blocks; oneblock evaluate, sample, "
            "status and fsck take it (in Python ob.ByteModel)"
        )


def checked(plan: Plan, where: str) -> Plan:
    """The plan, if it can be trained; ``where`` names it in the ``ValueError``."""
    try:
        check_plan(plan)
        job_specs(plan)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; {COPY}") from error
    return plan


def check_plan(plan: Plan) -> None:
    """Refuse settings that the task or the network of a plan does not declare, and values that do not fit each other.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """
    if plan.task not in DECLARED:
        raise ValueError(f"task={shown(plan.task)} is unknown; this version of oneblock trains: {', '.join(DECLARED)}")
    declared = DECLARED[plan.task]
    network = _network(plan, declared)
    parts = (declared.settings, Budget, OptimizerSettings, UpdateSettings)
    check_keys(plan.recipe, "recipe", *parts)
    settings, *_ = (parsed(kind, plan.recipe, "recipe") for kind in parts)
    cast(RunSettings, settings).fit(plan, network)


def _network(plan: Plan, declared: Declared) -> Any:
    """The shape of the plan's network."""
    name = plan.architecture.get("name")
    values = {key: value for key, value in plan.architecture.items() if key != "name"}
    own = isinstance(name, str) and ":" in name
    if not own and name not in list(declared.networks):
        raise ValueError(
            f"architecture {shown(name)} is unknown for task {plan.task!r}; this version of oneblock builds: "
            f"{', '.join(declared.networks)}"
        )
    kind = declared.own if own else declared.networks[str(name)]
    check_keys(values, "architecture", kind)
    config = parsed(kind, values, "architecture")
    if config.depth != plan.depth:
        raise ValueError(f"layers={shown(plan.layers)} add up to {plan.depth}, but architecture.depth={config.depth}")
    return config
