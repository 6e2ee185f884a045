"""A trained model of a converted network in the format of the library that the network comes from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from oneblock.backbone import BuildBackbone
from oneblock.blockwise import Denoiser
from oneblock.convert.converted import Converted
from oneblock.convert.export import write_block
from oneblock.convert.kept import Kept, keep, kept
from oneblock.convert.libraries import LIBRARIES
from oneblock.data.places import hand_on
from oneblock.model.card import card
from oneblock.plain import read_plain, write_whole
from oneblock.plan import NETWORK_FOLDER, Plan
from oneblock.presets.frames import frame_values
from oneblock.presets.tasks import block_parameters
from oneblock.train.exported import EXPORT_FILE, is_export
from oneblock.train.shards import check_finished
from oneblock.train.strategy import job_specs

CARD_FILE = "README.md"
RESULT_FILE = "result.json"
"""Of a run of a comparison (``experiment.results``)."""


class Exportable(Protocol):
    """What is asked of a model; a ``Model`` is one."""

    @property
    def plan(self) -> Plan: ...

    @property
    def denoiser(self) -> Denoiser: ...

    @property
    def directory(self) -> Path: ...

    @property
    def backbone(self) -> BuildBackbone | None: ...


def export(model: Exportable, directory: Path, scores: Mapping[str, Any] | None = None) -> None:
    """``Model.export``."""
    converted, record = _source(model)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is in use; give the exported model a directory of its own")
    if is_export(model.directory):
        raise ValueError(f"{model.directory} is an exported model already; copy the directory")
    plan = model.plan
    check_finished(model.directory, plan, job_specs(plan)[-1].last_step, block_parameters(plan, model.backbone))
    partial = directory.with_name(f"{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(model, converted, record, partial, scores or _known_scores(model.directory))
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _source(model: Exportable) -> tuple[Converted, Kept]:
    """The network that the blocks were made of, and what is kept of it."""
    backbone = model.backbone
    record = kept(backbone) if isinstance(backbone, Converted) else None
    if record is None or not isinstance(backbone, Converted):
        name = model.plan.architecture.get("name")
        raise ValueError(
            f"the network of this model, {name}, is of no library that it could go back to ({', '.join(LIBRARIES)}); "
            "use save()"
        )
    return backbone, record


def _known_scores(directory: Path) -> Mapping[str, Any] | None:
    """The scores of a run of a comparison, which keeps them beside its plan."""
    path = directory / RESULT_FILE
    found = read_plain(path) if path.is_file() else None
    return found if isinstance(found, dict) else None


def _write(
    model: Exportable,
    converted: Converted,
    record: Kept,
    directory: Path,
    scores: Mapping[str, Any] | None,
) -> None:
    if not keep(converted, directory / NETWORK_FOLDER, weights=converted.frozen):
        raise ValueError(
            f"{record.library} does not build the {record.kind} of this model from its configuration; use save()"
        )
    plan, library = model.plan, LIBRARIES[record.library]
    settings = library.settings(directory / NETWORK_FOLDER)
    names = [f"block-{block}" for block in range(plan.num_blocks)]
    places = []
    for block, name in enumerate(names):
        backbone: nn.Module = model.denoiser.block(block).backbone
        places.append(write_block(converted, backbone, directory / name, settings))
    hand_on(model.directory, directory)
    told: Mapping[str, Any] = {"picks": record.picks, **record.told}
    values = {
        "library": record.library,
        "class": record.kind,
        "blocks": names,
        "places": places,
        "edges": plan.edges,
        "frame": frame_values(plan) or None,
        "plan": json.loads(plan.to_json()),
        "network": told,
    }
    (directory / CARD_FILE).write_text(card(plan, record, places, scores))
    write_whole(directory / EXPORT_FILE, json.dumps(values, indent=2) + "\n")
