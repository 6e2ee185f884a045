"""Policies: which places are revealed."""

import pytest
import torch
from torch import Tensor

from oneblock.sample.policy import Policy, Schedule, Threshold, Uncertainty, policy_of

SURE = torch.tensor([[0.9, 0.99, 0.5, 0.95, 0.6], [0.4, 0.3, 0.2, 0.1, 0.05]])
ALL = torch.ones(2, 5, dtype=torch.bool)


def revealed(policy: Policy, sure: Tensor = SURE, hidden: Tensor = ALL, seed: int = 0) -> list[list[int]]:
    chosen = policy(sure, hidden, torch.Generator().manual_seed(seed))
    assert chosen.dtype == torch.bool
    assert not bool((chosen & ~hidden).any())
    return [row.nonzero()[:, 0].tolist() for row in chosen]


@pytest.mark.parametrize(
    ("tau", "first"),
    [(0.0, [1]), (0.011, [1]), (0.061, [1, 3]), (0.17, [0, 1, 3]), (0.561, [0, 1, 3, 4]), (2.0, [0, 1, 2, 3, 4])],
)
def test_uncertainties_add_up_to_less_than_tau(tau: float, first: list[int]) -> None:
    """0.01, 0.05, 0.1, 0.4, 0.5 in order: sums 0.01, 0.06, 0.16, 0.56, 1.06; the surest one in any case."""
    found = revealed(Uncertainty(tau=tau, spread=0.0))
    assert found[0] == first
    assert found[1] == ([0, 1] if tau == 2.0 else [0])


def test_places_that_are_not_masked_do_not_count() -> None:
    hidden = torch.tensor([[True, False, True, False, True], [False] * 5])
    assert revealed(Uncertainty(tau=0.11, spread=0.0), hidden=hidden) == [[0], []]
    assert revealed(Threshold(probability=0.55), hidden=hidden) == [[0, 4], []]
    assert revealed(Threshold(probability=0.95), hidden=hidden) == [[0], []]


def test_tau_is_drawn_anew_for_every_call_of_training_alone() -> None:
    policy = Uncertainty(tau=0.15, spread=0.1)
    counts = {len(revealed(policy, seed=seed)[0]) for seed in range(30)}
    assert counts >= {1, 2, 3}
    settled = policy.settled()
    assert settled == Uncertainty(tau=0.15, spread=0.0)
    assert {len(revealed(settled, seed=seed)[0]) for seed in range(10)} == {2}


def test_a_threshold_reveals_what_is_surer_and_goes_on_in_every_window() -> None:
    assert revealed(Threshold(probability=0.92)) == [[1, 3], [0]]
    assert revealed(Threshold(probability=0.92, window=2)) == [[1, 3, 4], [0, 2, 4]]
    assert revealed(Threshold(probability=1.0, window=5)) == [[1], [0]]


def test_a_schedule_reveals_its_share_of_all_places() -> None:
    hidden = torch.rand(4000, 50, generator=torch.Generator().manual_seed(1)) < 0.4
    chosen = Schedule(steps=10)(torch.zeros(4000, 50), hidden, torch.Generator().manual_seed(0))
    assert float(chosen.double().mean()) == pytest.approx(0.1, abs=0.003)
    last = hidden & (torch.arange(50) < 3)  # no more than a step's share is left
    assert torch.equal(Schedule(steps=10)(torch.zeros(4000, 50), last, torch.Generator()), last)


def test_policies_have_names() -> None:
    assert policy_of("uncertainty") == Uncertainty()
    assert policy_of("uncertainty", 0.3) == Uncertainty(tau=0.3)
    assert policy_of("threshold", 0.6) == Threshold(probability=0.6)
    assert policy_of("schedule", 12) == Schedule(steps=12)
    assert policy_of("schedule").settled() == Schedule()


def test_numbers_that_reveal_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tau=-0.1 is not allowed"):
        Uncertainty(tau=-0.1)
    with pytest.raises(ValueError, match=r"probability=1.2 is not allowed"):
        Threshold(probability=1.2)
    with pytest.raises(ValueError, match="steps=0 is not allowed"):
        Schedule(steps=0)
