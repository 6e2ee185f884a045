"""``oneblock plan images``, ``classify``, ``video``, ``masked-text``, ``text`` and ``recurrent-text``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from oneblock.backbone import BuildBackbone
from oneblock.cli import console
from oneblock.data import ImageData
from oneblock.data.videos import FRAMES
from oneblock.launch.words import training_words
from oneblock.presets.base import Recipe
from oneblock.presets.causal import CausalRecipe, recurrent_recipe
from oneblock.presets.classify import ClassifyRecipe
from oneblock.presets.fit import Costs, Fit, cost
from oneblock.presets.image import ImageRecipe
from oneblock.presets.masked import MaskedRecipe
from oneblock.presets.tasks import load_backbone
from oneblock.presets.video import VideoRecipe
from oneblock.report.costs import costs_picture, costs_table

SHARES = "A block's step takes its share of the batch, as in training; --block-batch-size N plans equal batches."


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the verbs that plan have in common."""

    verb: ClassVar[str]
    model: Recipe

    fit: str = ""
    """memory of the device, e.g. 24GiB: answer with the fewest blocks that train in it"""
    backbone: str = ""
    """a network of your own instead of the task's, as module:Class; --depth says how many layers it has"""
    chart: Path | None = None
    """write the bytes by kind as a PNG"""
    json: bool = False
    """print one JSON object instead of a table"""

    def run(self) -> None:
        found = self.count()
        words = None if found.fit is None else self.words(found.fit)
        if self.chart is not None:
            costs_picture(found, self.chart)
        if self.json:
            fit = {} if found.limit is None else {"fit": {"limit": found.limit, "options": words}}
            rows, rivals = ([{"name": row.name, **asdict(row)} for row in some] for some in (found.rows, found.rivals))
            left_out = [asdict(one) for one in found.left_out]
            console.emit({"precision": found.precision, "costs": rows, "rivals": rivals, "left_out": left_out, **fit})
            return
        console.table(costs_table(found))
        if len({row.samples_per_step for row in found.rows}) > 1:
            print(SHARES)
        for one in found.left_out:
            print(f"left out: {one.name}: {one.reason}")
        if self.chart is not None:
            console.say(f"picture: {self.chart}")
        if found.least is not None:
            least = f"{found.least.cost.peak.total} bytes, needs {' '.join(self.words(found.least))}"
            raise ValueError(
                f"nothing here fits into --fit {self.fit}, not even one sample at a time; the least, {least}: use a "
                "smaller network or a larger device"
            )
        if found.fit is not None and words is not None:
            print(
                f"fits {self.fit}, with {found.fit.cost.peak.total} bytes: oneblock train {self.verb} {' '.join(words)}"
            )

    def count(self) -> Costs:
        """What every way of training costs."""
        return cost(self.model, fit=self.fit, backbone=self.network())

    def network(self) -> BuildBackbone | None:
        """The user's own network, where one is named."""
        return load_backbone(self.backbone) if self.backbone else None

    def words(self, fit: Fit) -> list[str]:
        """The words after `oneblock train VERB` that train this way: the user's own, then what decides the memory. The
        data are not among them."""
        usual = type(self)().model  # type: ignore[call-arg]  # every verb has one of its own
        whole = fit.cost.strategy == "end-to-end"
        words = training_words(
            fit.recipe, usual, end_to_end=whole, blocks=fit.cost.blocks, checkpointing=fit.cost.checkpointing
        )
        return [*words, "--backbone", self.backbone] if self.backbone else words


@dataclass(frozen=True, kw_only=True)
class PlanPictures(Planned):
    """What the verbs that plan for images have in common."""

    image_size: int = 32
    """height and width of the images (or latents) in pixels"""
    channels: int = 3
    """channels of the images (or latents)"""
    classes: int = 10
    """number of classes"""

    def count(self) -> Costs:
        return self.costs()

    def costs(self, frames: int = FRAMES, autoencoder: Path | None = None) -> Costs:
        """What every way of training costs, for images or for clips of so many ``frames``, or for their latents."""
        return cost(
            self.model,
            image_size=self.image_size,
            channels=self.channels,
            classes=self.classes,
            frames=frames,
            autoencoder=autoencoder,
            fit=self.fit,
            backbone=self.network(),
        )


@dataclass(frozen=True, kw_only=True)
class PlanImages(PlanPictures):
    """What training an image generator will cost, before any of it is trained: bytes and floating-point operations.

    Counted from shapes, with the batch, optimizer and weight average that `oneblock train images` would use. Nothing is
    allocated: a network far larger than this machine is planned too. The bytes are those of tensors; a GPU adds its
    context, fragmentation and the workspaces of its kernels.

    Beside what `oneblock train` does stand ways to train the whole network that others have: 8-bit Adam, gradients that
    Adafactor uses at once, the same with layers swapped to host memory, and FSDP2 with CPU offload. Their rows say what
    waits in host memory and what goes over the bus in a step; `--fit` does not answer with them.
    """

    verb: ClassVar[str] = "images"
    model: ImageRecipe = field(default_factory=ImageRecipe)
    data: str = ""
    """images by name, as of `oneblock train images`, at --image-size: what is planned has their channels, and their
    classes or captions"""

    def count(self) -> Costs:
        if not self.data:
            return super().count()
        data = ImageData(data=self.data, image_size=self.image_size)
        return cost(self.model, data=data, fit=self.fit, backbone=self.network())


@dataclass(frozen=True, kw_only=True)
class PlanClassify(PlanPictures):
    """What training a classifier will cost, before any of it is trained: bytes and floating-point operations.

    Counted as by `oneblock plan images`; end-to-end is an ordinary ViT.
    """

    verb: ClassVar[str] = "classify"
    model: ClassifyRecipe = field(default_factory=ClassifyRecipe)


@dataclass(frozen=True, kw_only=True)
class PlanVideo(PlanPictures):
    """What training a video generator will cost, before any of it is trained: bytes and floating-point operations.

    Counted as by `oneblock plan images`; no clips are needed.
    """

    verb: ClassVar[str] = "video"
    model: VideoRecipe = field(default_factory=VideoRecipe)
    frames: int = FRAMES
    """frames of a clip"""
    autoencoder: Path | None = None
    """what is planned are the latents of this autoencoder of diffusers (a directory), for clips of so many frames of
    --image-size pixels and --channels"""

    def count(self) -> Costs:
        return self.costs(self.frames, self.autoencoder)


@dataclass(frozen=True, kw_only=True)
class PlanMaskedText(Planned):
    """What training masked diffusion of text will cost, before any of it is trained: bytes and operations.

    Counted as by `oneblock plan images`; no text is needed.
    """

    verb: ClassVar[str] = "masked-text"
    model: MaskedRecipe = field(default_factory=MaskedRecipe)


@dataclass(frozen=True, kw_only=True)
class PlanText(Planned):
    """What training an autoregressive language model will cost, before any of it is trained: bytes and operations.

    Counted as by `oneblock plan images`; no text is needed; end-to-end is an ordinary GPT.
    """

    verb: ClassVar[str] = "text"
    model: CausalRecipe = field(default_factory=CausalRecipe)


@dataclass(frozen=True, kw_only=True)
class PlanRecurrentText(PlanText):
    """What training a language model of recurrent depth will cost, before any of it is trained.

    Counted as by `oneblock plan images`; no text is needed. One pass a step, whatever the number of calls later.
    """

    verb: ClassVar[str] = "recurrent-text"
    model: CausalRecipe = field(default_factory=recurrent_recipe)
