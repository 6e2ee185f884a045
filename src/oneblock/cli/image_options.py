"""Options of image generators."""

from __future__ import annotations

from dataclasses import dataclass

from oneblock.cli.options import ModelOptions
from oneblock.data import EncodedSource
from oneblock.partition import Bands
from oneblock.plan import Plan
from oneblock.presets import ImageRecipe, image_plan
from oneblock.presets.base import IMAGE_RATE


@dataclass(frozen=True, kw_only=True)
class PictureOptions(ModelOptions):
    """The network of a task on images."""

    patch: int = 0
    """pixels along a patch (0: 4, or 2 for images below 16 pixels)"""
    flip: bool = False
    """mirror images at random"""

    def patch_of(self, image_shape: tuple[int, int, int]) -> int:
        """Pixels along a patch of images (channels, height, width)."""
        return self.patch or (2 if image_shape[1] < 16 else 4)


@dataclass(frozen=True, kw_only=True)
class ImageOptions(PictureOptions):
    """The DiT of an image generator and how its work is spent."""

    bands: Bands = "equal-mass"
    """how the noise range is cut"""
    label_dropout: float = 0.1
    """share of labels replaced by the null class, for guidance"""

    def plan(self, data: str, images: EncodedSource) -> Plan:
        """The plan of a run on ``images``."""
        shape, classes = images.shape, len(images.classes)
        return self.plan_for(shape, classes, data, images.fingerprint(), images.codec.fingerprint())

    def plan_for(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        data: str = "",
        fingerprint: str = "",
        autoencoder: str = "",
    ) -> Plan:
        """The plan of a run on images (channels, height, width), which need not be at hand."""
        recipe = ImageRecipe(
            data=data,
            fingerprint=fingerprint,
            image_shape=image_shape,
            num_classes=num_classes,
            patch=self.patch_of(image_shape),
            flip=self.flip,
            autoencoder=autoencoder,
            bands=self.bands,
            label_dropout=self.label_dropout,
        )
        return image_plan(self.filled(recipe, IMAGE_RATE))
