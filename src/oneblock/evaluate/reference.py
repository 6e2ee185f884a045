"""What generated images are compared with: real images, and features that are looked at before any work."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from oneblock.checks import check_count
from oneblock.data import Codec, DatasetSource, EncodedSource, Pixels, drawn, shuffled_if_sorted, to_float
from oneblock.evaluate.labels import by_class
from oneblock.metrics import FeatureExtractor, default_extractor, extractor_for
from oneblock.metrics.coverage import NEIGHBOURS
from oneblock.metrics.features import ClassifierExtractor, absent_packages, check_extractor
from oneblock.plan import Plan
from oneblock.presets.image import data_shape, image_task

MOST_IMAGES = 10_000
"""Held-out images that losses are taken on, and training images that generated ones are compared with; of more, so many
are drawn from all."""
FEWEST = NEIGHBOURS + 1
"""Generated and real images that can be compared: each has that many neighbours."""
FEWEST_HELD_OUT = 2
"""Held-out images that have a covariance, and so a floor."""
PIXELS = Pixels()


def makes_images(plan: Plan, codec: Codec = PIXELS) -> bool:
    """Whether what a plan generates can be seen: images of one or three channels, or latents behind their codec."""
    shape = data_shape(plan)
    return bool(codec.fingerprint()) or (len(shape) == 3 and shape[0] in (1, 3))


def extractor_name(plan: Plan, extractor: str = "") -> str:
    """The features that generated images are compared on: those that are named, or what fits the plan's data."""
    return extractor or default_extractor(cast(str, plan.recipe["data"]))


def check_features(plan: Plan, extractor: str = "", num_samples: int = FEWEST) -> str:
    """Refuse, before any data are opened, features that are unknown, or that were asked for by name and are not
    installed. Where those that fit the plan's data are not installed, what is left out and what to do; else empty.

    Raises:
        ValueError: an unknown extractor, or too few samples.
        ImportError: the packages of the extractor are absent.
    """
    check_count("num_samples", num_samples, least=0)
    name = extractor_name(plan, extractor)
    missing = absent_packages(name)
    if not num_samples:
        return ""
    if extractor or not missing:
        check_extractor(name)
    if num_samples < FEWEST:
        raise ValueError(
            f"num_samples={num_samples} are too few to compare; use {FEWEST} or more, or 0 for the losses alone"
        )
    if not missing:
        return ""
    return f"generated images are not compared: {missing}"


def quality_features(
    plan: Plan, train: EncodedSource | None, test: EncodedSource, num_samples: int, extractor: str = ""
) -> FeatureExtractor | None:
    """What ``evaluate_images`` compares images on, None if it takes the losses alone; refuses, before anything is
    trained or generated, what it could not compare.

    Raises:
        ValueError: too few images, an unknown extractor, or one that does not take these images.
        ImportError: the packages of an extractor that was asked for are absent.
    """
    check_count("num_samples", num_samples, least=0)
    if not num_samples or not makes_images(plan, test.codec) or check_features(plan, extractor, num_samples):
        return None
    features = extractor_for(extractor_name(plan, extractor))
    # of a single split, the held-out images take the place of the training images
    name, source = ("held-out", test) if train is None else ("training", train)
    found = len(source.first(FEWEST).images)
    if found < FEWEST:
        raise ValueError(
            f"the data have {found} {name} images, but comparing generated ones takes {FEWEST}; give more, or use "
            "num_samples=0 for the losses alone"
        )
    features(test.first(1).images)
    return features


def reference(train: EncodedSource | None, test: EncodedSource, count: int) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (n, c, h, w) that generated ones are compared with, and at most ``count`` others of the same kind,
    if there are enough. Both are drawn from all images, whatever the order in which they are stored."""
    held_out = drawn(test.images, MOST_IMAGES)
    if train is None or train.fingerprint() == test.fingerprint():
        return held_out.images, None
    known = drawn(train.images, MOST_IMAGES).images
    if known.shape[1:] != held_out.images.shape[1:]:
        raise ValueError(
            f"the training images have shape {tuple(known.shape[1:])}, but the held-out images "
            f"{tuple(held_out.images.shape[1:])}; give both in the same size and channels"
        )
    if len(held_out) < FEWEST_HELD_OUT:
        return known, None
    return known, shuffled_if_sorted(held_out, count).images


def held_out_targets(source: EncodedSource) -> tuple[Tensor, Tensor | None]:
    """What losses are taken on, before the codec of a plan: clean targets (n, ...), and their labels (n,) if they have
    any."""
    if isinstance(source.images, DatasetSource):
        values, labels = source.images.drawn(MOST_IMAGES)
        return source.codec.encode(values), labels
    held_out = drawn(source.images, MOST_IMAGES)
    return source.codec.encode(to_float(held_out.images)), held_out.labels


def told_classes(plan: Plan, features: FeatureExtractor, images: Tensor, labels: Tensor | None) -> Tensor | None:
    """Classes (n,) that ``features`` may be asked to find in ``images``: None unless they are a classifier's of as many
    classes as the plan has."""
    if labels is None or not isinstance(features, ClassifierExtractor):
        return None
    return labels if features.logits(images[:1]).shape[1] == image_task(plan).num_classes else None


def agreement_by_class(
    plan: Plan, features: FeatureExtractor, images: Tensor, told: Tensor | None
) -> dict[str, dict[str, float | None]]:
    """The share of generated images of each class in which a classifier sees that class, where classes have names."""
    if told is None or not isinstance(features, ClassifierExtractor):
        return {}
    return by_class(plan, features.logits(images).argmax(1).cpu() == told, told, "class_agreement_by_class")
