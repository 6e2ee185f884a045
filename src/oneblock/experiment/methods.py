"""Methods of image generation by name, each a change of a recipe; several make one, as ``combined("flow", "ddt")``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from oneblock.experiment.arms import blocks_alone, branched
from oneblock.presets.base import end_to_end, experts, shallow
from oneblock.presets.image import ImageRecipe

Method = Callable[[ImageRecipe], ImageRecipe]
SHIFT = 3.0
"""Of the time of the flow that is shifted (Esser et al., Section 5.3.2, https://arxiv.org/abs/2403.03206)."""


def changed(**settings: Any) -> Method:
    """The recipe with other ``settings``."""
    return lambda recipe: replace(recipe, **settings)


METHODS: Mapping[str, Method] = {
    "edm": changed(objective="edm"),
    "flow": changed(objective="flow"),
    "flow-shifted": changed(objective="flow", shift=SHIFT),
    "x": changed(objective="x"),
    "ddt": changed(head="ddt"),
    "pca": changed(codec="pca:50%"),
    "end-to-end": end_to_end,
    "shallow": shallow,
    "experts": experts,
    "blockwise": blocks_alone,
    "branched": branched,
}
"""Name -> what it changes. Those of objective, head and codec leave the blocks as they are, and the last five nothing
but them, so that one of each can be combined."""


def combined(*names: str) -> Method:
    """The method of several ``names``, applied in this order.

    Raises:
        ValueError: a name that does not exist.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"method {unknown[0]!r} does not exist; use some of {', '.join(METHODS)}")

    def changes(recipe: ImageRecipe) -> ImageRecipe:
        for name in names:
            recipe = METHODS[name](recipe)
        return recipe

    return changes
