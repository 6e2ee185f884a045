"""From fitness to the weights of pairs."""

import math

import pytest
import torch
from torch import Tensor

from oneblock.optim.fitness import check_population, check_shaping, pair_weights, without_breaks

FITNESS = torch.tensor([3.0, 1.0, 1.0, 5.0, -2.0, 10.0, 0.0, 0.0])


def test_the_z_score_of_a_population_and_of_its_groups() -> None:
    scores = (FITNESS - FITNESS.mean()) / FITNESS.std(correction=0)
    torch.testing.assert_close(pair_weights(FITNESS, "z-score"), scores[::2] - scores[1::2])
    grouped = pair_weights(FITNESS, "z-score", 4)
    torch.testing.assert_close(grouped, scores[::2] - scores[1::2])  # a group's mean is the same for both of a pair


def test_ranks_share_their_mean_where_they_tie() -> None:
    ranks = torch.tensor([5, 3.5, 3.5, 6, 0, 7, 1.5, 1.5]) / 7 - 0.5
    torch.testing.assert_close(pair_weights(FITNESS, "centred-ranks"), ranks[::2] - ranks[1::2])
    ranks = torch.cat([torch.tensor([2, 0.5, 0.5, 3]), torch.tensor([0, 3, 1.5, 1.5])]) / 3 - 0.5
    torch.testing.assert_close(pair_weights(FITNESS, "centred-ranks", 4), ranks[::2] - ranks[1::2])


def test_signs_and_plain_fitness() -> None:
    assert pair_weights(FITNESS, "sign").tolist() == [1, -1, -1, 0]
    assert pair_weights(FITNESS, "none").tolist() == [2, -4, -12, 0]


def test_a_function_of_ones_own() -> None:
    assert pair_weights(FITNESS, lambda f: f.clamp(max=1)).tolist() == [0, 0, -3, 0]
    for wrong in (lambda f: f[:3], lambda f: f / 0 * 0):
        with pytest.raises(ValueError, match="it must give a finite number for each of 8 members"):
            pair_weights(FITNESS, wrong)


@pytest.mark.parametrize("shaping", ["z-score", "centred-ranks", "sign", "none"])
def test_members_that_are_equally_fit_weigh_nothing(shaping: str) -> None:
    assert pair_weights(torch.full((6,), 0.3), shaping).tolist() == [0, 0, 0]  # type: ignore[arg-type]


def mended(values: list[float], group: int = 0) -> list[float]:
    return without_breaks(torch.tensor(values), group).tolist()


def test_what_is_not_finite_counts_as_the_worst() -> None:
    assert mended([1.0, math.nan, 3.0, math.inf, -2.0, -math.inf]) == [1, -2, 3, -2, -2, -2]
    assert mended([1.0, math.nan, 3.0, 4.0], 2) == [1, 1, 3, 4]
    assert mended([math.nan, math.nan, 3.0, 4.0], 2) == [3, 3, 3, 4]
    assert all(map(math.isnan, mended([math.nan, math.inf])))
    whole: Tensor = torch.tensor([1.0, 2.0])
    assert without_breaks(whole).equal(whole)


@pytest.mark.parametrize(
    ("population", "group", "message"),
    [
        (7, 0, "population=7 is odd, and members come in pairs; use 8"),
        (0, 0, "population=0 is not allowed"),
        (8, 3, "group_size=3 must be even, .* divide population=8"),
        (8, 6, "group_size=6 must be even, .* divide population=8"),
        (8, -2, "group_size=-2 is not allowed"),
    ],
)
def test_populations_that_are_refused(population: int, group: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_population(population, group)


def test_an_unknown_shaping_is_refused() -> None:
    check_shaping(torch.sign)
    with pytest.raises(
        ValueError, match="shaping='rank' is not allowed; use one of z-score, centred-ranks, sign, none"
    ):
        check_shaping("rank")  # type: ignore[arg-type]
