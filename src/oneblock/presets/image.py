"""Image generation with a DiT."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import torch

from oneblock.condition import ClassIds
from oneblock.data import Augment, random_flip
from oneblock.models.dit import DiTConfig
from oneblock.noise import LogNormal
from oneblock.partition import Bands
from oneblock.plan import Plan
from oneblock.presets.base import PictureRecipe, network_config
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.image import ImageGeneration


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(PictureRecipe):
    """What a plan for image generation needs besides the data's shape.

    Args:
        autoencoder: fingerprint of the frozen autoencoder whose latents are denoised; empty for pixels.
        bands: bands of equal mass, or of equal length in log sigma.
        label_dropout: share of labels replaced by the null class.
    """

    autoencoder: str = ""
    bands: Bands = "equal-mass"
    label_dropout: float = 0.1


def image_plan(recipe: ImageRecipe) -> Plan:
    """The plan of an image run; ``ValueError`` on anything that does not fit together."""
    depth, width, heads = recipe.dimensions
    config = DiTConfig(
        image_size=recipe.image_size,
        channels=recipe.image_shape[0],
        num_classes=recipe.num_classes,
        depth=depth,
        width=width,
        heads=heads,
        patch=recipe.patch,
    )
    return recipe.plan(
        "image",
        {"name": "dit", **asdict(config)},
        LogNormal(),
        recipe.bands,
        {"flip": recipe.flip, "autoencoder": recipe.autoencoder, "label_dropout": recipe.label_dropout},
    )


def dit_config(plan: Plan) -> DiTConfig:
    """The DiT of an image plan."""
    return network_config(DiTConfig, plan)


def image_task(plan: Plan) -> ImageGeneration:
    """The task of an image plan."""
    if plan.task != "image":
        raise ValueError(f"task={plan.task!r}: this plan is not for images; use a plan with task 'image'")
    classes, dropout = plan.architecture["num_classes"], plan.recipe["label_dropout"]
    return ImageGeneration(plan.precondition, cast(int, classes), cast(float, dropout))


def image_shape(plan: Plan) -> tuple[int, int, int]:
    """(channels, height, width) of a plan's images, or of what it denoises of them."""
    size = cast(int, plan.architecture["image_size"])
    return cast(int, plan.architecture["channels"]), size, size


def image_augment(plan: Plan) -> Augment | None:
    """How an image plan changes its training images."""
    return random_flip if plan.recipe.get("flip") else None


def empty_images(plan: Plan, count: int, block: int | None) -> Batch:
    """A batch of ``count`` images without content."""
    images, z = (torch.empty(count, *image_shape(plan)) for _ in range(2))
    return Batch(Noised(z, torch.ones(count), block), images, ClassIds(torch.zeros(count, dtype=torch.long)))
