"""Blocks in the format of the library that their network comes from, and back.

``block-b/`` is a network of the library with the layers of block b alone, between stem and head as they were trained.
What the library does not know (the noise embedder, the modulation of each layer, noisy targets) stands beside it in
``added.safetensors``, by the names of the block's parameters. Of a block that trains adapters beside frozen weights,
``block-b/`` holds the adapters, as peft writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oneblock.backbone import as_backbone, forward
from oneblock.condition import Condition, Nothing
from oneblock.convert.converted import Converted, ConvertedLibrary
from oneblock.convert.cut import cut
from oneblock.convert.kept import of_library
from oneblock.convert.kind import Kind
from oneblock.convert.libraries import Library, library_of
from oneblock.convert.lora import ADAPTER_FILE, read_adapter, write_adapter

ADDED_FILE = "added.safetensors"
ENDS, LAYERS, LAYER = "ends.", "layers.", ".layer."
"""What the parameters of a block are called: its ends, and the library's own part of a layer."""


def write_block(
    converted: Converted, block: nn.Module, directory: Path, settings: Mapping[str, Any]
) -> tuple[str, ...]:
    """Write a trained block into ``directory``, as its library and as ``read_block`` read it.

    Args:
        converted: the network that the block was made of.
        settings: of that network, as the library writes them.

    Returns:
        Where its layers stand in what was written, a path for each.

    Raises:
        ValueError: the library has no such network, or it would answer otherwise.
    """
    source = cast(ConvertedLibrary, of_library(converted))
    if converted.frozen:
        write_adapter(block, directory)
        _write_added(block, directory)
        every = [f"{path}.{i}" for path, size in list_sizes(source).items() for i in range(size)]
        return tuple(every[converted.picks[int(name)]] for name in as_backbone(block).layers)
    library = cast(Library, library_of(source.network))
    layers = [(converted.picks[int(name)], _layer(block, name).state_dict()) for name in as_backbone(block).layers]
    ends = cast(nn.Module, block.ends).state_dict()
    with torch.random.fork_rng(devices=[]):
        made = cut(library, settings, list_sizes(source), layers, ends)
    _check_same(source, made.network, block)
    directory.mkdir()
    library.save(made.network.train(source.network.training), directory)
    _write_added(block, directory)
    return made.places


def read_block(library: Library, directory: Path, block: nn.Module, places: Sequence[str]) -> dict[str, Tensor]:
    """The parameters of a block that ``write_block`` wrote, by their names in the block.

    Args:
        block: as it is built; its values are not looked at.
        places: of its layers in what was written.

    Raises:
        ValueError: the directory does not hold such a network.
    """
    found = load_file(directory / ADDED_FILE) if (directory / ADDED_FILE).is_file() else {}
    if (directory / ADAPTER_FILE).is_file():
        return {**found, **read_adapter(block, directory)}
    with torch.random.fork_rng(devices=[]):
        state = library.load(directory, library.settings(directory)).state_dict()
    lists = {place.rpartition(".")[0] + "." for place in places}
    for name, place in zip(as_backbone(block).layers, places, strict=True):
        start = f"{place}."
        own = {key.removeprefix(start): t for key, t in state.items() if key.startswith(start)}
        found |= {f"{LAYERS}{name}{LAYER}{key}": t for key, t in own.items()}
    ends = {f"{ENDS}{key}": t for key, t in state.items() if not key.startswith(tuple(lists))}
    return {**found, **ends}


def _write_added(block: nn.Module, directory: Path) -> None:
    added = {name: p.detach().cpu().contiguous() for name, p in block.named_parameters() if _is_added(name)}
    if added:
        save_file(added, directory / ADDED_FILE)


def list_sizes(converted: ConvertedLibrary) -> dict[str, int]:
    """Paths of the lists of layers of a network, in order, and how many layers each has."""
    every: dict[str, int] = {}
    for path in converted.path.split(","):
        layers: Any = converted.network.get_submodule(path.strip())
        every[path.strip()] = len(layers)
    return every


def _layer(block: nn.Module, name: str) -> nn.Module:
    """The library's own part of a layer."""
    return cast(nn.Module, as_backbone(block).layers[name].layer)


def _is_added(name: str) -> bool:
    return not name.startswith(ENDS) and not (name.startswith(LAYERS) and f"{LAYER}" in name)


@dataclass(frozen=True)
class _Asked(Kind):
    """A kind of network that is always called in the same way.

    Args:
        asked: the call, for noisy targets of ``shape``.
    """

    kind: Kind | None = None
    shape: torch.Size | None = None
    asked: Mapping[str, Any] | None = None

    @staticmethod
    def size(network: nn.Module) -> int:
        return 0

    def example(self, network: nn.Module) -> dict[str, Any]:
        return dict(self.asked or {})

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        return dict(self.asked or {})

    def answer(self, found: Any, shape: torch.Size) -> Tensor:
        return cast(Kind, self.kind).answer(found, self.shape or shape)


@torch.no_grad()
def _check_same(converted: ConvertedLibrary, network: nn.Module, block: nn.Module) -> None:
    """Compare a network of the library with the block that it was made of, without what was added to this."""
    kind = converted.kind
    where = next(block.parameters()).device
    asked = {name: _random(value, kind.outputs, where) for name, value in converted.example().items()}
    shape = kind.example_shape(converted.network)
    silenced: Any = deepcopy(block).eval()
    silenced._kind = _Asked(kind.outputs, kind.special_id, kind=kind, shape=shape, asked=asked)
    silenced.prompts = None
    for name, p in silenced.named_parameters():
        if _is_added(name) and not name.startswith("noise."):
            p.zero_()
    width = 1 if silenced.noisy is None else silenced.noisy.in_features
    z, noise = torch.zeros(2, width, device=where), torch.zeros(2, device=where)
    wanted = forward(as_backbone(silenced), z, noise, Nothing(2))
    found = kind.answer(network.to(where).eval()(**asked), shape)
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"a {type(network).__name__} of layers {list(as_backbone(block).layers)} alone answers otherwise than the "
            "block, as the library makes something else of a layer at another place; use save() instead"
        )


def _random(value: Any, outputs: int, device: torch.device) -> Any:
    """A tensor of an example call with other values."""
    if not isinstance(value, Tensor) or value.dtype == torch.bool:
        return value
    generator = torch.Generator().manual_seed(0)
    if value.is_floating_point():
        return torch.rand(value.shape, generator=generator).to(device, value.dtype)
    return torch.randint(max(1, outputs), value.shape, generator=generator).to(device)
