"""Image classification with the CNN of NoProp: DiffusionBlocks on the network of its rival."""

from __future__ import annotations

from dataclasses import asdict, replace

from oneblock.models.cnn import CNNConfig
from oneblock.plan import Plan
from oneblock.presets.base import ImageFacts, network_config
from oneblock.presets.classify import ClassifyRecipe, vit_config

CNN_NAME = "noprop-cnn"


def cnn_plan(recipe: ClassifyRecipe, facts: ImageFacts, filters: int = 32) -> Plan:
    """The plan of ``recipe`` with a CNN in the place of the ViT: ``depth`` networks u of the recipe's width, one layer
    each (Shing et al., "DiffusionBlocks", Table 6, https://arxiv.org/abs/2506.14202, has three in three blocks).

    Args:
        recipe: with the default ``noisy_token``, ``modulated`` and ``skip``, which a CNN does not have; ``heads`` and
            ``patch`` only have to fit.
        filters: see ``models.cnn.CNNConfig``.
    """
    for name in ("noisy_token", "modulated", "skip"):
        usual = getattr(ClassifyRecipe, name)
        if getattr(recipe, name) != usual:
            raise ValueError(f"{name}={getattr(recipe, name)!r} is a setting of the ViT; with a CNN use {usual!r}")
    plan = recipe.plan(facts)
    vit = vit_config(plan)
    config = CNNConfig(
        image_size=vit.image_size,
        channels=vit.channels,
        num_classes=vit.num_classes,
        label_width=vit.label_width,
        depth=vit.depth,
        width=vit.width,
        filters=filters,
    )
    return replace(plan, architecture={"name": CNN_NAME, **asdict(config)})


def cnn_config(plan: Plan) -> CNNConfig:
    """The CNN of a classification plan."""
    return network_config(CNNConfig, plan)
