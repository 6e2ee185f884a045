"""Recipes for a network that is the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from oneblock.backbone import BuildBackbone
from oneblock.blockwise import Blockwise
from oneblock.convert.converted import Converted
from oneblock.plan import Plan
from oneblock.presets.base import AnyRecipe
from oneblock.presets.tasks import blockwise


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


def check_frozen(plan: Plan, backbone: BuildBackbone) -> None:
    """Refuse blocks that exchange trained weights, which stand beside other frozen ones in each: where all start as
    copies of the trunk, or share stem and head. Blocks are built one after the other, where there is anything to look
    at.

    Raises:
        ValueError: names a parameter that differs.
    """
    branch = plan.recipe["branch"]
    if not branch and plan.shared == "private":
        return
    build = blockwise(plan, backbone)
    first = _frozen(build, 0, bool(branch))
    for block in range(1, plan.num_blocks) if first else ():
        other = _frozen(build, block, bool(branch))
        differ = [name for name in {**first, **other} if not _equal(first.get(name), other.get(name))]
        if differ:
            asked = f"branch={branch}" if branch else f"shared={plan.shared!r}"
            raise ValueError(
                f"{asked} hands trained weights from block to block, but the frozen ones beside them differ "
                f"({differ[0]} of blocks 0 and {block}); use branch=0 and shared='private', or the same in all blocks"
            )


def _frozen(build: Blockwise, block: int, layers: bool) -> dict[str, Tensor]:
    """Frozen parameters of a block, those of its ``layers`` by their place in it."""
    made = build.denoiser(block).backbone
    places = {str(layer): str(place) for place, layer in enumerate(build.plan.layer_range(block))}
    found: dict[str, Tensor] = {}
    for name, p in made.named_parameters(remove_duplicate=False):
        part, _, rest = name.partition(".")
        index, _, path = rest.partition(".")
        if p.requires_grad or (part == "layers" and not layers):
            continue
        found[f"layers.{places[index]}.{path}" if part == "layers" else name] = p
    return found


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and (one.data_ptr() == other.data_ptr() or one.equal(other))
