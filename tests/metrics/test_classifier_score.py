"""The Inception score of any classifier at its ends and by hand; beside torch-fidelity's in test_fidelity."""

import math

import pytest
import torch

from oneblock.metrics.classifier_score import classifier_score


def test_the_ends_of_the_scale() -> None:
    sure = torch.eye(5).repeat(4, 1)
    assert classifier_score(sure).value == pytest.approx(5.0, rel=1e-12)
    assert classifier_score(sure[:1].expand(8, 5)).value == pytest.approx(1.0, abs=1e-12)
    assert classifier_score(torch.full((8, 5), 0.2)).value == pytest.approx(1.0, abs=1e-6)


def test_by_hand() -> None:
    # q = (3/4, 1/4): the divergences are ln(2/3) / 2 + ln(2) / 2 and ln(4/3)
    expected = math.exp((math.log(2 / 3) / 2 + math.log(2) / 2 + math.log(4 / 3)) / 2)
    assert classifier_score(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).value == pytest.approx(expected, rel=1e-12)


def test_each_split_has_a_score_and_a_mean_of_its_own() -> None:
    rows = torch.eye(2)[[0, 1, 0, 0]]
    found = classifier_score(rows, splits=2)
    assert (found.value, found.deviation) == (pytest.approx(1.5), pytest.approx(0.5))
    assert classifier_score(rows[:3], splits=2).value == pytest.approx((1 + 2) / 2)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 sums to 2"):
        classifier_score(torch.ones(3, 2))
    with pytest.raises(ValueError, match="splits=4 is not allowed"):
        classifier_score(torch.eye(3), splits=4)
