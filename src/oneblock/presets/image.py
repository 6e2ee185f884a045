"""Image generation with a DiT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Literal, Self, cast

import torch

from oneblock.checks import check_count, check_number
from oneblock.condition import Until
from oneblock.data import Augment, Batches, EncodedSource, captions_of, random_flip
from oneblock.data.pca import PatchPCA
from oneblock.models.dit import DiTConfig
from oneblock.plan import Plain, Plan
from oneblock.precondition import Weighted
from oneblock.presets.align import align_images, align_settings
from oneblock.presets.bands import GivenBands, cuts, is_rule
from oneblock.presets.base import ImageFacts, OwnBackbone, PictureRecipe, network_config, square, training_bands
from oneblock.presets.captions import caption_settings, caption_shape, empty_captions, is_captioned, told_captions
from oneblock.presets.codec import PIXELS, codec_settings, fitted_codec, fitted_in, num_components, plan_codec
from oneblock.presets.frames import check_cuts, cut_law, frame_values, kept_frame, recipe_values
from oneblock.presets.names import class_setting, limit_setting
from oneblock.presets.objective import (
    FLOW_SCALE,
    MEANFLOW,
    PREDICTS,
    FlowTime,
    Objective,
    objective_frame,
    objective_settings,
)
from oneblock.presets.relay import CarryFrom, carry_images, carry_settings, empty_earlier
from oneblock.schedule import frame_from_dict
from oneblock.tasks.base import Batch, Noised, Task
from oneblock.tasks.image import ImageGeneration
from oneblock.tasks.meanflow import MeanFlow
from oneblock.train.levels import WHOLE_SHARE

Head = Literal["linear", "ddt"]


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(FlowTime, PictureRecipe):
    """The DiT of an image generator and how its work is spent.

    With a backbone of one's own, targets may be of any shape: images, vectors, sequences.
    """

    task: ClassVar[str] = "image"
    rate_at_width_1: ClassVar[float] = 0.4

    objective: Objective = "edm"
    """what the network predicts: what EDM's preconditioning asks for; the velocity of a flow (flow); the clean image at
    a flow's time, with the loss of the velocity (x); or the mean velocity of a step (meanflow), for --sampler jump with
    as few steps as there are blocks"""
    head: Head = "linear"
    """what follows on the layers of a block: a norm and a linear map, or a decoder of the noisy patches (ddt), which
    each block has for itself"""
    head_layers: int = 2
    """layers of the decoder, with --head ddt; their work is counted too"""
    head_width: int = 0
    """width of the decoder (0: that of the layers before)"""
    codec: str = PIXELS
    """what is denoised: pixels, or the first principal components of every patch of --patch pixels, fitted on the
    training images: K of them (pca:4), or a share of a patch's values (pca:50%); a patch is then a token"""
    align: float = 0.0
    """weight of an auxiliary loss in training: hidden tokens are aligned with what a frozen network sees in the clean
    image (0: none; REPA has 0.5); the projection between the two is no part of the model"""
    align_features: str = ""
    """the frozen network: digits-cnn, fashion-mnist-cnn or efficientnet-lite0 (default: what fits the data)"""
    align_layer: int = 0
    """after how many of a block's layers its tokens are aligned (0: half of them)"""
    bands: GivenBands = "equal-mass"
    """how the noise range is cut: by a rule; at B - 1 noise levels, noisiest first (2.5,0.4); or as a file says: a JSON
    list, one number a line, or a plan.json"""
    whole_share: float = 0.0
    """share of the noise levels that a block draws from the whole range instead of its band"""
    label_dropout: float = 0.1
    """share of labels replaced by the null class, for guidance"""
    conditional: bool = True
    """whether the network is told the class or caption of an image; False for images without labels"""
    caption_tokens: int = 0
    """words of a caption that the network reads, of images with captions; what is behind them is cut (0: as many as the
    longest caption has, within reason)"""
    carry: float = 0.0
    """share of the samples of a training step that get a state: the hidden tokens that a pass at a noisier version of
    them leaves, as the call before does in sampling (0: nothing is carried)"""
    carry_from: CarryFrom = "noisier"
    """what that pass has seen: a noisier version, or the same"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_time()
        self.refuse_time(self.objective)
        self._check_head()
        _ = num_components(self.codec)
        check_number("align", self.align, least=0)
        check_count("align_layer", self.align_layer, 0)
        for name in ("align_features", "align_layer"):
            if not self.align and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name}={getattr(self, name)!r} goes with align above 0; leave it out")
        check_number("label_dropout", self.label_dropout, least=0, below=1)
        check_number("whole_share", self.whole_share, least=0, below=1)
        check_number("carry", self.carry, least=0, most=1)
        check_count("caption_tokens", self.caption_tokens, least=0)

    def _refuse_beside_backbone(self, name: str, asked: bool) -> None:
        if asked:
            raise ValueError(f"{name}={getattr(self, name)!r} is for the usual network; leave it out beside a backbone")

    def _check_head(self) -> None:
        check_count("head_layers", self.head_layers)
        check_count("head_width", self.head_width, 0)
        for name in ("head_layers", "head_width"):
            value = getattr(self, name)
            if self.head == "linear" and value != getattr(type(self), name):
                raise ValueError(f"{name}={value} goes with head='ddt'; leave it out")

    def one_block(self) -> Self:
        bands = self.bands if is_rule(self.bands) else type(self).bands
        return replace(super().one_block(), whole_share=0.0, bands=bands)

    def of_several(self) -> str:
        share = f"whole_share={self.whole_share}" if self.whole_share else ""
        bands = "" if is_rule(self.bands) else f"bands={self.bands!r}"
        return super().of_several() or share or bands

    def plan(self, facts: ImageFacts, backbone: OwnBackbone | None = None) -> Plan:
        captions = facts.captions if self.conditional else None
        if self.conditional and not facts.num_classes and captions is None:
            raise ValueError(
                "conditional=True tells the network a class, but the data have no labels; use conditional=False, or "
                "data whose items are (x, label)"
            )
        if self.caption_tokens and captions is None:
            raise ValueError(
                f"caption_tokens={self.caption_tokens} is for data with captions, and these have none, or the network "
                "is told nothing; leave it out"
            )
        told = {"num_classes": facts.num_classes if self.conditional and captions is None else 0}
        told |= caption_shape(captions, self.caption_tokens)
        codec = self._codec(facts)
        facts = facts if codec is None else replace(facts, shape=codec.encoded_shape(facts.shape))
        settings: dict[str, Plain] = {
            "flip": self.flip,
            "autoencoder": facts.autoencoder,
            "label_dropout": self.label_dropout,
            **objective_settings(self.objective, self.shift),
            **codec_settings(codec),
            **align_settings(self.align, self.align_features, self.align_layer, facts.data),
            **(class_setting(facts) if self.conditional and captions is None else {}),
            **caption_settings(captions),
            **limit_setting(facts),
            **({WHOLE_SHARE: self.whole_share} if self.whole_share else {}),
            **carry_settings(self.carry, self.carry_from),
        }
        if backbone is None:
            config = self._dit(facts, told)
            architecture = {"name": "dit", **written(config)}
            settings |= {"end_layers": config.end_layers} if config.end_layers else {}
        else:
            for name in ("head", "align"):
                self._refuse_beside_backbone(name, getattr(self, name) != getattr(type(self), name))
            self._refuse_beside_backbone("objective", self.objective == MEANFLOW)
            architecture = own_architecture(backbone, facts.shape, told, self.dimensions[0])
        return self._kept(facts, architecture, settings, backbone)

    def _codec(self, facts: ImageFacts) -> PatchPCA | None:
        """The fitted codec, if there is one."""
        if self.codec == PIXELS:
            return None
        if len(facts.shape) != 3:
            raise ValueError(
                f"codec={self.codec!r} encodes images (channels, height, width), but samples have shape {facts.shape}; "
                "leave it out"
            )
        if facts.autoencoder:
            raise ValueError(f"codec={self.codec!r} encodes pixels, but the data are latents; leave one of them out")
        if facts.fingerprint and facts.fit is None:
            raise ValueError(f"codec={self.codec!r} is fitted on training images, which these facts do not give")
        return fitted_codec(self.codec, facts.shape, self.patch_of(facts.shape), facts.fit)

    def _kept(
        self,
        facts: ImageFacts,
        architecture: dict[str, Plain],
        settings: dict[str, Plain],
        backbone: OwnBackbone | None,
    ) -> Plan:
        """The plan, inside the schedule of a network that keeps its own."""
        law, bands = self.law(self.objective), cuts(self.bands)
        frame = kept_frame({} if backbone is None else backbone.frame, facts.autoencoder)
        if not frame:
            return self._plan(facts, architecture, law, bands, settings)
        if self.objective in PREDICTS:
            raise ValueError(
                f"objective={self.objective!r} does not fit a network that keeps its own schedule, {frame['frame']}; "
                "leave it out"
            )
        schedule = frame_from_dict(frame)
        law = cut_law(law, schedule.low, schedule.high, "the network's schedule")
        check_cuts(bands, schedule, law)
        kept, sigma_data = recipe_values(frame, self.sigma_data, type(self).sigma_data)
        recipe = replace(self, sigma_data=sigma_data)
        return recipe._plan(facts, architecture, law, bands, {**settings, **kept})

    def _dit(self, facts: ImageFacts, told: Mapping[str, int]) -> DiTConfig:
        depth, width, heads = self.dimensions
        channels, side = square(facts)
        decoded = self.head == "ddt"
        return DiTConfig(
            image_size=side,
            channels=channels,
            **told,
            depth=depth,
            width=width,
            heads=heads,
            patch=self.patch_of(facts.shape) if self.codec == PIXELS else 1,
            noise_scale=FLOW_SCALE if self.objective in PREDICTS else DiTConfig.noise_scale,
            jumps=self.objective == MEANFLOW,
            head_layers=self.head_layers if decoded else 0,
            head_width=self.head_width if decoded else 0,
        )


def written(config: DiTConfig) -> dict[str, Plain]:
    """What a plan says of a DiT: a setting that plans of earlier versions do not have only where it is not as usual."""
    always = {one.name for one in fields(config) if one.default is MISSING} | {"mlp_ratio"}
    usual = {one.name: one.default for one in fields(config)}
    return {name: value for name, value in asdict(config).items() if name in always or value != usual[name]}


def own_architecture(
    backbone: OwnBackbone, shape: tuple[int, ...], told: Mapping[str, int], depth: int
) -> dict[str, Plain]:
    """What a plan says of a user's own network for images; ``told`` of its classes or captions."""
    return {"name": backbone.name, "shape": list(shape), **told, "depth": depth}


def dit_config(plan: Plan) -> DiTConfig:
    """The DiT of an image plan."""
    return network_config(DiTConfig, plan)


def image_frame(plan: Plan) -> Weighted:
    """What stands between noisy targets and the network of an image plan: the frame that the network keeps, or that of
    the plan's objective."""
    kept = frame_values(plan)
    return frame_from_dict(kept) if kept else objective_frame(plan)


def image_task(plan: Plan, captions: Sequence[str] | None = None, text_encoder: Path | None = None) -> ImageGeneration:
    """The task of an image plan.

    Args:
        captions: what labels count through, of a plan that is told captions; None where no labels come.
        text_encoder: directory of what reads them; None is where the plan says.
    """
    if plan.task != "image":
        raise ValueError(f"task={plan.task!r}: this plan is not for images; use a plan with task 'image'")
    classes, dropout = plan.architecture["num_classes"], plan.recipe["label_dropout"]
    frame, codec = image_frame(plan), plan_codec(plan)
    if captions is not None and is_captioned(plan):
        table = told_captions(plan, captions, text_encoder)
        table = table.join(table.take(slice(1)).null())
        return ImageGeneration(frame, len(captions), cast(float, dropout), table, codec)
    return ImageGeneration(frame, cast(int, classes), cast(float, dropout), codec=codec)


def source_task(plan: Plan, source: Batches) -> ImageGeneration:
    """The task of an image plan for the labels of ``source``. A plan that is told captions refuses one without."""
    return image_task(plan, source_captions(plan, source), encoder_of(source))


def encoder_of(source: Batches) -> Path | None:
    """The directory of the text encoder that a source names."""
    return source.text_encoder if isinstance(source, EncodedSource) else None


def source_captions(plan: Plan, source: Batches) -> tuple[str, ...] | None:
    """The captions that the labels of ``source`` count through; None for a plan that is told none."""
    if not is_captioned(plan):
        return None
    found = captions_of(source)
    if found is None:
        raise ValueError(
            "the data have no captions, which the network is told; use captions:DIR, scenes or "
            "hf:NAME,caption=COLUMN, or train with --no-conditional"
        )
    return found


def image_training_task(plan: Plan, source: Batches | None = None, empty: bool = False) -> Task:
    """What an image plan is trained on: its task, aligned with a frozen network, or with states where it carries any,
    or for steps of any length; one that is told captions needs the ``source`` whose labels count through them.

    Args:
        empty: without content, for counting.
    """
    task = image_task(plan) if source is None else source_task(plan, source)
    if plan.recipe.get("objective") == MEANFLOW:
        lowers = {block: lower for block, (lower, _) in training_bands(plan).items()}
        return MeanFlow(task, plan.partition.law, lowers)
    return carry_images(plan, align_images(plan, task, empty))


def image_shape(plan: Plan) -> tuple[int, ...]:
    """(channels, height, width) of a plan's images, or of what it denoises of them; any shape with a backbone of the
    user's own."""
    if "shape" in plan.architecture:
        return tuple(cast(list[int], plan.architecture["shape"]))
    size = cast(int, plan.architecture["image_size"])
    return cast(int, plan.architecture["channels"]), size, size


def data_shape(plan: Plan) -> tuple[int, ...]:
    """The shape of a plan's data, before its codec."""
    codec = fitted_in(plan)
    return image_shape(plan) if codec is None else codec.decoded_shape(image_shape(plan))


def check_shape(plan: Plan, shape: tuple[int, ...], num_classes: int | None = None) -> None:
    """Refuse data of another shape, or with other classes, than those of a plan for images or for their classes.

    Args:
        shape: of one sample, before the plan's codec.
        num_classes: of the data; None where they are not asked for their classes.
    """
    wanted, classes = data_shape(plan), cast(int, plan.architecture["num_classes"])
    if tuple(shape) != wanted:
        raise ValueError(
            f"the data have shape {tuple(shape)}, but the plan was made for {wanted}; use data of this shape, for "
            "images (channels, height, width)"
        )
    if classes and num_classes not in (None, classes):
        raise ValueError(f"the data have {num_classes} classes, but the plan has {classes}; use the same data")


def image_augment(plan: Plan) -> Augment | None:
    """How an image plan changes its training images."""
    return random_flip if plan.recipe.get("flip") else None


def empty_images(plan: Plan, count: int, block: int | None) -> Batch:
    """A batch of ``count`` images without content."""
    images, z = (torch.empty(count, *image_shape(plan)) for _ in range(2))
    none = image_task(plan).condition(torch.zeros(count, dtype=torch.long))
    condition = empty_captions(plan, count) if is_captioned(plan) else none
    noised = Noised(z, torch.full((count,), plan.edges[0]), block)
    if plan.recipe.get("objective") == MEANFLOW:
        condition = Until(condition, noised.sigma.clone())
    return Batch(empty_earlier(plan, noised), images, condition)
