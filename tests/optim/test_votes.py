"""Votes on 8-bit weights."""

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from oneblock.optim.votes import IntegerNoise, move, threshold, votes

SHAPES = {"matrix": (16, 8), "vector": (6,)}


def noise(seed: int = 0) -> IntegerNoise:
    return IntegerNoise(SHAPES, seed)


def test_noise_is_normal_with_sixteen_for_one_and_follows_from_step_and_pair() -> None:
    drawn = noise().draw(3, range(4000))
    a = drawn["matrix"][0].double()
    assert drawn["matrix"][0].dtype == torch.int8
    assert float(a.mean()) == pytest.approx(0, abs=0.3)
    assert float(a.std()) == pytest.approx(16, rel=0.01)
    assert float((a / 16).pow(4).mean()) == pytest.approx(3, rel=0.05)
    for name, (a, b) in noise().draw(3, range(10, 14)).items():
        assert a.equal(drawn[name][0][10:14])
        assert b.equal(drawn[name][1][10:14])
    assert not noise().draw(4, range(1))["matrix"][0].equal(drawn["matrix"][0][:1])
    assert not noise(1).draw(3, range(1))["matrix"][0].equal(drawn["matrix"][0][:1])


def test_votes_are_the_signed_sum_of_the_noise() -> None:
    drawn = noise().draw(0, range(40))
    signs = torch.randint(-1, 2, (40,), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    a, b = (t.long() for t in drawn["matrix"])
    expected: Tensor = sum((int(w) * torch.outer(a[p], b[p]) for p, w in enumerate(signs)), torch.zeros(16, 8).long())
    assert votes(drawn["matrix"], signs, vector=False).equal(expected.int())
    a, b = (t.long() for t in drawn["vector"])
    assert votes(drawn["vector"], signs, vector=True).equal((a * b * signs[:, None]).sum(0).int())


def test_about_the_share_of_weights_moves_where_votes_mean_nothing() -> None:
    large = IntegerNoise({"matrix": (128, 128)}, 0)
    signs = torch.randint(0, 2, (256,), dtype=torch.int8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    z = votes(large.draw(0, range(256))["matrix"], signs, vector=False)
    for share in (0.5, 0.1, 0.02):
        weight = torch.zeros(128, 128, dtype=torch.int8)
        moved = move(weight, z, threshold(share, 256)) / weight.numel()
        assert moved == pytest.approx(share, rel=0.2)
        assert weight.unique().tolist() == [-1, 0, 1]
    weight = torch.zeros(128, 128, dtype=torch.int8)
    assert move(weight, z, threshold(1.0, 256)) == int((z != 0).sum())


def test_the_threshold() -> None:
    deviations = int(16 * NormalDist().inv_cdf(1 - 0.1 / 2))
    assert threshold(0.1, 100) == math.ceil(deviations * 16 * 10)
    assert threshold(1.0, 100) == 0
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="share"):
            threshold(wrong, 100)


def test_weights_stay_within_their_range_and_follow_the_sign() -> None:
    weight = torch.tensor([127, -127, 5, 5, 5], dtype=torch.int8)
    assert move(weight, torch.tensor([90, -90, 90, -10, 0], dtype=torch.int32), 50) == 1
    assert weight.tolist() == [127, -127, 6, 5, 5]
