"""Image classification with a ViT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor

from oneblock.calibrate import entropy_law
from oneblock.condition import Frames
from oneblock.data import Augment, Augmentation
from oneblock.models.vit import NoisyToken, ViTConfig
from oneblock.noise import LogNormal, Tabulated
from oneblock.plan import Plain, Plan
from oneblock.precondition import Evidence, Frame, Logits
from oneblock.presets.base import ImageFacts, OwnBackbone, PictureRecipe, network_config, square, training_bands
from oneblock.presets.image import image_shape, own_architecture
from oneblock.presets.names import class_setting, limit_setting
from oneblock.table import TableKind, normalised, orthonormal, random_unit, simplex
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.classify import Classification, LabelLoss, Weighting, mean_weight

LabelLaw = Literal["entropy", "log-normal"]
LabelInput = Literal["evidence", "bayes", "scaled"]


@dataclass(frozen=True, kw_only=True)
class ClassifyRecipe(PictureRecipe):
    """The ViT of a classifier and how its work is spent."""

    task: ClassVar[str] = "classify"
    rate_at_width_1: ClassVar[float] = 0.128

    settings: Literal["", "cifar100", "tiny-imagenet"] = ""
    """take network, budget, rate and augmentation from the published experiment on these data, unless set here (a value
    that is equal to the usual one does not count as set)"""
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
    skip: bool = False
    """the classifier reads c_skip z + c_out token, as the released code of DiffusionBlocks does; needs --inputs scaled
    and class vectors of the network's width"""
    weighting: Weighting = "none"
    """weights of the losses of one batch: none, EDM's, EDM's up to 20, or EDM's with mean 1 in every band"""
    loss: LabelLoss = "cross-entropy"
    """cross-entropy of the logits, or squared distance to the class vector"""
    label_smoothing: float = 0.0
    """label smoothing of the cross-entropy"""
    crop: int = 0
    """shift training images at random by up to so many pixels"""
    operations: int = 0
    """random changes of each training image (RandAugment; 2 is usual)"""
    magnitude: int = 9
    """strength of these changes, 1 to 29"""

    def ordinary(self) -> Self:
        return replace(self, noisy_token="none", modulated=False, recipe="oneblock")

    def settled(self) -> Self:
        """The recipe with the published settings and the paper's choices in place, where they are asked for."""
        found = self
        if self.settings:
            usual, published = type(self)(), PAPER_SETTINGS[self.settings]
            unset = {name: value for name, value in published.items() if getattr(self, name) == getattr(usual, name)}
            found = replace(self, settings="", **cast(dict[str, Any], unset))
        return replace(found, recipe="oneblock", **PAPER_CHOICES) if found.recipe == "paper" else found

    @property
    def dimensions(self) -> tuple[int, int, int]:
        if self.settings or self.recipe == "paper":
            return self.settled().dimensions
        return super().dimensions

    def plan(self, facts: ImageFacts, backbone: OwnBackbone | None = None) -> Plan:
        recipe = self.settled()
        if not facts.num_classes:
            raise ValueError("a classifier needs labels, and the data have none; give data whose items are (x, label)")
        _, width, _ = recipe.dimensions
        table = _table(recipe.table, facts.num_classes, recipe.label_width or width, recipe.seed, facts.rows)
        law = table_law(table) if recipe.law == "entropy" else LogNormal()
        if backbone is None:
            architecture = recipe._vit(facts, table)
        else:
            architecture = own_architecture(
                backbone, facts.shape, {"num_classes": facts.num_classes}, recipe.dimensions[0]
            )
        settings: dict[str, Plain] = {
            "table": recipe.table,
            "table_width": table.shape[1],
            "prototypes": list(facts.rows),
            "inputs": recipe.inputs,
            "weighting": recipe.weighting,
            "loss": recipe.loss,
            "label_smoothing": recipe.label_smoothing,
            "flip": recipe.flip,
            "crop": recipe.crop,
            "operations": recipe.operations,
            "magnitude": recipe.magnitude,
            "autoencoder": "",
            **class_setting(facts),
            **limit_setting(facts),
        }
        return recipe._plan(facts, architecture, law, "equal-mass", settings)

    def _vit(self, facts: ImageFacts, table: Tensor) -> dict[str, Plain]:
        depth, width, heads = self.dimensions
        channels, side = square(facts)
        config = ViTConfig(
            image_size=side,
            channels=channels,
            num_classes=facts.num_classes,
            label_width=table.shape[1] if self.inputs == "scaled" else facts.num_classes,
            depth=depth,
            width=width,
            heads=heads,
            patch=self.patch_of(facts.shape),
            noisy_token=self.noisy_token,
            modulated=self.modulated,
            skip_sigma_data=self.sigma_data if self.skip else 0.0,
        )
        return {"name": "vit", **asdict(config)}


# The choices of DiffusionBlocks for classification (Shing et al., Section 3 and Appendix E.1,
# https://arxiv.org/abs/2506.14202, and the released code where the paper is silent). Class vectors are random unit
# vectors of the network's width and stay as they are; the released code trains them.
PAPER_CHOICES: dict[str, Any] = {
    "table": "random",
    "label_width": 0,
    "law": "log-normal",
    "inputs": "scaled",
    "modulated": True,
    "skip": True,
    "weighting": "edm",
    "loss": "cross-entropy",
    "sigma_data": 0.5,
    "overlap": 0.05,
    "shared": "joint",
    "branch": 0.0,
}

# What Shing et al. train with in Table 1 (Appendix E.1) and Table 9, https://arxiv.org/abs/2506.14202, as far as it is
# given; budgets are their epochs of end-to-end training in layer evaluations. Their dropout of 0.1 is left out.
PAPER_SETTINGS: dict[str, dict[str, int | float | str | bool]] = {
    "cifar100": {
        "depth": 12,
        "width": 128,
        "heads": 4,
        "patch": 4,
        "blocks": 3,
        "overlap": 0.05,
        "budget": str(500 * 50_000 * 12),
        "batch_size": 128,
        "block_batch_size": 128,
        "learning_rate": 5e-4,
        "warmup": 10 / 500,
        "flip": True,
        "operations": 2,
        "magnitude": 9,
    },
    "tiny-imagenet": {
        "depth": 12,
        "width": 768,
        "heads": 12,
        "patch": 4,
        "blocks": 2,
        "overlap": 0.05,
        "budget": str(100 * 100_000 * 12),
        "batch_size": 256,
        "block_batch_size": 256,
        "learning_rate": 1e-4,
        "flip": True,
        "operations": 2,
        "magnitude": 9,
    },
}


def table_law(table: Tensor) -> Tabulated:
    """``entropy_law`` of a table (k, d), once for all plans that have it: a comparison makes dozens."""
    return _law(tuple(map(tuple, table.tolist())))


@cache
def _law(rows: tuple[tuple[float, ...], ...]) -> Tabulated:
    return entropy_law(torch.tensor(rows))


def vit_config(plan: Plan) -> ViTConfig:
    """The ViT of a classification plan."""
    return network_config(ViTConfig, plan)


def label_table(plan: Plan) -> Tensor:
    """(k, d): the rows that stand for the classes of a classification plan."""
    recipe = plan.recipe
    return _table(
        cast(TableKind, recipe["table"]),
        cast(int, plan.architecture["num_classes"]),
        cast(int, recipe["table_width"]),
        plan.seed,
        tuple(cast(list[float], recipe["prototypes"])),
    )


def _table(kind: TableKind, num_classes: int, width: int, seed: int, values: tuple[float, ...]) -> Tensor:
    if kind == "simplex":
        return simplex(num_classes)
    if kind == "orthonormal":
        return orthonormal(num_classes, max(width, num_classes), seed)
    if kind == "random":
        return random_unit(num_classes, width, seed)
    if not values or len(values) % num_classes:
        raise ValueError(
            f"prototypes={len(values)} numbers do not make {num_classes} rows; give those of oneblock.table.prototypes"
        )
    return normalised(torch.tensor(values).view(num_classes, -1))


def label_frame(plan: Plan, table: Tensor) -> Frame:
    """What the blocks of a plan are shown of noisy rows of ``table``, which is the plan's: of labels, or of tokens."""
    inputs = plan.recipe["inputs"]
    return Logits(plan.precondition) if inputs == "scaled" else Evidence(table, skip=inputs == "bayes")


def classify_task(plan: Plan) -> Classification:
    """The task of a classification plan."""
    if plan.task != "classify":
        raise ValueError(f"task={plan.task!r}: this plan is not for classification; use a plan with task 'classify'")
    means = {b: mean_weight(plan.partition, band, plan.precondition) for b, band in training_bands(plan).items()}
    return _task(plan, label_table(plan), means)


def empty_task(plan: Plan) -> Classification:
    """The task with tables without content, for counting."""
    means = dict.fromkeys([None, *range(plan.num_blocks)], 1.0)
    return _task(plan, empty_table(plan), means)


def empty_table(plan: Plan) -> Tensor:
    return torch.empty(cast(int, plan.architecture["num_classes"]), cast(int, plan.recipe["table_width"]))


def _task(plan: Plan, table: Tensor, means: Mapping[int | None, float]) -> Classification:
    weighting, loss = cast(Weighting, plan.recipe["weighting"]), cast(LabelLoss, plan.recipe["loss"])
    return Classification(table, plan.precondition, weighting, loss, cast(float, plan.recipe["label_smoothing"]), means)


def label_augment(plan: Plan) -> Augment | None:
    """How a classification plan changes its training images."""
    names = ("flip", "crop", "operations", "magnitude")
    augment = cast(Callable[..., Augmentation], Augmentation)(**{name: plan.recipe[name] for name in names})
    return augment if augment.flip or augment.crop or augment.operations else None


def empty_labels(plan: Plan, count: int, block: int | None) -> Batch:
    """A batch of ``count`` labelled images without content."""
    noised = Noised(torch.empty(count, cast(int, plan.recipe["table_width"])), torch.ones(count), block)
    return Batch(noised, torch.zeros(count, dtype=torch.long), Frames(torch.empty(count, *image_shape(plan))))
