"""Plans whose blocks are aligned with a frozen network in training: what they hold, and what they make of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from oneblock.backbone import BuildBackbone
from oneblock.data import to_uint8
from oneblock.metrics.features import check_extractor, default_extractor, feature_maps, map_channels
from oneblock.plan import Plain, Plan
from oneblock.projection import Projecting
from oneblock.tasks.aligned import Aligned, Maps
from oneblock.tasks.image import ImageGeneration

ALIGN, FEATURES, LAYER = "align", "align_features", "align_layer"
"""Keys of a plan's recipe; a plan without the first aligns nothing."""


def align_settings(weight: float, features: str, layer: int, data: str) -> dict[str, Plain]:
    """What a plan says of its alignment; nothing where there is none. An unknown frozen network is a ``ValueError``,
    one that is not installed an ``ImportError``."""
    if not weight:
        return {}
    name = features or default_extractor(data)
    check_extractor(name)
    return {ALIGN: weight, FEATURES: name, LAYER: layer}


def aligned(plan: Plan) -> bool:
    """Whether the blocks of a plan are aligned in training."""
    return bool(plan.recipe.get(ALIGN))


def check_align(plan: Plan, layers: int) -> None:
    """Refuse, with a ``ValueError``, an alignment that does not fit the rest of a plan.

    Args:
        layers: of the smallest block.
    """
    if not aligned(plan):
        return
    recipe, layer = plan.recipe, cast(int, plan.recipe.get(LAYER, 0))
    wrong = {
        "latents of an autoencoder (use pixels)": bool(recipe.get("autoencoder")),
        "a network of your own": ":" in str(plan.architecture.get("name")),
        "carry (leave one of them out)": bool(recipe.get("carry")),
        "a teacher (leave one of them out)": bool(recipe.get("teacher")),
        "update='evolution' (use backpropagation)": recipe.get("update") == "evolution",
        f"align_layer={layer} (blocks have {layers} layers; 0 is the middle one)": not 0 <= layer <= layers,
    }
    found = [what for what, there in wrong.items() if there]
    if found:
        raise ValueError(f"align={recipe[ALIGN]} does not go with {', '.join(found)}")


def with_projection(plan: Plan, build: BuildBackbone) -> BuildBackbone:
    """``build`` as blocks are in training: with a projection, if the plan aligns them."""
    if not aligned(plan):
        return build
    width, features = cast(int, plan.architecture["width"]), map_channels(cast(str, plan.recipe[FEATURES]))
    layer = cast(int, plan.recipe[LAYER])
    return lambda layers: Projecting(build(layers), width, features, layer or (len(layers) + 1) // 2)


def align_images(plan: Plan, task: ImageGeneration, empty: bool = False) -> ImageGeneration | Aligned:
    """The task that a plan trains on, from that without an alignment.

    Args:
        empty: with features without content, for counting.
    """
    if not aligned(plan):
        return task
    name = cast(str, plan.recipe[FEATURES])
    channels, size, patch = (cast(int, plan.architecture[key]) for key in ("channels", "image_size", "patch"))
    maps = _Empty(map_channels(name)) if empty else _Seen(feature_maps(name))
    found = Aligned(task, maps, size // patch, cast(float, plan.recipe[ALIGN]))
    if not empty:
        found.features(torch.zeros(1, channels, size, size))  # refuses images that the frozen network does not take
    return found


@dataclass(frozen=True)
class _Seen:
    """What a frozen network sees of images, taken as bytes."""

    maps: Maps

    def __call__(self, images: Tensor) -> Tensor:
        return self.maps(to_uint8(images))


@dataclass(frozen=True)
class _Empty:
    """Features of the right shape."""

    channels: int

    def __call__(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), self.channels, 2, 2, device=images.device)
