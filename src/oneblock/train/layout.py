"""Which tensors a checkpoint and a shard must have: those of the network that the plan builds, and no others.

A digest says that a file is as it was written, not that it belongs to this network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from oneblock.projection import PROJECTION

Wanted = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> shape and dtype."""
ROLLOUT = "rollout"
"""Before the names of the slots that a job goes on from (``train.rollout``): no tensors of its network."""
MOMENTS = ("exp_avg", "exp_avg_sq")
EIGHT_BIT = 256
"""Values that share a scale in moments of 8 bits; parameters of fewer than 16 times as many keep 32 bits
(``optim.adamw``)."""


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Those that training moves, by name: a block keeps no gradients, moments, averages or files of the others, which
    are made with it."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def checkpoint_misfit(found: Mapping[str, Tensor], parameters: Mapping[str, Tensor], optimizer: str) -> str:
    """What is wrong with the tensors of a block's checkpoint; empty if nothing is.

    Args:
        parameters: those of the network that are trained, by name; their values are not looked at, so they may be on
            the meta device.
        optimizer: how AdamW keeps its moments. A parameter that has never had a gradient has none.
    """
    wanted: Wanted = {}
    for name, p in parameters.items():
        wanted |= {f"{kind}/{name}": (tuple(p.shape), p.dtype) for kind in ("weights", "ema")}
        moments = _moments(name, p, optimizer)
        if moments.keys() & found.keys():
            wanted |= moments
    return _misfit(found, wanted)


def shard_misfit(found: Mapping[str, Tensor], parameters: Mapping[str, Tensor], prefix: str) -> str:
    """The same of a shard of a merged model, whose names begin with ``prefix``."""
    return _misfit(found, {f"{prefix}{name}": (tuple(p.shape), p.dtype) for name, p in parameters.items()})


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of those that hold a NaN or an infinity."""
    return [name for name, t in tensors if t.is_floating_point() and not bool(torch.isfinite(t).all())]


def of_training(name: str) -> bool:
    """Whether a tensor of a checkpoint is there for training alone, and no part of its network."""
    kind, _, path = name.partition("/")
    return kind == ROLLOUT or path.startswith(f"{PROJECTION}.")


def own_parameters(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters that a block's checkpoint speaks of: what its averages must agree with where the network is not at
    hand."""
    names = (name for name in found if name.startswith("weights/") and not of_training(name))
    return {name.removeprefix("weights/"): found[name] for name in names}


def _moments(name: str, p: Tensor, optimizer: str) -> Wanted:
    shape, size = tuple(p.shape), p.numel()
    if optimizer != "adamw8bit" or size < 16 * EIGHT_BIT or size % EIGHT_BIT:
        return {f"{kind}/{name}": (shape, p.dtype) for kind in MOMENTS}
    scales = (size // EIGHT_BIT,)
    return {
        f"{kind}.{part}/{name}": form
        for kind in MOMENTS
        for part, form in (
            ("codes", (shape, torch.uint8)),
            ("scale", (scales, torch.float32)),
            ("qmap", ((EIGHT_BIT,), torch.float32)),
        )
    }


def _misfit(found: Mapping[str, Tensor], wanted: Wanted) -> str:
    lacking = sorted(wanted.keys() - found.keys())
    other = sorted(name for name in found.keys() - wanted.keys() if not of_training(name))
    reasons = [f"it lacks {_some(lacking)}"] if lacking else []
    reasons += [f"only it has {_some(other)}"] if other else []
    for name in sorted(wanted.keys() & found.keys()):
        shape, dtype = wanted[name]
        tensor = found[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            reasons.append(f"its {name} is {tensor.dtype} {tuple(tensor.shape)}, that of the network {dtype} {shape}")
            break
    return "; ".join(reasons)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
