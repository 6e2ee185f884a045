"""Options of classifiers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from oneblock.cli.image_options import PictureOptions
from oneblock.data import EncodedSource, to_float
from oneblock.models.vit import NoisyToken
from oneblock.plan import Plan
from oneblock.presets import PAPER_SETTINGS, ClassifyRecipe, classify_plan, paper_recipe
from oneblock.presets.base import CLASSIFY_RATE
from oneblock.presets.classify import LabelInput, LabelLaw
from oneblock.table import TableKind, prototypes
from oneblock.tasks.classify import LabelLoss, Weighting


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(PictureOptions):
    """The ViT of a classifier and how its work is spent."""

    settings: Literal["", "cifar100", "tiny-imagenet"] = ""
    """network, budget, rate and augmentation of the published experiment on these data, for what is not set here"""
    recipe: Literal["oneblock", "paper"] = "oneblock"
    """paper: the choices of DiffusionBlocks, whatever the options below say (docs/choose.md)"""
    table: TableKind = "simplex"
    """the vectors that stand for the classes; prototypes are class means of the training images"""
    label_width: int = 0
    """length of orthonormal and random class vectors (0: the width of the network)"""
    law: LabelLaw = "entropy"
    """noise levels by how much they leave open of the class, or EDM's log-normal"""
    inputs: LabelInput = "evidence"
    """what the network is shown of a noisy label: the evidence for each class; the same, also added to its logits by
    Bayes' rule; or the noisy vector, scaled"""
    noisy_token: NoisyToken = "separate"
    """the noisy label is a token of its own, takes the class token's place, or is left out (an ordinary ViT)"""
    modulated: bool = False
    """let the noise level modulate every layer (adaLN) instead of standing in the noisy token"""
    weighting: Weighting = "none"
    """of the losses of one batch: none, EDM's, EDM's up to 20, or EDM's with mean 1 in every band"""
    loss: LabelLoss = "cross-entropy"
    """cross-entropy of the logits, or squared distance to the class vector"""
    label_smoothing: float = 0.0
    """of the cross-entropy"""
    crop: int = 0
    """shift training images at random by up to so many pixels"""
    operations: int = 0
    """random changes of each training image (RandAugment; 2 is usual)"""
    magnitude: int = 9
    """their strength, 1 to 29"""

    def plan(self, data: str, images: EncodedSource) -> Plan:
        """The plan of a run on ``images``."""
        return classify_plan(self.recipe_on(data, images))

    def recipe_on(self, data: str, images: EncodedSource) -> ClassifyRecipe:
        """The recipe of a run on ``images``."""
        rows: tuple[float, ...] = ()
        if self.table == "prototypes":
            known = images.first()
            means = prototypes(to_float(known.images).flatten(1), known.labels, len(images.classes))
            rows = tuple(means.flatten().tolist())
        return self.recipe_for(images.shape, len(images.classes), data, images.fingerprint(), rows)

    def plan_for(self, image_shape: tuple[int, int, int], num_classes: int) -> Plan:
        """The plan of a run on images (channels, height, width) that are not at hand."""
        return classify_plan(self.recipe_for(image_shape, num_classes))

    def recipe_for(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        data: str = "",
        fingerprint: str = "",
        rows: tuple[float, ...] = (),
    ) -> ClassifyRecipe:
        """The recipe of a run on images (channels, height, width), which need not be at hand."""
        if self.settings:
            usual, published = ClassifyOptions(), PAPER_SETTINGS[self.settings]
            unset = {name: value for name, value in published.items() if getattr(self, name) == getattr(usual, name)}
            settled: ClassifyOptions = replace(self, settings="", **cast(dict[str, Any], unset))
            return settled.recipe_for(image_shape, num_classes, data, fingerprint, rows)
        recipe = ClassifyRecipe(
            data=data,
            fingerprint=fingerprint,
            image_shape=image_shape,
            num_classes=num_classes,
            patch=self.patch_of(image_shape),
            flip=self.flip,
            table=self.table,
            prototypes=rows,
            label_width=self.label_width,
            law=self.law,
            inputs=self.inputs,
            noisy_token=self.noisy_token,
            modulated=self.modulated,
            weighting=self.weighting,
            loss=self.loss,
            label_smoothing=self.label_smoothing,
            crop=self.crop,
            operations=self.operations,
            magnitude=self.magnitude,
        )
        filled = self.filled(recipe, CLASSIFY_RATE)
        return paper_recipe(filled) if self.recipe == "paper" else filled
