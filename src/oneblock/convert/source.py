"""Networks of other libraries by name: ``diffusers:DIR``, ``transformers:DIR``, ``timm:NAME`` or ``timm:DIR``.

Everything comes from the disk of this machine: nothing is fetched. Of a directory its configuration and its safetensors
are read; code that lies there is never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from oneblock.checks import shown
from oneblock.convert.libraries import LIBRARIES, Timm, weight_files
from oneblock.plain import read_plain

PIPELINE_FILE = "model_index.json"
TRANSFORMER = "transformer"
"""The directory of the network in that of a pipeline of diffusers."""
SCHEDULER = Path("scheduler") / "scheduler_config.json"


def load_network(source: str, *, seed: int = 0) -> nn.Module:
    """The network that ``source`` names, with its weights in 32 bits. One of timm by its name, ``timm:NAME``, has fresh
    weights, which follow from ``seed``.

    Raises:
        ValueError: the name has no such form, there is no such network, its class is of no kind that is known, its
            weights are not safetensors or are quantised, or it needs code that came with it.
        ImportError: the library is not installed.
    """
    name, place = split_source(source)
    library = LIBRARIES[name]
    directory = _directory(name, Path(place))
    if isinstance(library, Timm) and not directory.is_dir():
        settings = {"architecture": library.class_name({"architecture": place}, f"source={source!r}")}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return library.fresh(settings)
    if not directory.is_dir():
        raise ValueError(f"source={source!r}: {directory} is not a directory; give that of a network on this machine")
    settings = library.settings(directory)
    weight_files(directory)
    with torch.random.fork_rng(devices=[]):
        return library.load(directory, settings)


def has_weights(source: str) -> bool:
    """Whether a network comes with weights, and not with fresh ones."""
    name, place = split_source(source)
    return _directory(name, Path(place)).is_dir()


def source_scheduler(source: str) -> dict[str, Any] | None:
    """The settings of the scheduler that diffusers keeps beside a network; None where there is none."""
    name, place = split_source(source)
    path = _directory(name, Path(place)).parent / SCHEDULER
    if name != "diffusers" or not path.is_file():
        return None
    return read_scheduler(path)


def read_scheduler(path: Path) -> dict[str, Any]:
    """The settings of a scheduler, from its file or the directory of that.

    Raises:
        ValueError: there are none.
    """
    file = path / SCHEDULER.name if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} has no {SCHEDULER.name}; give the directory of a scheduler of diffusers")
    found = read_plain(file)
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a {type(found).__name__}; the settings of a scheduler are an object")
    return found


def split_source(source: str) -> tuple[str, str]:
    """Library, and name or directory in it, of a source; errors as ``load_network``."""
    name, _, place = source.partition(":")
    if name not in LIBRARIES or not place:
        raise ValueError(
            f"source={shown(source)} does not name a network; write transformers:DIR, diffusers:DIR, timm:NAME or "
            "timm:DIR"
        )
    return name, place


def _directory(library: str, place: Path) -> Path:
    """Where the network lies; of a pipeline of diffusers, its transformer."""
    if library == "diffusers" and (place / PIPELINE_FILE).is_file():
        return place / TRANSFORMER
    return place
