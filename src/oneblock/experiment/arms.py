"""Ways to train that several tasks compare, as changes of a recipe; those without blocks, and experts, stand in
``presets.base``."""

from __future__ import annotations

from dataclasses import replace

from oneblock.experiment.base import AnyRecipe
from oneblock.presets.base import shallow


def blocks_alone(recipe: AnyRecipe) -> AnyRecipe:
    """Every block trained alone, from the start."""
    return replace(recipe, branch=0.0)


def branched(recipe: AnyRecipe) -> AnyRecipe:
    """Every block trained alone, from a common trunk."""
    return recipe


def ensemble(recipe: AnyRecipe) -> AnyRecipe:
    """Shallow networks that know nothing of noise, as many as there are blocks, which share the work; their
    probabilities are averaged."""
    return replace(recipe.ordinary(), branch=0.0)


def branched_ensemble(recipe: AnyRecipe) -> AnyRecipe:
    """The same from a common trunk."""
    return recipe.ordinary()


def shallow_ensemble(recipe: AnyRecipe) -> list[AnyRecipe]:
    """As many shallow networks as there are blocks, which share the budget; runs of different seeds have none in
    common."""
    count = len(recipe.layer_split)
    share = replace(shallow(recipe), budget=recipe.layer_evaluations // count)
    return [replace(share, seed=recipe.seed * count + i) for i in range(count)]
