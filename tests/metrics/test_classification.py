"""Accuracy, likelihood and calibration by hand, at their extremes, and under permutations."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oneblock.metrics.classification import accuracy, expected_calibration_error, negative_log_likelihood

SCORES = [accuracy, negative_log_likelihood, expected_calibration_error]
# confidences 0.7, 0.6, 0.5, 0.9; right, wrong, right, right
BY_HAND = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.25, 0.25, 0.5], [0.05, 0.9, 0.05]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 2, 1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_case(n: int = 200, num_classes: int = 7) -> tuple[Tensor, Tensor]:
    probabilities = (2 * torch.randn(n, num_classes, generator=seeded())).softmax(1)
    return probabilities, torch.randint(num_classes, (n,), generator=seeded(1))


def test_accuracy_and_likelihood_by_hand() -> None:
    assert accuracy(BY_HAND, LABELS) == 0.75
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.5) + math.log(0.9)) / 4
    assert negative_log_likelihood(BY_HAND, LABELS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("bins", "gaps"),
    [
        (1, [abs(3 - (0.7 + 0.6 + 0.5 + 0.9))]),
        # (0, 1/2] holds 0.5 itself, (1/2, 1] the others
        (2, [abs(1 - 0.5), abs(2 - (0.7 + 0.6 + 0.9))]),
        # (1/3, 2/3] holds 0.5 and 0.6, (2/3, 1] holds 0.7 and 0.9
        (3, [abs(1 - (0.5 + 0.6)), abs(2 - (0.7 + 0.9))]),
        (4, [abs(1 - 0.5), abs(1 - (0.7 + 0.6)), abs(1 - 0.9)]),
        (1000, [1 - 0.7, 0.6, 1 - 0.5, 1 - 0.9]),
    ],
)
def test_calibration_by_hand(bins: int, gaps: list[float]) -> None:
    assert expected_calibration_error(BY_HAND, LABELS, bins) == pytest.approx(sum(gaps) / 4, rel=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_the_definition_bin_by_bin(bins: int) -> None:
    probabilities, labels = random_case()
    confidence, guess = probabilities.double().max(1)
    expected = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            right = (guess[inside] == labels[inside]).double().mean()
            expected += float(inside.double().mean() * (right - confidence[inside].mean()).abs())
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected, rel=1e-12)


def test_fifteen_bins_unless_told_otherwise() -> None:
    case = random_case()
    assert expected_calibration_error(*case) == expected_calibration_error(*case, bins=15)
    assert expected_calibration_error(*case) != expected_calibration_error(*case, bins=14)


def test_sure_and_right() -> None:
    labels = torch.tensor([2, 0, 1, 2])
    sure = torch.eye(3)[labels]
    assert [score(sure, labels) for score in SCORES] == [1.0, 0.0, 0.0]
    assert str(negative_log_likelihood(sure, labels)) == "0.0"
    assert negative_log_likelihood(sure * (1 + 1e-5), labels) == 0.0


def test_sure_and_wrong() -> None:
    labels = torch.tensor([2, 0, 1, 2])
    sure = torch.eye(3)[(labels + 1) % 3]
    assert [score(sure, labels) for score in SCORES] == [0.0, math.inf, 1.0]


def test_the_uniform_guess() -> None:
    labels = torch.arange(10)
    uniform = torch.full((10, 10), 0.1, dtype=torch.float64)
    assert negative_log_likelihood(uniform, labels) == pytest.approx(math.log(10), rel=1e-12)
    assert expected_calibration_error(uniform, labels) == pytest.approx(0.0, abs=1e-12)


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    probabilities = (2 * torch.randn(20_000, 5, generator=seeded())).softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=seeded(1)).squeeze(1)
    assert expected_calibration_error(probabilities, labels) < 0.02
    sharper = probabilities.square() / probabilities.square().sum(1, keepdim=True)
    assert expected_calibration_error(sharper, labels) > 0.1
    assert accuracy(sharper, labels) == accuracy(probabilities, labels)


@pytest.mark.parametrize("score", SCORES)
def test_the_order_of_samples_and_the_names_of_classes_do_not_matter(score: Callable[[Tensor, Tensor], float]) -> None:
    probabilities, labels = random_case()
    samples = torch.randperm(200, generator=seeded(2))
    classes = torch.randperm(7, generator=seeded(3))
    renamed = probabilities[samples][:, classes], classes.argsort()[labels[samples]]
    assert score(*renamed) == pytest.approx(score(probabilities, labels), rel=1e-12)
    assert score(probabilities[samples], labels) != pytest.approx(score(probabilities, labels), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_whole_labels_and_both_precisions(dtype: torch.dtype) -> None:
    for score in SCORES:
        assert score(BY_HAND.float(), LABELS.to(dtype)) == pytest.approx(score(BY_HAND, LABELS), abs=1e-6)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (
            torch.ones(3),
            torch.zeros(3).long(),
            r"probabilities has dtype torch.float32 and shape \(3,\); .*\(n, num_classes\)",
        ),
        (torch.ones(0, 3), torch.zeros(0).long(), r"shape \(0, 3\); .*at least one row"),
        (torch.eye(3).long(), torch.arange(3), "probabilities has dtype torch.int64"),
        (torch.eye(3), torch.arange(4), r"labels has dtype torch.int64 and shape \(4,\); .* shape \(3,\) are allowed"),
        (torch.eye(3), torch.arange(3)[:, None], r"labels has .*shape \(3, 1\)"),
        (torch.eye(3), torch.arange(3.0), r"labels has dtype torch.float32"),
        (
            torch.eye(10),
            torch.tensor([*range(9), 12]),
            r"label 12 is not a class: the probabilities have 10 classes; 0\.\.9",
        ),
        (torch.eye(3), torch.tensor([0, 3, 2]), r"label 3 is not a class: the probabilities have 3 classes; 0\.\.2"),
        (torch.eye(3), torch.tensor([0, -1, 2]), r"label -1 is not a class: the probabilities have 3 classes; 0\.\.2"),
        (torch.eye(3) * 1.01, torch.arange(3), r"row 0 sums to 1.01 with smallest entry 0; .*sum to 1 .*softmax"),
        (torch.tensor([[0.5, 0.5], [1.5, -0.5]]), torch.arange(2), r"row 1 sums to 1 with smallest entry -0.5"),
        (torch.tensor([[0.5, 0.5], [torch.nan, 0.5]]), torch.arange(2), "row 1 sums to nan"),
    ],
)
def test_what_does_not_fit_is_refused(
    score: Callable[[Tensor, Tensor], float], probabilities: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(probabilities, labels)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="bins=0 is too small; 1 or more are allowed"):
        expected_calibration_error(BY_HAND, LABELS, bins=0)
