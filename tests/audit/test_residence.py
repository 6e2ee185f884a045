import math

import pytest
import torch

from oneblock.audit.residence import half_at, onset, residence, steps, survival


def test_likeness_of_successive_states() -> None:
    states = [torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.zeros(2, 2) + 1]
    torch.testing.assert_close(residence(states), torch.tensor([[0.5**0.5, 1.0], [1.0, 0.5**0.5]]))
    shifted = residence(states, features=lambda x: x + torch.tensor([0.0, 1.0]))
    assert shifted[0, 0].item() == pytest.approx(3 / math.sqrt(2 * 5))


def test_steps_are_in_units_of_the_first_cycle() -> None:
    states = [
        torch.tensor([[0.0], [0.0], [0.0]]),
        torch.tensor([[1.0], [2.0], [4.0]]),
        torch.tensor([[1.0], [1.0], [8.0]]),
    ]
    torch.testing.assert_close(steps(states), torch.tensor([[0.5, 1.0, 2.0], [0.0, 0.5, 2.0]]))


def test_the_onset_is_sustained() -> None:
    rise = torch.tensor([0.0, 0.0, 1.0, 0.1, 0.5, 0.97, 1.0, 1.0, 1.0])
    assert onset(rise, window=3) == 5, "one cycle that is high does not count"
    assert onset(rise, window=3, share=0.2) == 4
    assert onset(rise.flip(0), window=3) is None
    assert onset(torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]), window=2) is None


def test_survival_counts_chains_that_never_left() -> None:
    inside = torch.tensor([[True, True, False], [True, False, True], [True, True, True]])
    torch.testing.assert_close(survival(inside), torch.tensor([2 / 3, 1 / 3, 1 / 3], dtype=torch.float64))


def test_where_half_leave() -> None:
    assert half_at([0.1, 0.4], [1.0, 0.0]) == pytest.approx(0.2)
    assert half_at([0.1, 0.2, 0.4], [0.9, 0.6, 0.2]) == pytest.approx(0.2 * 2**0.25)
    assert half_at([0.1, 0.2], [0.9, 0.6]) == 0.2
    assert half_at([0.1, 0.2], [0.4, 0.1]) == 0.1
