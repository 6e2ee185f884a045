"""Plans for counting: of data that are not at hand.

They have the shapes of a plan that trains, and so its bytes and operations. What costs nothing is left out: the noise
law and the vectors that stand for classes or symbols, which would have to be computed or learned from the data.
"""

from __future__ import annotations

import math
from dataclasses import replace

from oneblock.backbone import BuildBackbone
from oneblock.data import Bytes, vocabulary_size
from oneblock.plan import Plan
from oneblock.presets.base import ImageFacts, OwnBackbone, Recipe, TextFacts, TextRecipe
from oneblock.presets.causal import CausalRecipe
from oneblock.presets.classify import ClassifyRecipe
from oneblock.presets.tasks import own_backbone
from oneblock.table import check_cooccurrence


def counted_plan(recipe: Recipe, images: ImageFacts, backbone: BuildBackbone | None = None) -> Plan:
    """The plan of a recipe, for counting.

    Args:
        images: what must be known of images; of a text nothing.
        backbone: the user's own network in the place of the task's.

    Raises:
        ValueError: anything that does not fit together.
    """
    own = None if backbone is None else own_backbone(backbone)
    if isinstance(recipe, CausalRecipe):
        return _causal(recipe, own)
    if isinstance(recipe, TextRecipe):
        plan = recipe.plan(TextFacts(vocabulary=Bytes()), own)
        return replace(plan, architecture={**plan.architecture, "vocabulary": vocabulary_size(recipe.vocabulary)})
    if isinstance(recipe, ClassifyRecipe):
        return _classify(recipe.settled(), images).plan(images, own)
    return recipe.plan(images, own)


def _causal(recipe: CausalRecipe, own: OwnBackbone | None) -> Plan:
    symbols = vocabulary_size(recipe.vocabulary)
    width = recipe.label_width or recipe.dimensions[1]
    if recipe.table == "simplex":
        width = symbols
    elif recipe.table == "co-occurrence":
        width = recipe.label_width or min(symbols, width)
        check_cooccurrence(width, symbols)
    made = replace(recipe, table="random", label_width=width, law="log-normal").plan(TextFacts(vocabulary=Bytes()), own)
    shown = {} if own else {"label_width": width if recipe.inputs == "scaled" else symbols}
    return replace(made, architecture={**made.architecture, "vocabulary": symbols, **shown})


def _classify(recipe: ClassifyRecipe, images: ImageFacts) -> ClassifyRecipe:
    """Prototypes are as long as the images have numbers."""
    if recipe.table == "prototypes":
        recipe = replace(recipe, table="random", label_width=math.prod(images.shape))
    return replace(recipe, law="log-normal")
