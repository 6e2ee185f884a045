"""The network that a run started from, kept beside its plan: ``network/`` in the format of its library, and what
``convert`` was told of it in ``network/oneblock.json``.

With the weights a job elsewhere builds the same blocks. Without them, as a saved model keeps it, blocks are built whose
trained weights are then read. Nothing is fetched and no code of a checkpoint is run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oneblock.checks import check_fields, shown
from oneblock.convert.converted import Converted, ConvertedLibrary, convert
from oneblock.convert.libraries import LIBRARIES, Library, Unfilled, library_of, weight_files
from oneblock.convert.lora import LowRank, lora
from oneblock.plain import read_plain, write_whole
from oneblock.schedule import frame_from_dict, frame_to_dict

RECORD_FILE = "oneblock.json"
TENSORS_FILE = "told.safetensors"
"""Tensors among the arguments of ``convert``."""
COPY = "restore it from a copy of the run, or give the network again (backbone=...)"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of a converted network besides configuration and weights.

    Args:
        library: that it comes from, and ``kind``, its class there.
        named: by which the plan knows it (``Converted``).
        picks: layers of the network, one for each of the plan.
        told: arguments of ``convert``, plain values; tensors among them stand in a file of their own.
        frame: that it keeps (``schedule.frame_to_dict``); empty for EDM's preconditioning.
        adapters: arguments of ``lora``, where blocks train adapters beside frozen weights; empty for none.
    """

    library: str
    kind: str
    named: str
    picks: tuple[int, ...]
    told: dict[str, object] = field(default_factory=dict)
    frame: dict[str, object] = field(default_factory=dict)
    adapters: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.library not in LIBRARIES:
            raise ValueError(f"library={shown(self.library)} is unknown; use one of {', '.join(LIBRARIES)}")


def kept(converted: Converted) -> Kept | None:
    """What can be kept of a converted network; None if it is of nobody's library, or was changed since it was made."""
    found = of_library(converted)
    library = None if found is None else library_of(found.network)
    if found is None or library is None:
        return None
    plain = {name: value for name, value in found.told.items() if not _tensors(value)}
    return Kept(
        library=library.name,
        kind=type(found.network).__name__,
        named=converted.named,
        picks=converted.picks,
        told=cast(dict[str, object], json.loads(json.dumps(plain))),
        frame={} if converted.frame is None else cast(dict[str, object], frame_to_dict(converted.frame)),
        adapters=converted.settings if isinstance(converted, LowRank) else {},
    )


def of_library(converted: object) -> ConvertedLibrary | None:
    """The network of another library that was converted, without adapters; None if it is none."""
    found = converted.bare if isinstance(converted, LowRank) else converted
    return found if isinstance(found, ConvertedLibrary) else None


def keep(converted: Converted, directory: Path, *, weights: bool = True) -> bool:
    """Write a converted network into ``directory``, whole or not at all; one that is there already stays.

    Returns:
        Whether it is there; False for a network that its library could not build again.

    Raises:
        ValueError: another network is there.
    """
    record = kept(converted)
    if record is None:
        return False
    if (directory / RECORD_FILE).is_file():
        _check_same(directory, record)
        return True
    library, network = LIBRARIES[record.library], converted.original
    partial = directory.with_name(f"{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (library.save if weights else library.save_settings)(network, partial)
    if not _same_shapes(network, library, partial):
        shutil.rmtree(partial)
        return False
    told = {f"{name}/{key}": t for name, value in _told_tensors(converted).items() for key, t in value.items()}
    if told:
        save_file(told, partial / TENSORS_FILE)
    write_whole(partial / RECORD_FILE, record_text(record))
    try:
        partial.rename(directory)
    except OSError:  # another process of this run was faster
        _check_same(directory, record)
        shutil.rmtree(partial)
    for other in directory.parent.glob(f"{directory.name}.*.partial"):  # of a run that was killed
        shutil.rmtree(other, ignore_errors=True)
    return True


def copy_settings(source: Path, target: Path) -> None:
    """Copy what opening needs of a network that is kept in ``source``, if one is: all but its weights, and these too
    where blocks train adapters alone."""
    record = read_kept(source)
    if record is None:
        return
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if is_setting(path.name) or record.adapters:
            shutil.copyfile(path, target / path.name)


def is_setting(name: str) -> bool:
    """Whether a file of a network that is kept is needed without its weights."""
    return name == TENSORS_FILE or (name.endswith(".json") and not name.endswith(".index.json"))


def record_text(record: Kept) -> str:
    """The content of ``oneblock.json``."""
    values = asdict(record)
    return json.dumps({"class": values.pop("kind"), **values}, indent=2, sort_keys=True) + "\n"


def read_kept(directory: Path) -> Kept | None:
    """What is kept in ``directory``; None where nothing is.

    Raises:
        ValueError: the record is damaged.
    """
    path = directory / RECORD_FILE
    if not path.is_file():
        return None
    values = read_plain(path)
    try:
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
        return Kept(**{"kind" if name == "class" else name: value for name, value in values.items()})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not say which network the run started from ({error}); {COPY}") from error


def rebuilt(directory: Path, *, weights: bool) -> Converted:
    """The converted network that is kept in ``directory``.

    Args:
        weights: with those that it started from; otherwise with any numbers, unless its blocks train adapters alone.

    Raises:
        ValueError: it is damaged, or another one.
        ImportError: its library is not installed.
    """
    record = read_kept(directory)
    if record is None:
        raise ValueError(f"{directory} has no {RECORD_FILE}; {COPY}")
    library = LIBRARIES[record.library]
    settings = library.settings(directory)
    if library.class_name(settings, str(directory)) != record.kind and library.name != "timm":
        raise ValueError(f"{directory} holds a network of another class than {record.kind}; {COPY}")
    weights = weights or bool(record.adapters)
    if weights:
        weight_files(directory)
    if weights:
        with torch.random.fork_rng(devices=[]):
            network = library.load(directory, settings)
    else:
        network = _unfilled(library, settings)
    told: dict[str, Any] = {**record.told, **_read_tensors(directory)}
    made = convert(network, **told)
    if record.frame:
        made = made.under(frame_from_dict(cast(dict[str, Any], record.frame)))
    if record.adapters:
        made = lora(made, **cast(dict[str, Any], record.adapters))
    made = made.pick(record.picks)
    if weights and made.named != record.named:
        raise ValueError(f"{directory} holds {made.named}, but the run started from {record.named}; {COPY}")
    found = made.renamed(record.named)
    found.hollow = not weights
    return found


def _check_same(directory: Path, record: Kept) -> None:
    found = read_kept(directory)
    if found != record:
        name = "another network" if found is None else found.named
        raise ValueError(f"{directory} holds {name}, but this run starts from {record.named}; use another directory")


def _same_shapes(network: nn.Module, library: Library, directory: Path) -> bool:
    """Whether the configuration makes the network again."""
    again = _unfilled(library, library.settings(directory))
    shapes = [{name: t.shape for name, t in one.state_dict().items()} for one in (network, again)]
    return type(again) is type(network) and shapes[0] == shapes[1]


def _unfilled(library: Library, settings: Mapping[str, Any]) -> nn.Module:
    """A network of a configuration, into whose parameters nothing was written."""
    with torch.random.fork_rng(devices=[]), Unfilled():
        return library.fresh(settings)


def _tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(one, Tensor) for one in value.values())


def _told_tensors(converted: Converted) -> dict[str, dict[str, Tensor]]:
    """Arguments of ``convert`` that are tensors by name."""
    found = of_library(converted)
    told = {} if found is None else found.told
    return {
        name: {key: t.detach().cpu().contiguous() for key, t in value.items()}
        for name, value in told.items()
        if _tensors(value)
    }


def _read_tensors(directory: Path) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    if (directory / TENSORS_FILE).is_file():
        for name, tensor in load_file(directory / TENSORS_FILE).items():
            argument, _, key = name.partition("/")
            found.setdefault(argument, {})[key] = tensor
    return found
