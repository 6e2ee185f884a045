"""A network of another library with a few of its layers alone: its own configuration with fewer layers.

A library decides by a layer's place what the layer is made of: the first layer of ModernBERT has no norm, the last one
of SD3 does not update the text. Where a layer does not fit the place that it gets, a layer of zeros stands before or
behind it. It changes nothing, as layers are residual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oneblock.convert.libraries import Library, Unfilled

DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
"""Settings that say how many layers a network has."""
DEPTHS_OF = {
    "single_transformer_blocks": ("num_single_layers", "num_single_dit_layers"),
    "joint_transformer_blocks": ("num_mmdit_layers",),
}
"""The same for networks with two lists of layers, by the name of the list."""
NUMBERED = ("dual_attention_layers",)
"""Settings that hold numbers of layers."""
STAGES = ("out_features", "out_indices", "stage_names")
"""Settings that name layers, for networks that hand on what is between them; they follow from the depth."""


@dataclass(frozen=True)
class Cut:
    """A network with a part of the layers of another.

    Args:
        network: with the weights.
        places: path in it of each layer, in the order in which they are called.
    """

    network: nn.Module
    places: tuple[str, ...]


def cut(
    library: Library,
    settings: Mapping[str, Any],
    lists: Mapping[str, int],
    layers: Sequence[tuple[int, Mapping[str, Tensor]]],
    ends: Mapping[str, Tensor],
) -> Cut:
    """The network of ``library`` with ``layers`` alone.

    Args:
        settings: of the whole network.
        lists: paths of the lists of its layers, in order -> how many layers each has.
        layers: number in the whole network, and weights by name, of each layer.
        ends: all other weights.

    Raises:
        ValueError: the library has no such network.
    """
    sizes = list(lists.values())
    numbers = {path: range(sum(sizes[:i]), sum(sizes[: i + 1])) for i, path in enumerate(lists)}
    wanted = [number for number, _ in layers]
    chosen = {path: [number - among.start for number in wanted if number in among] for path, among in numbers.items()}
    if wanted != [number + numbers[path].start for path, own in chosen.items() for number in own]:
        raise ValueError(f"layers {wanted} change the order of {', '.join(lists)}, which {library.name} calls in turn")
    filled: dict[str, list[int | None]] = {path: list(own) for path, own in chosen.items()}
    by_path = {path: [weights for number, weights in layers if number in among] for path, among in numbers.items()}
    for _ in range(1 + 2 * len(lists)):
        with Unfilled():
            made = library.fresh(_settings(settings, lists, filled))
        misfit = _misfit(made, filled, by_path)
        if misfit is None:
            return _loaded(made, filled, by_path, ends)
        path, place = misfit
        if place not in (0, len(filled[path]) - 1) or filled[path][place] is None:
            break
        filled[path].insert(0 if place == 0 else len(filled[path]), None)
    raise ValueError(f"{library.name} builds no {type(made).__name__} with layers {wanted} of {sum(sizes)} alone")


def _settings(
    settings: Mapping[str, Any], lists: Mapping[str, int], filled: Mapping[str, Sequence[int | None]]
) -> dict[str, Any]:
    """The settings of a network with these layers; None is one of zeros."""
    found = {name: value for name, value in settings.items() if name not in STAGES}
    if "model_args" in found or "architecture" in found:  # of timm
        (own,) = filled.values()
        return {**found, "model_args": {**found.get("model_args", {}), "depth": len(own)}}
    for path, own in filled.items():
        names = DEPTHS_OF.get(path.rpartition(".")[2], DEPTHS)
        found |= {name: len(own) for name in names if found.get(name) == lists[path]}
        for name in NUMBERED:
            if name in found:
                found[name] = [place for place, number in enumerate(own) if number in found[name]]
        listed = {
            name: value
            for name, value in found.items()
            if isinstance(value, list) and len(value) == lists[path] and "layer" in name
        }
        for name, value in listed.items():
            found[name] = [value[_nearest(own, place)] for place in range(len(own))]
    return found


def _nearest(own: Sequence[int | None], place: int) -> int:
    """The layer of a place; for one of zeros the first or last of the network."""
    number = own[place]
    if number is not None:
        return number
    return 0 if place == 0 else -1


def _misfit(
    made: nn.Module, filled: Mapping[str, Sequence[int | None]], weights: Mapping[str, Sequence[Mapping[str, Tensor]]]
) -> tuple[str, int] | None:
    """List and place of the first layer that is made of something else than its weights; None if there is none."""
    for path, own in filled.items():
        rest = iter(weights[path])
        for place, number in enumerate(own):
            there = made.get_submodule(f"{path}.{place}").state_dict()
            given = there if number is None else next(rest)
            if {name: t.shape for name, t in there.items()} != {name: t.shape for name, t in given.items()}:
                return path, place
    return None


def _loaded(
    made: nn.Module,
    filled: Mapping[str, Sequence[int | None]],
    weights: Mapping[str, Sequence[Mapping[str, Tensor]]],
    ends: Mapping[str, Tensor],
) -> Cut:
    state, places = dict(ends), []
    for path, own in filled.items():
        rest = iter(weights[path])
        for place, number in enumerate(own):
            name = f"{path}.{place}"
            if number is None:
                there = made.get_submodule(name).state_dict()
                given: Mapping[str, Tensor] = {
                    key: torch.zeros_like(t) if t.is_floating_point() else t for key, t in there.items()
                }
            else:
                given = next(rest)
                places.append(name)
            state |= {f"{name}.{key}": t for key, t in given.items()}
    made.load_state_dict(state)
    return Cut(made, tuple(places))
