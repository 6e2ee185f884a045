"""Where the repeated layers of a network stand: the path of one list of modules, or a reason why there is none.

Libraries say it themselves: transformers and diffusers name the classes that a device map must not split, among which
are the layers; others call the list by one of a few names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

NAMES = ("layers", "layer", "h", "blocks", "block", "transformer_blocks")
"""What the list is called where the library does not declare its layers. Under these names it may also be a
``Sequential`` of modules of one class, as in timm."""
SINGLE = "single_transformer_blocks"
"""What diffusers calls a second list, whose layers take text and image as one sequence."""
Layers = nn.ModuleList | nn.Sequential
DECLARATIONS = ("_no_split_modules", "_repeated_blocks")


def find_layers(network: nn.Module, path: str = "") -> str:
    """The path of the list of residual layers in ``network``, e.g. ``"transformer.h"``; of several lists that follow
    each other the paths, joined by commas.

    Args:
        path: where they stand; empty looks for them. A list called ``SINGLE`` follows the other one.

    Raises:
        ValueError: the network cannot be cut, there is no such list, or there are several.
    """
    reason = why_not(network)
    if reason:
        raise ValueError(f"{type(network).__name__} cannot be cut into blocks: {reason}")
    if path:
        return ",".join(_checked(network, one.strip()) for one in path.split(","))
    every = dict(_lists(network))
    declared = _declared(network)
    found = [name for name, layers in every.items() if type(layers[0]).__name__ in declared]
    found = found or [name for name in every if name.rpartition(".")[2] in NAMES]
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no list of layers that is known ({_listed(every) or 'no ModuleList at all'}"
            '); give its path, e.g. layers="encoder.layers"'
        )
    followed = sorted(found, key=lambda name: name.endswith(SINGLE))
    if len(found) == 2 and [name.endswith(SINGLE) for name in followed] == [False, True]:
        return ",".join(_checked(network, name) for name in followed)
    if len(found) > 1:
        raise ValueError(
            f"{type(network).__name__} has several lists of layers: "
            f"{_listed({name: every[name] for name in found})}; give the path of one, e.g. layers={found[0]!r}, or of "
            "those that follow each other, joined by commas"
        )
    return _checked(network, found[0])


def layers_of(network: nn.Module, path: str) -> list[nn.Module]:
    """The layers that stand at ``path`` (``find_layers``), in their order."""
    lists: list[Any] = [network.get_submodule(one) for one in path.split(",")]
    return [layer for layers in lists for layer in layers]


def why_not(network: nn.Module) -> str:
    """Why a network cannot be cut into blocks, whatever its layers; empty if nothing speaks against it."""
    name, config = type(network).__name__, getattr(network, "config", None)
    if type(network).__module__.startswith("transformers_modules"):
        return "its code came with a checkpoint from the hub; only code of installed packages is run"
    if "ControlNet" in name:
        return "a ControlNet hands every layer's answer to another network"
    if hasattr(network, "up_blocks") or "UNet" in name:
        return "a U-Net joins early layers to late ones, so no block of layers stands alone"
    if getattr(config, "is_encoder_decoder", False):
        return "every decoder layer reads the encoder's last answer; convert the encoder or the decoder alone"
    quantised = [part for part in ("hf_quantizer", "quantization_method") if getattr(network, part, None) is not None]
    weights = dict(network.named_parameters())
    whole = [key for key, p in weights.items() if not p.is_floating_point()]
    if quantised or whole:
        return f"its weights are quantised ({(quantised + whole)[0]}); load it in 32 or 16 bits"
    frozen = [key for key, p in weights.items() if not p.requires_grad]
    if frozen:
        return (
            f"{len(frozen)} of its {len(weights)} parameters are frozen ({frozen[0]}); use requires_grad_() to train "
            "them, or train adapters with the library's own tools"
        )
    return ""


def check_layer(layer: nn.Module, path: str) -> None:
    """Refuse a layer that keeps something between two calls."""
    kept = [name for name, module in layer.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    if kept:
        raise ValueError(
            f"the layers in {path} keep statistics of batches ({kept[0]}), and a block keeps parameters alone; use a "
            "network with LayerNorm, GroupNorm or RMSNorm"
        )


def _checked(network: nn.Module, path: str) -> str:
    try:
        layers: Any = network.get_submodule(path)
    except AttributeError as error:
        raise ValueError(
            f"layers={path!r} does not exist in {type(network).__name__}; it has {_listed(dict(_lists(network)))}"
        ) from error
    listed = isinstance(layers, nn.ModuleList | nn.Sequential)
    if not listed or len(layers) < 2:
        what = f"a {type(layers).__name__}" + (f" of {len(layers)}" if listed else "")
        raise ValueError(
            f"layers={path!r} is {what}; a torch.nn.ModuleList or Sequential of two layers or more is allowed"
        )
    kinds = {type(layer).__name__ for layer in layers}
    if len(kinds) > 1:
        raise ValueError(
            f"layers={path!r} holds layers of several kinds ({', '.join(sorted(kinds))}); all must be alike"
        )
    if len(set(map(id, layers))) < len(layers) or _tied(layers):
        raise ValueError(f"layers={path!r}: its layers share weights, so that no block could have its own")
    check_layer(layers[0], path)
    return path


def _tied(layers: Layers) -> bool:
    owners = [{p.data_ptr() for p in layer.parameters() if p.numel()} for layer in layers]
    return len(set[int]().union(*owners)) < sum(map(len, owners))


def _declared(network: nn.Module) -> set[str]:
    """Classes that a library declares as its repeated layers, among others."""
    found: set[str] = set()
    for module in network.modules():
        for name in DECLARATIONS:
            found |= set(getattr(module, name, None) or ())
    return found


def _lists(network: nn.Module) -> Iterator[tuple[str, Layers]]:
    """Lists of two modules or more that stand in no other such list, and hold parameters."""
    outer: list[str] = []
    module: Any
    for name, module in network.named_modules():
        if not _is_list(module, name.rpartition(".")[2]) or any(name.startswith(f"{other}.") for other in outer):
            continue
        if any(isinstance(p, torch.Tensor) for p in module.parameters()):
            outer.append(name)
            yield name, module


def _is_list(module: nn.Module, name: str) -> bool:
    if isinstance(module, nn.Sequential):
        return len(module) > 1 and name in NAMES and len(set(map(type, module))) == 1
    return isinstance(module, nn.ModuleList) and len(module) > 1


def _listed(lists: dict[str, Layers]) -> str:
    return ", ".join(f"{name} ({len(layers)} x {type(layers[0]).__name__})" for name, layers in lists.items())
