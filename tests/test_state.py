"""States on their way: taken, joined, routed, guided and pooled."""

from typing import cast

import pytest
import torch
from relay import V, masked_denoiser, masked_tokens, random_state
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import ClassIds, Condition, Nothing, told
from oneblock.guidance import Averaged, ClassifierFree, Ensemble
from oneblock.noise import LinearMask
from oneblock.partition import make_partition
from oneblock.state import NOBODY, START, Hidden, Several, State, branches, joined

Z, TIMES = masked_tokens(4)
NOTHING = Nothing(4)


def hidden(state: State) -> Hidden:
    assert isinstance(state, Hidden)
    return state


def two_blocks() -> tuple[Denoiser, list[BlockDenoiser]]:
    blocks = [masked_denoiser(seed) for seed in (0, 1)]
    return Denoiser(make_partition(LinearMask(), 2), blocks.__getitem__), blocks


def test_samples_are_taken_and_batches_joined() -> None:
    state = random_state(5).of(torch.tensor([0, 1, 2, 3, 4]))
    back = joined([state.take(slice(0, 2)), state.take(torch.tensor([2, 3])), state.take(torch.arange(5) == 4)])
    assert torch.equal(hidden(back).tokens, state.tokens)
    assert hidden(back).owner.tolist() == [0, 1, 2, 3, 4]
    with_none = hidden(START.join(state))
    assert with_none.owner.tolist() == [NOBODY] * 5 + [0, 1, 2, 3, 4]
    assert torch.equal(with_none.take(slice(5, 10)).tokens, state.tokens)
    assert hidden(state.join(START)).owner.tolist() == [0, 1, 2, 3, 4] + [NOBODY] * 5
    assert START.join(START) is START is START.take(slice(0, 1)) is START.detach()
    pair = Several((state, START)).take(slice(1, 3)).join(Several((state, state)).take(slice(1, 3)))
    assert [hidden(part).owner.tolist() for part in pair.parts] == [[1, 2, 1, 2], [NOBODY, NOBODY, 1, 2]]


def test_who_has_no_state_gets_none_of_another_block() -> None:
    state = random_state(3).only(torch.tensor([True, False, True]))
    assert state.of(7).owner.tolist() == [7, NOBODY, 7]
    assert not bool(state.none().tokens.any())
    assert state.none().present.tolist() == [False] * 3


def test_states_of_other_denoisers_are_refused() -> None:
    with pytest.raises(ValueError, match="Hidden and Several cannot be joined"):
        random_state(2).join(Several((START,)))
    with pytest.raises(ValueError, match="2 states and Hidden cannot be joined"):
        Several((START, START)).join(random_state(2))
    with pytest.raises(ValueError, match="not of one with 3 branches"):
        branches(Several((START, START)), 3)


def test_a_state_is_handed_on_within_a_band() -> None:
    """Twice in the lower half of the times, which is block 1's."""
    denoiser, (_, quiet) = two_blocks()
    low = torch.full((4,), 0.3)
    first, left = denoiser(Z, low, NOTHING, START)
    assert torch.equal(first, denoiser(Z, low, NOTHING))
    assert hidden(left).owner.tolist() == [1] * 4
    second, _ = denoiser(Z, low, NOTHING, left)
    assert torch.equal(second, quiet(Z, low, NOTHING, left)[0])
    assert not torch.equal(second, first)


def test_a_private_band_never_reads_another_blocks_state() -> None:
    denoiser, _ = two_blocks()
    high, low = torch.full((4,), 0.8), torch.full((4,), 0.3)
    _, left = denoiser(Z, high, NOTHING, START)
    entered, after = denoiser(Z, low, NOTHING, left)
    assert torch.equal(entered, denoiser(Z, low, NOTHING))
    assert hidden(after).owner.tolist() == [1] * 4
    noisy = Hidden(torch.full_like(hidden(left).tokens, torch.nan), hidden(left).owner)
    assert torch.equal(denoiser(Z, low, NOTHING, noisy)[0], entered)


def test_samples_of_several_bands_each_keep_to_their_own() -> None:
    denoiser, (noisy, quiet) = two_blocks()
    sigma = torch.tensor([0.9, 0.2, 0.7, 0.3])
    state = random_state(4).of(torch.tensor([0, 1, 1, 0]))
    answer, left = denoiser(Z, sigma, NOTHING, state)
    rows = [
        block(Z[i : i + 1], sigma[i : i + 1], Nothing(1), given.take(slice(i, i + 1)))
        for i, block, given in (
            (0, noisy, state),
            (1, quiet, state),
            (2, noisy, state.none()),
            (3, quiet, state.none()),
        )
    ]
    torch.testing.assert_close(answer, torch.cat([row for row, _ in rows]))
    tokens = torch.cat([hidden(one).tokens for _, one in rows])
    torch.testing.assert_close(hidden(left).tokens, tokens, rtol=1e-4, atol=1e-3)
    assert hidden(left).owner.tolist() == [0, 1, 0, 1]


def counter(z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None) -> object:
    """Answers with what it was told plus the state's number, which grows by the class at every call."""
    ids = told(condition, ClassIds).ids.float()
    before = torch.zeros(len(z))
    if isinstance(state, Hidden):
        before = torch.where(state.present, state.tokens[:, 0], 0.0)
    answer = (ids + 100 * before)[:, None].expand_as(z)
    return (
        answer if state is None else (answer, Hidden((before + ids)[:, None], torch.zeros(len(z), dtype=torch.int64)))
    )


LABELS = ClassIds(torch.tensor([1, 2]), null_id=5)
X = torch.zeros(2, 3)


def test_both_branches_of_guidance_carry_their_own() -> None:
    """Told 1 and 2, untold 5: after one call their states are 1, 2 and 5."""
    guided = ClassifierFree(counter, 3.0, (0.5, 10.0))  # type: ignore[arg-type]
    sigma = torch.ones(2)
    first, left = guided(X, sigma, LABELS, START)
    torch.testing.assert_close(first, guided(X, sigma, LABELS))
    second, left = guided(X, sigma, LABELS, left)
    expected = [505 + 3 * (101 - 505), 505 + 3 * (202 - 505)]
    torch.testing.assert_close(second[:, 0], torch.tensor(expected, dtype=torch.float32))
    assert [hidden(part).tokens[:, 0].tolist() for part in cast(Several, left).parts] == [[2, 4], [10, 10]]


def test_outside_the_interval_of_guidance_the_null_branch_forgets() -> None:
    guided = ClassifierFree(counter, 3.0, (0.5, 10.0))  # type: ignore[arg-type]
    _, left = guided(X, torch.ones(2), LABELS, START)
    quiet, left = guided(X, torch.full((2,), 0.1), LABELS, left)
    assert quiet[:, 0].tolist() == [101, 202]
    assert cast(Several, left).parts[1] is START
    again, _ = guided(X, torch.ones(2), LABELS, left)
    torch.testing.assert_close(again[:, 0], torch.tensor([5 + 3 * (201 - 5.0), 5 + 3 * (402 - 5.0)]))


def test_each_member_carries_its_own() -> None:
    def twice(z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None) -> object:
        ids = told(condition, ClassIds).ids
        return counter(z, sigma, ClassIds(2 * ids), state)

    pooled = Averaged([counter, twice])  # type: ignore[list-item]
    first, left = pooled(X, torch.ones(2), LABELS, START)
    assert first[:, 0].tolist() == [1.5, 3.0]
    second, _ = pooled(X, torch.ones(2), LABELS, left)
    assert second[:, 0].tolist() == [(101 + 202) / 2, (202 + 404) / 2]
    logits = Ensemble([masked_denoiser(0), masked_denoiser(1)])
    first, left = logits(Z, TIMES, NOTHING, START)
    torch.testing.assert_close(first, logits(Z, TIMES, NOTHING))
    second, _ = logits(Z, TIMES, NOTHING, left)
    each = [masked_denoiser(i)(Z, TIMES, NOTHING, cast(Several, left).parts[i])[0].softmax(-1) for i in (0, 1)]
    torch.testing.assert_close(second.exp(), torch.stack(each).mean(0))
    assert second.shape[-1] == V
