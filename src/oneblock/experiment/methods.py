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

ALIGN = 0.5
"""Weight of the alignment (Yu et al., Section 4.1, https://arxiv.org/abs/2410.06940)."""


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
    "aligned": changed(align=ALIGN),
    "meanflow": changed(objective="meanflow"),
    "end-to-end": end_to_end,
    "shallow": shallow,
    "experts": experts,
    "blockwise": blocks_alone,
    "branched": branched,
}
"""Name -> what it changes. The last five change the blocks alone, and those before leave them as they are."""


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
