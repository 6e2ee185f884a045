"""Where the data of a plan lie here, and whether they are still what the plan was made for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from oneblock.data import ImageData, TextData, VideoData
from oneblock.data.places import (
    DATA_FILE,
    DataRecord,
    changes,
    data_record,
    place_of,
    read_record,
    shown,
    write_record,
)
from oneblock.plan import Plan
from oneblock.presets.data import Data
from oneblock.presets.masked import is_text

NAMED = (str, ImageData, TextData, VideoData)
"""What gives data by their name."""


def located(plan: Plan, directory: Path | None, data: Data | None = None) -> Data | None:
    """``data``; where they name no place, or the plan's one and it is not here, the one that the run or model in
    ``directory`` has kept."""
    record = None if directory is None else read_record(directory)
    if record is None or not (data is None or isinstance(data, NAMED)):
        return data
    kind = TextData if is_text(plan) else VideoData if plan.task == "video" else ImageData
    given = data if isinstance(data, ImageData | TextData | VideoData) else kind(data=data or "")
    if record.data != plan.recipe["data"] or given.data not in ("", record.data) or given.data_dir is not None:
        return data
    here = place_of(given.data, None)
    if given.data and (here is None or here.exists()):
        return data
    name, root = record.again()
    return replace(given, data=name, data_dir=root)


def keep_place(plan: Plan, directory: Path, data: Data | None) -> None:
    """Write where the data of a run lie and which files they are, unless that is known or they have no place."""
    record = None if (directory / DATA_FILE).is_file() else plan_record(plan, data)
    if record is not None:
        write_record(record, directory)


def plan_record(plan: Plan, data: Data | None) -> DataRecord | None:
    """What is to be kept of the ``data`` of a plan; None for data without a place."""
    name, root = named_data(plan, data)
    place = place_of(name, root)
    if place is None and root is None:
        return None
    return data_record(cast(str, plan.recipe["data"]), place, root)


def named_data(plan: Plan, data: Data | None) -> tuple[str, Path | None]:
    """Name and root of data that are given by name, by default the plan's; a name in brackets for others."""
    if data is None or isinstance(data, str):
        return data or cast(str, plan.recipe["data"]), None
    if isinstance(data, ImageData | TextData | VideoData):
        return data.data or cast(str, plan.recipe["data"]), data.data_dir
    return f"({type(data).__name__})", None


def other_data(plan: Plan, fingerprint: str, named: tuple[str, Path | None], directory: Path | None = None) -> str:
    """What must be said of training data that are not the plan's, with the files that differ where these are known;
    empty where they are the same."""
    recipe = plan.recipe
    if fingerprint == recipe["fingerprint"]:
        return ""
    name, root = named
    record, place = None if directory is None else read_record(directory), place_of(name, root)
    said = f"{name} has changed since the plan was made (fingerprint {fingerprint}, then {recipe['fingerprint']})"
    if name != recipe["data"] and (record is None or place is None or str(place) != record.place):
        said = f"{name} (fingerprint {fingerprint}) is not what the plan was made for, {recipe['data']} "
        said += f"({recipe['fingerprint']})"
    if record is None or not record.files or place is None or not place.exists():
        return said
    found = changes(record, place)
    return f"{said}: {shown(found)}" if found else f"{said}, though its files are the same: they are read otherwise"
