"""Runs of a byte model without floating-point numbers (``models.egg``): their recipe, plan and training.

An EGG has neither noise levels nor bands nor blocks that train apart, so that its plan is not that of blocks. Its
directory holds ``egg.json``, which is the plan, and ``egg/`` with checkpoints, metrics and a heartbeat as in any run.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from oneblock.backbone import refuse_while_loading
from oneblock.checks import check_fields, shown
from oneblock.data import Bytes, TextData, TokenFile, open_text
from oneblock.data.places import DATA_FILE, data_record, place_of, read_record, write_record
from oneblock.models.egg import END, EGGConfig
from oneblock.plain import read_plain, write_whole
from oneblock.plan import COPY
from oneblock.presets.data import check_vocabulary
from oneblock.train.drive import BARS, Watch, watched
from oneblock.train.integer import JOB, EGGJob, VoteSettings, settings_hash
from oneblock.train.loop import steps
from oneblock.train.machine import HERE, Machine
from oneblock.train.shown import shown as shown_data

TASK = "bytes"
"""Stands for the task of such a run, which is none of blocks."""
EGG_FILE = "egg.json"
SCHEMA_VERSION = 1
USUAL_DATA = "books"
Text = str | TextData | TokenFile
"""A name, a name with settings, or tokens of the vocabulary of bytes."""


@dataclass(frozen=True, kw_only=True)
class ByteRecipe:
    """A byte model of whole numbers, and how a population trains it. A value of the wrong type is a ``ValueError``."""

    depth: int = 1
    """layers (the paper has 6)"""
    width: int = 64
    """width, a power of 4 (the paper has 256)"""
    steps: int = 500
    """steps of the training"""
    population: int = VoteSettings.population
    """members that are scored in every step; even"""
    group_size: int = VoteSettings.group_size
    """consecutive members that read the same stream of text; even"""
    noise_shift: int = VoteSettings.noise_shift
    """s: a member's noise has the standard deviation 2^-s"""
    tokens: int = VoteSettings.tokens
    """bytes that a member reads in a step"""
    slowdown: float = VoteSettings.slowdown
    """how fast steps become smaller: after t of them 1 / (slowdown t + 1) of the weights would move by chance"""
    chunk: int = VoteSettings.chunk
    """members that are scored at once; memory grows with it, and nothing else depends on it"""
    seed: int = VoteSettings.seed
    """every random number follows from it"""

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self.config, self.settings

    @property
    def config(self) -> EGGConfig:
        return EGGConfig(depth=self.depth, width=self.width)

    @property
    def settings(self) -> VoteSettings:
        return VoteSettings(**{field.name: getattr(self, field.name) for field in fields(VoteSettings)})


@dataclass(frozen=True, kw_only=True)
class BytePlan:
    """What a run of a byte model is.

    Args:
        model, settings: of the model and of its training; ``settings.chunk`` is not kept.
        data: the name of the text, and ``fingerprint`` of its training tokens.
    """

    model: EGGConfig
    settings: VoteSettings
    data: str
    fingerprint: str

    @property
    def hash(self) -> str:
        """Of all that the outcome depends on; the name of the text is not among it."""
        return settings_hash(self.model, self.settings, self.fingerprint)

    @property
    def values(self) -> dict[str, Any]:
        """As the file holds them."""
        settings = {key: value for key, value in asdict(self.settings).items() if key != "chunk"}
        named = {"data": self.data, "fingerprint": self.fingerprint}
        return {"schema_version": SCHEMA_VERSION, "model": asdict(self.model), "settings": settings, **named}


@dataclass(frozen=True)
class TrainedBytes:
    """A run that has been trained: its directory and plan, and the seconds that it took."""

    directory: str
    plan: BytePlan
    seconds: float


def train_bytes(
    recipe: ByteRecipe,
    *,
    out: str | Path,
    data: Text | None = None,
    machine: Machine = HERE,
    watch: Watch = BARS,
) -> TrainedBytes:
    """Train a byte model without a floating-point number. The same call goes on where it was stopped, and ends in the
    same bytes.

    Args:
        out: directory of the run.
        data: a name (``"books"``, ``"file:PATH"``), ``TextData`` or a ``TokenFile``; None is ``USUAL_DATA``.
        machine: of its settings, ``device``, ``threads``, ``save_every`` and ``keep`` count here.

    Raises:
        ValueError: anything that does not fit together, or a directory that holds something else, before any work.
    """
    refuse_while_loading("train_bytes")
    directory = Path(out)
    with shown_data() if watch.bars else nullcontext():
        file, text = open_bytes(directory, USUAL_DATA if data is None else data, "train")
    name = text.data if text else "dataset:TokenFile"
    plan = BytePlan(model=recipe.config, settings=recipe.settings, data=name, fingerprint=file.fingerprint())
    job = EGGJob(
        plan.model,
        plan.settings,
        stream(file),
        directory=directory,
        fingerprint=plan.fingerprint,
        keep=machine.keep,
        device=machine.torch_device(),
        warn=watch.warn,
    )
    write_byte_plan(plan, directory)
    _keep_place(text, directory)
    totals = {JOB: (0, job.last_step)}
    save_every = min(machine.save_every, watch.every or machine.save_every)
    return TrainedBytes(str(out), plan, watched(steps(job, save_every), directory, totals, watch))


def open_bytes(
    directory: Path, data: Text, split: Literal["train", "valid", "test"]
) -> tuple[TokenFile, TextData | None]:
    """The bytes of a text, and what names it; a ``TokenFile`` has no name, and is its own only split.

    Args:
        directory: of the run, which may say where the text lies.

    Raises:
        ValueError: it is absent, or not of bytes.
    """
    if isinstance(data, TokenFile):
        check_vocabulary(data, Bytes())
        return data, None
    if not isinstance(data, str | TextData):
        raise ValueError(
            f"data is a {type(data).__name__}; a byte model trains on text: give a name (books, file:PATH) or a "
            "TokenFile of bytes"
        )
    text = _located(TextData(data=data) if isinstance(data, str) else data, directory)
    return open_text(text.data, split, Bytes(), root=text.data_dir), text


def stream(file: TokenFile) -> Tensor:
    """All documents one after the other, uint8 (bytes,), with ``END`` before each."""
    found = torch.full((len(file) + file.num_documents,), END, dtype=torch.uint8)
    for i, (start, length) in enumerate(zip(file.starts.tolist(), file.lengths.tolist(), strict=True), 1):
        found[start + i : start + i + length] = file.tokens[start : start + length]
    return found


def is_byte_run(directory: Path) -> bool:
    return (directory / EGG_FILE).is_file()


def read_byte_plan(directory: Path) -> BytePlan:
    """The plan of a run of a byte model.

    Raises:
        ValueError: there is none, or it is damaged; names the file.
    """
    path = directory / EGG_FILE
    if not path.is_file():
        raise ValueError(f"{directory} has no {EGG_FILE}; give the directory of a run of `oneblock train bytes`")
    try:
        return _parsed(read_plain(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {COPY}") from error


def write_byte_plan(plan: BytePlan, directory: Path) -> None:
    """Write ``egg.json`` unless an equal plan is there already; a directory that holds anything else is refused."""
    if is_byte_run(directory):
        found = read_byte_plan(directory)
        if found.hash != plan.hash:
            raise ValueError(
                f"{directory} belongs to plan {found.hash}, but this run has plan {plan.hash} (they differ in: "
                f"{', '.join(_differences(found, plan))}); use another directory, or the same settings and data"
            )
        return
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty and does not hold {EGG_FILE}; use a new or empty directory")
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / EGG_FILE, json.dumps(plan.values, indent=1, sort_keys=True) + "\n")


def _parsed(values: Any) -> BytePlan:
    known = {"schema_version", "model", "settings", "data", "fingerprint"}
    if not isinstance(values, dict) or values.keys() != known:
        raise ValueError(f"it must have exactly the keys {sorted(known)}")
    if values["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version={shown(values['schema_version'])}, and this version of oneblock reads {SCHEMA_VERSION}"
        )
    parts: dict[str, Any] = {}
    for name, kind, left in (("model", EGGConfig, ()), ("settings", VoteSettings, ("chunk",))):
        names = {field.name for field in fields(kind)} - set(left)
        if not isinstance(values[name], dict) or values[name].keys() != names:
            raise ValueError(f"{name} must have exactly the keys {sorted(names)}")
        parts[name] = kind(**values[name])
    for name in ("data", "fingerprint"):
        if not isinstance(values[name], str):
            raise ValueError(f"{name}={shown(values[name])} is not text")
        parts[name] = values[name]
    return BytePlan(**parts)


def _differences(a: BytePlan, b: BytePlan) -> list[str]:
    left, right = a.values, b.values
    parts = [
        f"{part}.{key}" for part in ("model", "settings") for key in left[part] if left[part][key] != right[part][key]
    ]
    return parts + (["the text"] if a.fingerprint != b.fingerprint else [])


def _located(text: TextData, directory: Path) -> TextData:
    """``text``; where it has no name, or the run's and is not here, the place that the run has kept."""
    record = read_record(directory)
    if record is None or text.data_dir is not None or text.data not in ("", record.data):
        return text
    here = place_of(text.data, None)
    if text.data and (here is None or here.exists()):
        return text
    name, root = record.again()
    return replace(text, data=name, data_dir=root)


def _keep_place(text: TextData | None, directory: Path) -> None:
    """Write where the text lies, unless that is known or it has no place of its own."""
    if text is None or (directory / DATA_FILE).is_file():
        return
    place = place_of(text.data, text.data_dir)
    if place is not None or text.data_dir is not None:
        write_record(data_record(text.data, place, text.data_dir), directory)
