"""States in sampling: samplers know nothing of them, borders decide, and one batch is like many."""

from typing import cast

import pytest
import torch
from relay import masked_denoiser, masked_tokens
from torch import Tensor

from oneblock.blockwise import Denoiser
from oneblock.condition import ClassIds, Condition, Nothing, told
from oneblock.noise import LinearMask
from oneblock.partition import make_partition
from oneblock.sample import SAMPLERS, karras_grid
from oneblock.sample.carry import AtBorders, Carrying
from oneblock.sample.generate import generate
from oneblock.state import START, Hidden, State

Z, _ = masked_tokens(4)
NOTHING = Nothing(4)
HIGH, LOW = torch.full((4,), 0.8), torch.full((4,), 0.3)


def two_blocks() -> Denoiser:
    blocks = [masked_denoiser(seed) for seed in (0, 1)]
    return Denoiser(make_partition(LinearMask(), 2), blocks.__getitem__)


def test_a_carrying_denoiser_gives_each_call_what_the_last_one_left() -> None:
    denoiser = two_blocks()
    carrying = Carrying(denoiser)
    first = carrying(Z, LOW, NOTHING)
    second = carrying(Z, LOW, NOTHING)
    expected, left = denoiser(Z, LOW, NOTHING, START)
    assert torch.equal(first, expected)
    assert torch.equal(second, denoiser(Z, LOW, NOTHING, left)[0])
    assert torch.equal(Carrying(denoiser)(Z, LOW, NOTHING), first)


def test_across_borders_a_state_goes_on_to_the_next_block() -> None:
    denoiser = two_blocks()
    across = AtBorders(denoiser, "across")
    _, left = across(Z, HIGH, NOTHING, START)
    entered, after = across(Z, LOW, NOTHING, left)
    expected, _ = denoiser.block(1)(Z, LOW, NOTHING, left)
    assert torch.equal(entered, expected)
    assert not torch.equal(entered, denoiser(Z, LOW, NOTHING))
    assert cast(Hidden, after).owner.tolist() == [1] * 4


def test_private_is_the_denoiser_as_it_is() -> None:
    denoiser = two_blocks()
    _, left = denoiser(Z, HIGH, NOTHING, START)
    private = AtBorders(denoiser, "private")
    assert torch.equal(private(Z, LOW, NOTHING, left)[0], denoiser(Z, LOW, NOTHING))
    assert torch.equal(private(Z, LOW, NOTHING), denoiser(Z, LOW, NOTHING))


def test_the_first_call_of_a_band_is_made_twice() -> None:
    """Only for samples that come from elsewhere, and with the state that the first one left."""
    denoiser = two_blocks()
    calls: list[int] = []
    for block in (0, 1):
        denoiser.block(block).register_forward_hook(lambda block, inputs, output: calls.append(len(inputs[0])))
    twice = AtBorders(denoiser, "twice")
    answer, left = twice(Z, LOW, NOTHING, START)
    _, first = denoiser(Z, LOW, NOTHING, START)
    expected, now = denoiser(Z, LOW, NOTHING, first)
    torch.testing.assert_close(answer, expected)
    torch.testing.assert_close(cast(Hidden, left).tokens, cast(Hidden, now).tokens)
    calls.clear()
    again, _ = twice(Z, LOW, NOTHING, left)
    assert calls == [4]
    torch.testing.assert_close(again, denoiser(Z, LOW, NOTHING, left)[0])
    some = cast(Hidden, left).of(torch.tensor([1, 0, 1, 1]))
    calls.clear()
    mixed, _ = twice(Z, LOW, NOTHING, some)
    assert calls == [4, 1]
    torch.testing.assert_close(mixed[1], expected[1])
    torch.testing.assert_close(mixed[[0, 2, 3]], again[[0, 2, 3]])


def pull(z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None) -> object:
    """Pulls to the class, more at every call."""
    ids = told(condition, ClassIds).ids.float()
    calls = state.tokens[:, 0] if isinstance(state, Hidden) else torch.zeros(len(z))
    answer = 0.1 * z + (ids + calls)[:, None]
    return answer if state is None else (answer, Hidden(calls[:, None] + 1, torch.zeros(len(z), dtype=torch.int64)))


@pytest.mark.parametrize("sampler", ["euler", "dpm++2m", "heun"])
def test_the_batch_size_changes_no_carried_sample(sampler: str) -> None:
    grid, ids = karras_grid(0.01, 10.0, 4), ClassIds(torch.arange(7))
    found = [
        generate(pull, SAMPLERS[sampler], grid, ids, (2,), 0, batch_size, carry=True)  # type: ignore[arg-type]
        for batch_size in (500, 3)
    ]
    torch.testing.assert_close(*found)
    without = generate(pull, SAMPLERS[sampler], grid, ids, (2,), 0)  # type: ignore[arg-type]
    assert not torch.allclose(found[0], without)


def test_every_run_of_a_sampler_begins_anew() -> None:
    """More samples than go through the levels together: the second part does as the first."""
    grid, many = karras_grid(0.01, 10.0, 3), ClassIds(torch.zeros(2010, dtype=torch.int64))
    found = generate(pull, SAMPLERS["euler"], grid, many, (1,), 0, carry=True)  # type: ignore[arg-type]
    assert float((found[2000:].mean() - found[:2000].mean()).abs()) < 0.3
