"""The data that a model is scored on: those of its plan, or others, which is then said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from oneblock.data import EncodedSource, ImageData, MemorySource, TextData, TokenFile, VideoData
from oneblock.plan import Plan
from oneblock.presets.data import ABSENT, Data, check_codec, plan_images, plan_text, training_text
from oneblock.presets.image import check_shape, source_captions
from oneblock.presets.names import class_names, has_names, numbers, unique_names
from oneblock.presets.places import located, named_data, other_data


@dataclass(frozen=True)
class Splits:
    """Training and held-out images; ``other`` says that they are not those of the plan, empty where they are."""

    train: EncodedSource | None
    test: EncodedSource
    other: str = ""


def plan_splits(
    plan: Plan, data: Data | None = None, train: Data | None = None, directory: Path | None = None
) -> Splits:
    """Training and held-out images of a plan; ``data`` as in ``plan_source``.

    Other images than the plan's are taken, and named, if they have the plan's shape and classes. Of a source or Dataset
    of the user's own all are held out; the training images are then ``train``, or those that the plan names, or None
    where neither is at hand.

    Args:
        directory: of the run or model, which may say where its data lie.

    Raises:
        ValueError: the data have another shape, other classes or another autoencoder than the plan.
    """
    named = data is None or isinstance(data, str | ImageData | VideoData)
    data = located(plan, directory, data)
    test = fitted(plan, plan_images(plan, "test", data))
    if train is not None:
        return Splits(plan_images(plan, "train", train), test)
    if not named:
        return Splits(_own_images(plan, directory), test)
    known = fitted(plan, plan_images(plan, "train", data))
    return Splits(known, test, other_data(plan, known.fingerprint(), named_data(plan, data), directory))


def fitted(plan: Plan, images: EncodedSource) -> EncodedSource:
    """Images that fit a plan (``check_fit``), with their labels in the order of its classes.

    Classes with the plan's names may stand in another order, and some may be missing, where the images are in memory.
    """
    names, found = class_names(plan), unique_names(images.classes)
    if has_names(plan) and found != names and set(found) <= set(names) and isinstance(images.images, MemorySource):
        held = images.images.images
        labels = torch.tensor([names.index(name) for name in found])[held.labels]
        images = images.of(MemorySource(replace(held, labels=labels, classes=names)))
    check_fit(plan, images)
    return images


def check_fit(plan: Plan, images: EncodedSource) -> None:
    """Refuse images of another shape, other classes or another autoencoder than those of the plan, and for a plan that
    is told captions images without."""
    check_codec(plan, images.codec)
    source_captions(plan, images)
    check_shape(plan, images.shape, len(images.classes))
    names, found = class_names(plan), unique_names(images.classes)
    if has_names(plan) and found not in (names, numbers(len(names))):
        pairs = enumerate(zip(names, found, strict=True))
        other = [f"{label} is {theirs!r}, not {ours!r}" for label, (ours, theirs) in pairs if ours != theirs]
        raise ValueError(
            f"the data have other classes than the plan: {', '.join(other[:5])}; name them, or sort them, as in the "
            "training data"
        )


@dataclass(frozen=True)
class TextSplits:
    """Held-out text, and the training text where it is asked for; ``other`` as in ``Splits``."""

    train: TokenFile | None
    test: TokenFile
    other: str = ""


def text_splits(
    plan: Plan,
    data: Data | None = None,
    train: Data | None = None,
    directory: Path | None = None,
    *,
    with_training: bool = True,
) -> TextSplits:
    """Held-out text of a plan, and the training text; arguments as in ``plan_splits``. Another text than the plan's is
    taken, in the plan's vocabulary, and named."""
    named = data is None or isinstance(data, str | ImageData | TextData)
    data = located(plan, directory, data)
    test, other = plan_text(plan, "test", data), ""
    if named:
        found = plan_text(plan, "train", data).fingerprint()
        other = other_data(plan, found, named_data(plan, data), directory)
    return TextSplits(training_text(plan, data, train) if with_training else None, test, other)


def _own_images(plan: Plan, directory: Path | None = None) -> EncodedSource | None:
    """The training images that a plan names, if they are at hand."""
    if plan.recipe["autoencoder"]:
        return None
    try:
        found = plan_images(plan, "train", located(plan, directory))
    except ABSENT:
        return None
    return found if found.fingerprint() == plan.recipe["fingerprint"] else None
