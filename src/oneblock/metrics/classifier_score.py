"""How sure a classifier is of what it sees, and how many classes it sees: the Inception score, of any classifier.

With p_i the class probabilities of image i and q their mean,

    exp( 1/n sum_i sum_k p_ik ln(p_ik / q_k) )

is 1 where all images look alike to the classifier, and the number of classes where it is sure of every image and sees
all classes equally often. Salimans et al., "Improved Techniques for Training GANs", section 4, arXiv 1606.03498. It is
called the Inception score only with the Inception network; every other classifier has a scale of its own, so the name
here is the classifier score. It knows no real images: a model that shows one picture for each class gets the most.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev

import torch
from torch import Tensor

from oneblock.checks import check_count
from oneblock.metrics.classification import check_rows

SPLITS = 10
"""Into so many parts published scores cut the images."""


@dataclass(frozen=True)
class ClassifierScore:
    """Mean over the splits, 1..num_classes, higher is better, and their standard deviation (0 of a single split)."""

    value: float
    deviation: float


def classifier_score(probabilities: Tensor, splits: int = 1) -> ClassifierScore:
    """The score of class probabilities (n, num_classes).

    Args:
        splits: into so many parts, one after the other, the images are cut, each with a score and a q of its own; 1
            uses them all together. Shuffle images that are sorted by class.

    Raises:
        ValueError: splits outside 1..n, and what ``classification.check_rows`` refuses.
    """
    values = check_rows(probabilities)
    check_count("splits", splits, most=len(values))
    edges = [i * len(values) // splits for i in range(splits + 1)]
    scores = [_score(values[start:end]) for start, end in pairwise(edges)]
    return ClassifierScore(fmean(scores), pstdev(scores))


def _score(probabilities: Tensor) -> float:
    """exp of the mean divergence from the mean; 0 ln 0 is 0."""
    marginal = probabilities.mean(0)
    divergence = torch.special.entr(marginal).sum() - torch.special.entr(probabilities).sum(1).mean()
    return float(divergence.exp())
