"""Levels of the blocks of a video, against all sequences one by one."""

import math
from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.framewise import FrameLevels, Monotone, log_counts
from oneblock.noise import LogNormal

LAW = LogNormal(0.0, 1.0, 1e-3, 1e3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ascending(size: int, length: int) -> list[tuple[int, ...]]:
    return [s for s in product(range(size), repeat=length) if list(s) == sorted(s)]


def test_equal_weights_count_sequences() -> None:
    """The number of multisets of f of the first k + 1 levels is binomial(k + f, f)."""
    found = log_counts(torch.ones(6), 4).exp()
    wanted = [[math.comb(k + f, f) for k in range(6)] for f in range(5)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_weights_count_sequences_by_their_products() -> None:
    weights = [0.5, 2.0, 1.0, 0.25]
    found = log_counts(torch.tensor(weights), 3).exp()
    for k in range(4):
        total = sum(math.prod(weights[i] for i in s) for s in ascending(k + 1, 3))
        assert found[3, k].item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 4.0, 2.0, 0.5, 1.0]])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_every_monotone_sequence_is_as_likely_as_its_weight(weights: list[float], place: int) -> None:
    n, anchor = 20_000, 2
    start = torch.full((n,), anchor)
    drawn = Monotone(torch.tensor(weights), 3).draw(start, start, torch.full((n,), place), 4, generator())
    assert (drawn[:, place] == -1).all()
    drawn[:, place] = anchor
    found = Counter(tuple(row) for row in drawn.tolist())
    weigh = {
        s: math.prod(w for i, w in enumerate(weights[j] for j in s) if i != place)
        for s in ascending(5, 4)
        if s[place] == anchor
    }
    assert set(found) <= set(weigh)
    for sequence, weight in weigh.items():
        share = weight / sum(weigh.values())
        assert abs(found[sequence] / n - share) < 5 * math.sqrt(share * (1 - share) / n)


def test_each_sample_has_its_own_anchor_and_place() -> None:
    place, anchor = torch.tensor([0, 3, 1, 2]), torch.tensor([4, 0, 2, 1])
    drawn = Monotone(torch.ones(5), 3).draw(anchor, anchor, place, 4, generator())
    drawn = drawn.scatter(1, place[:, None], anchor[:, None])
    assert (drawn.diff() >= 0).all()
    assert drawn[0].tolist() == [4, 4, 4, 4] and drawn[1].tolist() == [0, 0, 0, 0]  # all that is left to them


def anchors(n: int = 4000) -> Tensor:
    mass = torch.rand(n, generator=generator(1), dtype=torch.float64)
    return LAW.quantile(mass).float()


@pytest.mark.parametrize("policy", ["same", "independent", "monotone", "last", "clean"])
def test_the_anchor_keeps_its_level(policy: Any) -> None:
    sigma = anchors()
    levels, place = FrameLevels(policy, LAW, 5).draw(sigma, generator())
    assert levels.shape == (len(sigma), 5) and levels.dtype == torch.float32
    assert torch.equal(levels.gather(1, place[:, None])[:, 0], sigma)
    random = policy in ("independent", "monotone")
    assert (torch.bincount(place, minlength=5) > (700 if random else -1)).all()
    assert random or place.unique().tolist() == [4]


def test_all_blocks_have_one_level_in_an_ordinary_video() -> None:
    sigma = anchors()
    for policy in ("same", "clean"):
        assert torch.equal(FrameLevels(policy, LAW, 3).draw(sigma)[0], sigma[:, None].expand(-1, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["monotone", "last"])
def test_later_blocks_are_no_less_noisy(policy: Any) -> None:
    levels, _ = FrameLevels(policy, LAW, 5).draw(anchors(), generator())
    assert (levels.diff() >= 0).all()
    assert (levels.diff() > 0).float().mean() > 0.9
    assert levels.min() >= LAW.low and levels.max() <= LAW.high


def test_before_an_anchor_that_is_pure_noise_levels_are_sorted_draws_of_the_law() -> None:
    """Below the end of the law order alone constrains: the k-th of f sorted uniform masses has mean k / (f + 1)."""
    sigma = torch.full((20_000,), LAW.high)
    levels, _ = FrameLevels("last", LAW, 4).draw(sigma, generator())
    mass = LAW.cdf(levels[:, :3]).mean(0)
    torch.testing.assert_close(mass, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), atol=0.006, rtol=0)


def test_at_the_ends_of_the_law_levels_stay_monotone() -> None:
    sigma = torch.tensor([LAW.low, LAW.high]).repeat(100)
    levels, _ = FrameLevels("monotone", LAW, 4).draw(sigma, generator())
    assert (levels.diff() >= 0).all()


def test_independent_levels_are_those_of_the_law() -> None:
    levels, place = FrameLevels("independent", LAW, 4).draw(torch.full((5000,), 1.0), generator())
    others = levels[torch.arange(4) != place[:, None]]
    quarters = LAW.quantile(torch.tensor([0.25, 0.5, 0.75]))
    shares = (others[:, None] < quarters).double().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), atol=0.02, rtol=0)


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(
        ValueError, match="policy='falling' is not allowed; use one of same, independent, monotone, last"
    ):
        FrameLevels("falling", LAW, 3)  # type: ignore[arg-type]
