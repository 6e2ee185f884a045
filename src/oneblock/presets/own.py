"""Recipes for a network that is the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oneblock.backbone import BuildBackbone
from oneblock.convert.converted import Converted
from oneblock.plan import Plan
from oneblock.presets.base import AnyRecipe


def sized(recipe: AnyRecipe, backbone: BuildBackbone | None) -> AnyRecipe:
    """The recipe with the depth of a converted network, and its width where that is known; others stay as they are."""
    if not isinstance(backbone, Converted):
        return recipe
    return replace(recipe, depth=backbone.depth, width=backbone.width or recipe.width)


def alike(layers: Sequence[int], backbone: BuildBackbone | None) -> object:
    """Equal for blocks whose layers cost the same: in a network of ours all layers do, in others the same ones."""
    if isinstance(backbone, Converted):
        return tuple(backbone.picks[i] for i in layers)
    return len(layers) if backbone is None else tuple(layers)


def check_trunk(plan: Plan, backbone: BuildBackbone) -> None:
    """Refuse a trunk of adapters that blocks of other frozen layers would start from, with a ``ValueError``."""
    branch = plan.recipe["branch"]
    if not branch or not isinstance(backbone, Converted) or not backbone.frozen:
        return
    if len({alike(plan.layer_range(block), backbone) for block in range(plan.num_blocks)}) > 1:
        raise ValueError(
            f"branch={branch} hands the adapters of one block to all, but they stand beside other layers there; use "
            "branch=0, or give every block the same layers (pick)"
        )
