"""Masked diffusion of text with an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, cast

import torch

from oneblock.condition import Nothing
from oneblock.data import Vocabulary, vocabulary_from_dict
from oneblock.models.encoder import EncoderConfig
from oneblock.noise import CosineMask, LinearMask
from oneblock.plan import Plain, Plan
from oneblock.presets.base import Recipe, network_config, training_bands
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.masked import MaskedText

Schedule = Literal["linear", "cosine"]
MaskedWeighting = Literal["bound", "even"]


@dataclass(frozen=True, kw_only=True)
class MaskedRecipe(Recipe):
    """What a plan for masked text needs.

    Args:
        vocabulary: of the tokens; the plan holds it.
        length: tokens of a training window.
        kv_heads: heads of keys and values; 0 is ``heads``.
        schedule: of the masked share over time.
        weighting: of a masked token in training: that of the bound, or the same for all tokens of a band.
    """

    vocabulary: Vocabulary
    length: int
    kv_heads: int = 0
    schedule: Schedule = "linear"
    weighting: MaskedWeighting = "bound"


def masked_plan(recipe: MaskedRecipe) -> Plan:
    """The plan of a run on masked text; ``ValueError`` on anything that does not fit together."""
    depth, width, heads = recipe.dimensions
    config = EncoderConfig(
        vocabulary=recipe.vocabulary.size,
        context=recipe.length,
        depth=depth,
        width=width,
        heads=heads,
        kv_heads=recipe.kv_heads,
    )
    law = LinearMask() if recipe.schedule == "linear" else CosineMask()
    settings = dict(cast(Mapping[str, Plain], recipe.vocabulary.to_dict()))
    if recipe.weighting != "bound":  # plans that were made before there was a choice stay what they are
        settings["weighting"] = recipe.weighting
    return recipe.plan("masked-text", {"name": "encoder", **asdict(config)}, law, "equal-mass", settings)


def encoder_config(plan: Plan) -> EncoderConfig:
    """The encoder of a plan for masked text."""
    return network_config(EncoderConfig, plan)


def is_text(plan: Plan) -> bool:
    """Whether the samples of a plan are windows of text, whatever is learned of them."""
    return "vocabulary" in plan.recipe


def plan_length(plan: Plan) -> int:
    """Tokens of a training window of a plan for text."""
    return cast(int, plan.architecture["context"])


def plan_vocabulary(plan: Plan) -> Vocabulary:
    """The vocabulary that a plan for text holds."""
    values = {key: plan.recipe[key] for key in ("vocabulary", "merges") if key in plan.recipe}
    return vocabulary_from_dict(values)


def masked_task(plan: Plan) -> MaskedText:
    """The task of a plan for masked text."""
    if plan.task != "masked-text":
        raise ValueError(f"task={plan.task!r}: this plan is not for masked text; use a plan with task 'masked-text'")
    law, shares = plan.partition.law, None
    if plan.recipe.get("weighting") == "even":
        shares = {b: float(law.cdf(torch.tensor(band)).mean()) for b, band in training_bands(plan).items()}
    return MaskedText(law, encoder_config(plan).vocabulary, shares)


def empty_masked_task(plan: Plan) -> MaskedText:
    """The task with shares without content, for counting."""
    shares = dict.fromkeys([None, *range(plan.num_blocks)], 1.0) if plan.recipe.get("weighting") == "even" else None
    return MaskedText(plan.partition.law, encoder_config(plan).vocabulary, shares)


def empty_masked(plan: Plan, count: int, block: int | None) -> Batch:
    """A batch of ``count`` windows without content."""
    tokens = torch.zeros(count, plan_length(plan), dtype=torch.long)
    return Batch(Noised(tokens.clone(), torch.ones(count), block), tokens, Nothing(count))
