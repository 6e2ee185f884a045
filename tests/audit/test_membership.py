"""Membership against closed forms of normal scores."""

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from oneblock.audit.membership import Normal, auc, losses_by_band, membership, tpr_at
from oneblock.condition import ClassIds, Condition
from oneblock.noise import LogNormal
from oneblock.partition import make_partition


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_area_under_the_curve_of_two_normal_laws() -> None:
    above, below = randn(20_000, seed=1) + 1.0, randn(20_000, seed=2)
    assert auc(above, below) == pytest.approx(NormalDist().cdf(1 / math.sqrt(2)), abs=0.005)
    assert tpr_at(above, below, 0.01) == pytest.approx(1 - NormalDist().cdf(NormalDist().inv_cdf(0.99) - 1), abs=0.01)
    assert auc(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])) == 0.75, "ties count half"
    assert tpr_at(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), 0.0) == 0.5


def test_the_likelihood_ratio_uses_what_bands_have_in_common() -> None:
    """Losses of both bands share the difficulty of a sample; only their difference tells members. The best score of the
    closed form has ``AUC = Phi(d / sqrt 2)`` with d = 0.5 / sqrt(2 * 0.1^2)."""
    difficulty = [3 * randn(2000, 1, seed=seed) for seed in (0, 1)]
    others = difficulty[0] + 0.1 * randn(2000, 2, seed=2)
    members = difficulty[1] + 0.1 * randn(2000, 2, seed=3) - torch.tensor([0.0, 0.2])
    found = membership(members, others)
    best = NormalDist().cdf(0.2 / math.sqrt(2 * 0.01) / math.sqrt(2))
    assert found.auc == pytest.approx(best, abs=0.02)
    assert all(band == pytest.approx(0.5, abs=0.05) for band in found.band_auc)
    assert found.tpr > 0.1 and (found.members, found.others) == (2000, 2000)


def test_nothing_is_told_of_samples_alike() -> None:
    found = membership(randn(600, 3, seed=1), randn(600, 3, seed=2))
    assert found.auc == pytest.approx(0.5, abs=0.05)
    assert found.tpr < 0.04
    with pytest.raises(ValueError, match="others=3 is not allowed; use a whole number, 4 or more"):
        membership(randn(9, 2), randn(3, 2))


def test_the_density_of_a_normal_law() -> None:
    rows = randn(500, 3) @ torch.tensor([[1.0, 0.3, 0], [0, 0.5, 0.2], [0, 0, 2.0]], dtype=torch.float64)
    law = Normal.fit(rows)
    wanted = torch.distributions.MultivariateNormal(rows.mean(0), scale_tril=law.factor).log_prob(rows)
    torch.testing.assert_close(law.log_density(rows), wanted + 1.5 * math.log(2 * math.pi))
    torch.testing.assert_close(law.factor @ law.factor.T, rows.T.cov(), rtol=0.01, atol=0.01)


def test_losses_of_bands_have_the_same_noise_for_every_sample() -> None:
    """The answer is the target, but for an error that depends on band and sample alone."""
    bands = make_partition(LogNormal(), 3)
    told: list[Tensor] = []
    seen: list[tuple[Tensor, Tensor]] = []
    samples = torch.linspace(-1, 1, 7).view(7, 1, 1).expand(7, 1, 2).contiguous()

    def spy(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        assert isinstance(condition, ClassIds)
        told.append(condition.ids)
        y = samples[condition.ids]
        seen.append((sigma, (z - y) / sigma.view(-1, 1, 1)))
        return y + (1.0 + condition.ids.view(-1, 1, 1)) * (sigma > bands.edges[1]).float().add(1).view(-1, 1, 1)

    found = losses_by_band(spy, bands, samples, ClassIds(torch.arange(7)), draws=2, batch_size=4)
    by_hand = torch.stack([2 * torch.log((1.0 + torch.arange(7)) * level) for level in (2, 1, 1)], dim=1)
    torch.testing.assert_close(found, by_hand.double(), rtol=1e-5, atol=1e-4)
    assert [len(ids) for ids in told] == [4, 3] * 6
    for i in range(0, len(seen), 2):
        (level, first), (again, second) = seen[i : i + 2]
        assert level.unique().equal(again.unique())
        torch.testing.assert_close(first[:1].expand_as(second), second, rtol=1e-3, atol=1e-3)
    levels = torch.stack([sigma[0] for sigma, _ in seen])
    assert bands.block_at(levels).tolist() == [0] * 4 + [1] * 4 + [2] * 4
