from itertools import pairwise

import pytest
import torch
from torch import Tensor

from oneblock.condition import Condition
from oneblock.noise import CosineMask, LinearMask
from oneblock.sample.masked import mask_grid, pick, reveal

V, MASK = 3, 3


def always(symbol: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(symbol), V) * 50.0


def test_the_grid_takes_equal_steps_of_the_masked_share() -> None:
    for law in (LinearMask(), CosineMask()):
        grid = mask_grid(law, 4)
        torch.testing.assert_close(law.cdf(grid), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="steps=0 reveals nothing"):
        mask_grid(LinearMask(), 0)


@pytest.mark.parametrize("order", ["ancestral", "confidence"])
def test_given_places_stay_and_no_mask_is_left(order: str) -> None:
    tokens = torch.full((4, 40), MASK)
    tokens[:, 3] = 2
    calls: list[float] = []

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        calls.append(float(sigma[0]))
        return always(1).expand(*z.shape, V)

    steps = list(reveal(denoiser, LinearMask(), tokens, MASK, 5, order))  # type: ignore[arg-type]
    assert calls == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert bool((steps[-1] != MASK).all())
    assert steps[-1][:, 3].tolist() == [2] * 4
    assert int((steps[-1] == 1).sum()) == 4 * 39
    counts = [int((z == MASK).sum()) for z in steps]
    assert counts == sorted(counts, reverse=True)
    if order == "confidence":
        assert counts[0] == 4 * (39 - 8)  # a fifth of 39, rounded
    else:
        assert counts[0] == pytest.approx(4 * 39 * 0.8, abs=20)
    for before, after in pairwise(steps):
        known = before != MASK
        assert torch.equal(before[known], after[known])


def test_the_surest_places_come_first() -> None:
    strength = torch.tensor([0.5, 3.0, 1.0, 2.0])

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        logits = torch.zeros(*z.shape, V)
        logits[..., 1] = strength
        return logits

    steps = reveal(denoiser, LinearMask(), torch.full((1, 4), MASK), MASK, 4, "confidence", temperature=0)
    shown = [tuple((z != MASK).nonzero()[:, 1].tolist()) for z in steps]
    assert shown == [(1,), (1, 3), (1, 2, 3), (0, 1, 2, 3)]


def test_ancestral_frequencies_are_those_of_the_denoiser() -> None:
    p = torch.tensor([0.6, 0.3, 0.1])
    last = list(reveal(lambda z, t, c: p.log().expand(*z.shape, V), CosineMask(), torch.full((50, 100), MASK), MASK, 8))
    found = torch.bincount(last[-1].flatten(), minlength=V) / 5000
    torch.testing.assert_close(found, p, atol=0.03, rtol=0)


def test_temperature_and_top_p_act() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(1, 20_000, V)
    generator = torch.Generator().manual_seed(0)
    symbols, sure = pick(logits, 1.0, 0.75, generator)
    share = torch.bincount(symbols[0], minlength=V) / 20_000
    torch.testing.assert_close(share, torch.tensor([0.625, 0.375, 0.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(sure.unique(), torch.tensor([0.375, 0.625]))
    symbols, _ = pick(logits, 0.5, 1.0, generator)
    sharper = torch.tensor([0.25, 0.09, 0.04]) / 0.38
    torch.testing.assert_close(torch.bincount(symbols[0], minlength=V) / 20_000, sharper, atol=0.02, rtol=0)
    assert pick(logits, 0.0, 1.0, generator)[0].unique().tolist() == [0]
    assert pick(logits, 1.0, 1e-6, generator)[0].unique().tolist() == [0]
    for temperature, top_p in ((-1.0, 1.0), (1.0, 0.0), (1.0, 1.1)):
        with pytest.raises(
            ValueError, match=f"temperature={temperature}, top_p={top_p}: use a temperature of 0 or more, and"
        ):
            pick(logits, temperature, top_p, generator)


def test_samples_follow_from_the_seed() -> None:
    tokens = torch.full((2, 10), MASK)

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return torch.zeros(*z.shape, V)

    one, two, other = (list(reveal(denoiser, LinearMask(), tokens, MASK, 3, seed=seed))[-1] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
