"""Further scores of generated images: one that needs no covariance, and how far the Frechet distance can be trusted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from oneblock.metrics.bootstrap import centred_bootstrap
from oneblock.metrics.classifier_score import classifier_score
from oneblock.metrics.extrapolation import PARTS, frechet_limit
from oneblock.metrics.features import ClassifierExtractor, FeatureExtractor
from oneblock.metrics.frechet import Moments, frechet_distance, moments
from oneblock.metrics.sliced import mind

DRAWS = 200
"""Of the interval."""
MOST_DIM = 256
"""Dimensions up to which there is an interval; each draw takes roots of matrices of that size."""


@dataclass(frozen=True, kw_only=True)
class ImageDetail:
    """Beside ``quality.ImageQuality``; floors are those of held-out real images, None without.

    Args:
        mind, mind_floor: lower is better.
        frechet_low, frechet_high: the centred 95 % interval of the Frechet distance over the generated images, the
            reference kept; None of features with more than ``MOST_DIM`` dimensions.
        frechet_limit: the distance at infinitely many generated images; None with fewer than ``extrapolation.PARTS``
            times as many images as the features have dimensions.
        classifier_score: 1 to the number of classes, higher is better; None without a classifier.
        classifier_score_floor: that of held-out images.
    """

    mind: float
    mind_floor: float | None
    frechet_low: float | None
    frechet_high: float | None
    frechet_limit: float | None
    classifier_score: float | None
    classifier_score_floor: float | None

    def as_row(self) -> dict[str, float | None]:
        """The fields as plain values, ready for one line of JSON."""
        return asdict(self)


def image_detail(
    reference: Tensor, held_out: Tensor | None, fake: Tensor, extractor: FeatureExtractor, seed: int = 0
) -> ImageDetail:
    """Compare ``fake`` with ``reference``; images and errors as of ``quality.image_quality``.

    Args:
        seed: of the draws and of the parts of the samples.
    """
    a, c = extractor(reference), extractor(fake)
    b = None if held_out is None else extractor(held_out)
    real = moments(a)
    low, high = _interval(real, c, seed)
    return ImageDetail(
        mind=mind(a, c),
        mind_floor=None if b is None else mind(a, b),
        frechet_low=low,
        frechet_high=high,
        frechet_limit=_limit(real, c, seed),
        classifier_score=_classifier_score(extractor, fake),
        classifier_score_floor=None if held_out is None else _classifier_score(extractor, held_out),
    )


def _interval(real: Moments, features: Tensor, seed: int) -> tuple[float | None, float | None]:
    if features.shape[1] > MOST_DIM:
        return None, None
    found = centred_bootstrap(lambda drawn: frechet_distance(real, moments(drawn)), features, draws=DRAWS, seed=seed)
    return found.low, found.high


def _limit(real: Moments, features: Tensor, seed: int) -> float | None:
    if len(features) // PARTS <= features.shape[1]:
        return None
    return frechet_limit(real, features, torch.Generator().manual_seed(seed)).value


def _classifier_score(extractor: FeatureExtractor, images: Tensor) -> float | None:
    if not isinstance(extractor, ClassifierExtractor):
        return None
    return classifier_score(extractor.logits(images).double().softmax(1)).value
