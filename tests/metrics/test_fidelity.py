"""Scores of features beside those of torch-fidelity 0.4.0, by its ``metric_*`` modules on the same values."""

import pytest
import torch
from torch import Tensor

from oneblock.metrics import classifier_score, frechet_distance, kernel_distance, moments, prdc


def waves(count: int, dim: int, speed: float) -> Tensor:
    """Features (count, dim), float64, without a random number."""
    i, j = torch.arange(count, dtype=torch.float64), torch.arange(1, dim + 1, dtype=torch.float64)
    return (speed * i[:, None] * j.sqrt()).sin() + (j / dim) * (speed * i[:, None]).cos()


REAL, FAKE = waves(80, 6, 1.3), 1.2 * waves(80, 6, 0.7) + 0.3
FID = 0.7302260191322425
MMD = 0.5012287829432021
PRECISION_RECALL = (0.8500000238418579, 1.0)
INCEPTION = (2.4469914352640822, 0.13276601785631445)


def test_frechet_distance() -> None:
    # fid_statistics_to_metric(fid_features_to_statistics(FAKE), fid_features_to_statistics(REAL))
    assert frechet_distance(moments(FAKE), moments(REAL)) == pytest.approx(FID, rel=1e-9)


def test_kernel_distance() -> None:
    # mmd2 of kernel_poly with degree 3, gamma 1 / dim and offset 1, all samples at once
    assert kernel_distance(FAKE, REAL).value == pytest.approx(MMD, rel=1e-9)


def test_precision_and_recall() -> None:
    # prc_features_to_metric(FAKE, REAL), 3 neighbours
    found = prdc(REAL, FAKE, k=3)
    assert (found.precision, found.recall) == pytest.approx(PRECISION_RECALL, rel=1e-6)


def test_inception_score() -> None:
    # isc_features_to_metric(3 * FAKE, splits=7, shuffle=False) takes logits
    found = classifier_score((3 * FAKE).softmax(1), splits=7)
    assert (found.value, found.deviation) == pytest.approx(INCEPTION, rel=1e-9)
