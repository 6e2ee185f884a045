"""Samples that a page draws of a model: images on their way through the noise levels, texts, clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from oneblock.evaluate.levels import Passage, passage
from oneblock.model import CausalModel, ImageModel, MaskedModel, Model, VideoModel
from oneblock.plan import Plan
from oneblock.presets.names import class_names
from oneblock.report.html.page import Part, Picture, Pictures, Words, picture
from oneblock.report.html.parts import Shown, noise
from oneblock.report.table import Table

LEVELS = 8
"""Noise levels at which images are shown, about; the same number in every band."""
MOST_TEXTS, MOST_CLIPS = 3, 3
"""Of those that are asked for: they take many calls each."""
EXPLAINED = (
    "Each column is a noise level, from noise on the left to the sample on the right: the clean images that the block "
    "which owns the level sees in what it is given."
)


def explained(parts: Sequence[Part]) -> list[Part]:
    """Samples below what their columns mean, if they have any."""
    return [Words([EXPLAINED]), *parts] if any(isinstance(part, Pictures) for part in parts) else [*parts]


def drawn_samples(directory: Path, plan: Plan, shown: Shown, title: str = "") -> list[Part]:
    """Samples of the model in a directory; none of a task without any, and none where it cannot be opened, which is
    then said."""
    draw = {"image": _images, "text": _texts, "masked-text": _texts, "video": _clips}.get(plan.task)
    if draw is None or not shown.samples:
        return []
    found = shown.tried(
        f"samples{f' of {title}' if title else ''}", lambda: draw(_opened(directory, plan, shown), shown, title)
    )
    return [] if found is None else [found]


def _opened(directory: Path, plan: Plan, shown: Shown) -> Model:
    if plan.recipe.get("autoencoder"):
        raise ValueError("the run denoises latents, and its directory does not hold their autoencoder")
    return Model.open(directory, device=shown.device, resident=1, backbone=shown.backbone)


def _images(model: Model, shown: Shown, title: str) -> Part:
    """Block by block."""
    plan = model.plan
    assert isinstance(model, ImageModel), "the task says so"
    found = passage(model.denoiser, plan, shown.samples, max(2, round(LEVELS / plan.num_blocks)))
    return Pictures(title, [_of_block(found, b, plan) for b in dict.fromkeys(found.blocks)], _rows(found, plan))


def _of_block(found: Passage, block: int, plan: Plan) -> Picture:
    at = [i for i, owner in enumerate(found.blocks) if owner == block]
    images = found.answers[at].transpose(0, 1).flatten(0, 1)
    levels = ", ".join(f"{found.sigmas[i]:.3g}" for i in at)
    return picture(images, len(at), f"block {block}, {noise(plan)} {levels}")


def _rows(found: Passage, plan: Plan) -> str:
    names = class_names(plan)
    shown = found.captions if found.labels is None else [names[label] for label in found.labels.tolist()]
    return f"rows: {', '.join(shown)}" if shown else ""


def _texts(model: Model, shown: Shown, title: str) -> Part:
    written = cast(CausalModel | MaskedModel, model).sample(min(shown.samples, MOST_TEXTS))
    return Table(title, ("text", "as it is written"), [(str(i), text) for i, text in enumerate(written)])


def _clips(model: Model, shown: Shown, title: str) -> Part:
    videos = cast(VideoModel, model).sample(count=min(shown.samples, MOST_CLIPS))
    columns = videos.shape[1]
    return Pictures(title, [picture(videos.flatten(0, 1), columns, "rows are clips, columns their frames")])
