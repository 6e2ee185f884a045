"""Plan: everything that must agree between jobs that never talk.

A plan is a small JSON file of plain values. It names no class, needs no network to be read, and every checkpoint
carries its hash, so parts of different plans never mix.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal, cast, get_args

from oneblock.checks import check_fields, fits, shown
from oneblock.noise import LawValue, law_from_dict
from oneblock.partition import Partition
from oneblock.plain import MOST, parse_plain, read_plain, write_whole
from oneblock.precondition import Precondition
from oneblock.seeds import derive_seed as derive_seed
from oneblock.seeds import nth_seed as nth_seed

SCHEMA_VERSION = 1
PLAN_FILE = "plan.json"
NETWORK_FOLDER = "network"
"""Where a run keeps the network of another library that it started from; it is there before the plan."""
Shared = Literal["private", "synced", "joint"]
COPY = "restore it from a copy of the run"
Plain = str | int | float | bool | None | list[int] | list[float] | list[str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training plan; equal plans have equal hashes.

    Args:
        task: what is noised and predicted, e.g. ``"image"``.
        architecture: settings of the backbone, plain values; ``presets`` turns them into a network.
        layers: layers of each block, noisiest block first; ``(2, 2, 2)`` is 6 layers in 3 blocks.
        noise: the noise law as ``noise.law_to_dict`` writes it.
        edges: B + 1 descending noise levels, the bands of the blocks.
        overlap: how far training draws beyond a band (``Partition.overlap``).
        sigma_data: standard deviation of the data, for the preconditioning.
        recipe: settings of the training run (data, budget, optimizer), plain values.
        seed: every random number of every job follows from it.
        shared: who trains stem and head: ``"private"`` (each block its own), ``"synced"`` or ``"joint"``.
        schema_version: of this file format.
    """

    task: str
    architecture: Mapping[str, Plain]
    layers: tuple[int, ...]
    noise: Mapping[str, LawValue]
    edges: tuple[float, ...]
    overlap: float
    sigma_data: float
    recipe: Mapping[str, Plain]
    seed: int = 0
    shared: Shared = "private"
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version={shown(self.schema_version)}: this version of oneblock reads {SCHEMA_VERSION}; "
                f"use the version of oneblock that wrote the plan"
            )
        if self.shared not in get_args(Shared):
            raise ValueError(f"shared={shown(self.shared)} is not a policy; use one of {', '.join(get_args(Shared))}")
        _check_kinds(self)
        check_fields(self)
        _check_values(self)
        if not self.layers or any(n < 1 for n in self.layers):
            raise ValueError(f"layers={shown(self.layers)}: every block needs at least one layer")
        if len(self.layers) != len(self.edges) - 1:
            raise ValueError(
                f"layers={shown(self.layers)} makes {len(self.layers)} blocks, but edges make "
                f"{len(self.edges) - 1} bands; give one band per block"
            )
        _ = self.partition, self.precondition  # both validate their values

    @cached_property
    def partition(self) -> Partition:
        return Partition(law_from_dict(dict(self.noise)), self.edges, self.overlap)

    @cached_property
    def precondition(self) -> Precondition:
        return Precondition(self.sigma_data)

    @property
    def num_blocks(self) -> int:
        return len(self.layers)

    @property
    def depth(self) -> int:
        return sum(self.layers)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, if the recipe holds them; those of digits, and of plans of earlier versions, do not."""
        names = self.recipe.get("classes", [])
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"recipe.classes={shown(names)} are not names; restore the plan from a copy of the run")
        return tuple(map(str, names))

    def layer_range(self, block: int) -> range:
        """The layers of ``block``, counted from the input of the whole network."""
        self.partition.band(block)  # refuses a block that does not exist
        stops = list(accumulate(self.layers, initial=0))
        return range(stops[block], stops[block + 1])

    def sample_evaluations(self, num_layers: int) -> int:
        """Layer evaluations of one sample in a block of so many layers.

        The recipe may say that a layer makes several ``passes`` (it works on so many times the tokens of a sample), and
        that stem and head do as much as ``end_layers`` more.
        """
        passes, ends = self.recipe.get("passes", 1), self.recipe.get("end_layers", 0)
        return cast(int, passes) * num_layers + cast(int, ends)

    @property
    def step_thirds(self) -> int:
        """Work of a training step in thirds of a pass forward and backward, of which a pass forward alone is one.

        The recipe may say that a step makes several calls (``relay_calls``), or that a pass without gradients gives it
        a state (``carry``; ``in_order``, where it is an upper bound: the block before is asked for some of the samples,
        and there is none before the first), or that its target takes a pass with its derivative (``meanflow``: as much
        as two).
        """
        first = 1 if self.recipe.get("carry") or self.in_order else 0
        first += 2 if self.recipe.get("objective") == "meanflow" else 0
        return 3 * cast(int, self.recipe.get("relay_calls", 1)) + first

    @property
    def in_order(self) -> bool:
        """Whether a block must wait until the one before it has been trained, whose states it learns to go on from."""
        return bool(self.recipe.get("relay_across"))

    def derive_seed(self, *parts: int | str) -> int:
        """A 63-bit seed from ``seed`` and any names and numbers: an independent stream for each use, block and step."""
        return derive_seed(self.seed, *parts)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (16 hex digits) of the canonical JSON: equal plans and only they agree."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
        return json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "plan") -> Plan:
        """Read a plan; ``ValueError`` names a missing or unknown key, another schema version, or broken JSON."""
        try:
            values = parse_plain(text, where)
        except ValueError as error:
            raise ValueError(f"{error}; {COPY}") from error
        return cls.from_values(values, where)

    @classmethod
    def from_values(cls, values: object, where: str = "plan") -> Plan:
        """A plan from what a file holds; errors as ``from_json``."""
        if not isinstance(values, dict):
            raise ValueError(f"{where} holds a {type(values).__name__}; a plan is a JSON object")
        version = values.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise ValueError(
                f"{where} has schema_version={shown(version)}; this version of oneblock reads {SCHEMA_VERSION}; "
                f"use the version of oneblock that wrote it"
            )
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            unknown, missing = sorted(set(values) - known), sorted(known - set(values))
            raise ValueError(
                f"{where} has unknown keys {shown(unknown)} and lacks {missing}; it must have exactly {sorted(known)}"
            )
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}; {COPY}") from error


def _check_kinds(plan: Plan) -> None:
    """Refuse settings that are not plain values, by their names."""
    for name in ("architecture", "recipe"):
        values = getattr(plan, name)
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if not fits(value, Plain):
                raise ValueError(
                    f"{name}.{key}={shown(value)} is not allowed in a plan; use text, a number, true, false, null, or "
                    "a list of numbers or texts"
                )


def _check_values(plan: Plan) -> None:
    """Refuse texts that no file can hold, and numbers that are not finite or have more than 64 bits."""
    own = {field.name: getattr(plan, field.name) for field in fields(Plan)}
    inner = {name: own.pop(name) for name in ("architecture", "noise", "recipe")}
    named = own | {f"{name}.{key}": value for name, values in inner.items() for key, value in values.items()}
    for name, value in named.items():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, str):
                if not _storable(one):
                    raise ValueError(f"{name}={shown(value)} holds characters that no file can; use plain text")
            elif one is not None and not (math.isfinite(one) if isinstance(one, float) else -MOST - 1 <= one <= MOST):
                raise ValueError(f"{name}={shown(value)} is not allowed; use finite numbers of at most 64 bits")


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in text


def write_plan(plan: Plan, directory: Path) -> Path:
    """Write ``plan.json`` into ``directory`` unless an equal plan is there already; another plan is refused."""
    path = directory / PLAN_FILE
    if not check_place(plan, directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(path, plan.to_json())
    return path


def check_place(plan: Plan, directory: Path) -> bool:
    """Whether the run of ``plan`` has begun in ``directory``; one that holds anything else is refused."""
    if (directory / PLAN_FILE).exists():
        found = read_plan(directory)
        if found.hash != plan.hash:
            raise ValueError(
                f"{directory} belongs to plan {found.hash}, but this run has plan {plan.hash} "
                f"(they differ in: {', '.join(differences(found, plan))}); use another directory or the same settings"
            )
        return True
    first = (PLAN_FILE, NETWORK_FOLDER)  # may lie there from a run killed in its first moment
    others = [entry for entry in directory.iterdir() if not entry.name.startswith(first)] if directory.exists() else []
    if others:
        raise ValueError(f"{directory} is not empty and does not hold {PLAN_FILE}; use a new or empty directory")
    return False


def read_plan(directory: Path) -> Plan:
    """The plan of a run's directory."""
    path = directory / PLAN_FILE
    if not path.is_file():
        raise ValueError(f"{directory} has no {PLAN_FILE}; give the directory of a run (its --out)")
    return read_plan_file(path)


def read_plan_file(path: Path) -> Plan:
    """The plan that a file holds, its own fields checked; what its task and its network need, ``presets.door`` checks.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    try:
        values = read_plain(path)
    except ValueError as error:
        raise ValueError(f"{error}; {COPY}") from error
    return Plan.from_values(values, str(path))


def differences(a: Plan, b: Plan) -> list[str]:
    """Names of the settings in which two plans differ, those inside a mapping as ``recipe.budget``."""
    names: list[str] = []
    for field in fields(Plan):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            names += [f"{field.name}.{key}" for key in sorted({*left, *right}) if left.get(key) != right.get(key)]
        elif left != right:
            names.append(field.name)
    return names
