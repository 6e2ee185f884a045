"""States over the border of a band: what the block before is shown, and which slots get what it leaves."""

from dataclasses import replace

import pytest
import torch
from relay import D, T, V, masked_denoiser, random_state
from torch import Tensor

from oneblock.condition import Condition, Nothing
from oneblock.noise import CosineMask, LinearMask
from oneblock.sample.relay import masked_levels
from oneblock.state import START, Hidden, State
from oneblock.tasks.across import SPREAD, Border
from oneblock.tasks.relay import Rollout

LAW = LinearMask()
BORDER = Border(mask=V, law=LAW, share=0.5, times=(0.4, 1.0))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slots(count: int = 4, share: float = 0.3, length: int = T, seed: int = 0) -> Rollout:
    """New ones, with about this share of their places masked."""
    generator = noise(seed)
    tokens = torch.randint(V, (count, length), generator=generator)
    z = torch.where(torch.rand(count, length, generator=generator) < share, V, tokens)
    return Rollout(tokens, z, torch.ones_like(z, dtype=torch.bool), START, torch.zeros(count, dtype=torch.int64))


class Asked:
    """A block of which is known what it was asked."""

    def __init__(self) -> None:
        self.block = masked_denoiser(3).eval()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State = START) -> tuple[Tensor, State]:
        assert state is START
        self.calls.append((z, sigma))
        found: tuple[Tensor, State] = self.block(z, sigma, condition, state)
        return found


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_block_before_sees_more_masks_by_as_much_as_it_should(share: float) -> None:
    rollout = slots(500, share, length=400)
    z = BORDER.noisier(rollout, noise(1))
    shown = z != V
    assert torch.equal(z[shown], rollout.z[shown])
    shares = (~shown).double().mean(1)
    assert float(shares.mean()) == pytest.approx(0.5 + SPREAD / 2, abs=0.006)
    assert float(shares.std()) == pytest.approx((SPREAD**2 / 12 + 0.25 / 400) ** 0.5, rel=0.25)


def test_shares_end_at_one_and_never_fall() -> None:
    high = replace(BORDER, share=0.97)
    shares = (high.noisier(slots(500, 0.5, length=400), noise(1)) == V).double().mean(1)
    assert float((shares == 1).double().mean()) == pytest.approx(0.7, abs=0.08)
    for share in (0.8, 1.0):
        rollout = slots(50, share, length=400)
        assert torch.equal(BORDER.noisier(rollout, noise(1)), rollout.z)


def test_given_places_are_neither_masked_nor_counted() -> None:
    rollout = slots(500, 0.3, length=400)
    free = torch.arange(400).expand(500, 400) >= 100
    rollout = replace(rollout, free=free, z=torch.where(free, rollout.z, rollout.tokens))
    z = BORDER.noisier(rollout, noise(1))
    assert torch.equal(z[:, :100], rollout.tokens[:, :100])
    assert float((z[:, 100:] == V).double().mean()) == pytest.approx(0.5 + SPREAD / 2, abs=0.006)
    few, before = slots(20), Asked()
    few = replace(few, free=few.free & (torch.arange(T) > 1), z=torch.where(torch.arange(T) > 1, few.z, few.tokens))
    BORDER.crossed(before, few, noise(1))
    ((z, times),) = before.calls
    assert torch.equal(times, masked_levels(LAW, z == V, few.free).clamp(0.4, 1.0))


def test_a_state_tells_nothing_of_what_z_hides() -> None:
    """Two texts that differ below the masks of z alone have equal states: text -> z -> z with more masks."""
    rollout = slots(8)
    other = replace(rollout, tokens=torch.where(rollout.z == V, (rollout.tokens + 1) % V, rollout.tokens))
    assert not torch.equal(other.tokens, rollout.tokens)
    before = masked_denoiser(3).eval()
    one, two = (BORDER.crossed(before, some, noise(1)).state for some in (rollout, other))
    assert isinstance(one, Hidden) and isinstance(two, Hidden)
    assert torch.equal(one.tokens, two.tokens)
    hidden_more = replace(rollout, z=torch.full_like(rollout.z, V))
    all_hidden = BORDER.crossed(before, hidden_more, noise(1)).state
    assert isinstance(all_hidden, Hidden)
    assert not torch.equal(one.tokens, all_hidden.tokens)


@pytest.mark.parametrize("law", [LinearMask(), CosineMask()])
def test_new_slots_have_the_state_of_one_call_within_its_band(law: LinearMask | CosineMask) -> None:
    low, high = law.quantile(torch.tensor([0.52, 0.68], dtype=torch.float64)).tolist()
    border = replace(BORDER, law=law, times=(low, high))
    rollout, before = slots(20), Asked()
    found = border.crossed(before, rollout, noise(1))
    ((z, times),) = before.calls
    assert torch.equal(z, border.noisier(rollout, noise(1)))
    assert torch.equal(times, masked_levels(law, z == V).clamp(low, high))
    assert float(times.min()) < float(times.max())
    with torch.no_grad():
        _, left = before.block(z, times, Nothing(20), START)
    assert isinstance(found.state, Hidden) and isinstance(left, Hidden)
    assert torch.equal(found.state.tokens, left.tokens)
    assert bool(found.state.present.all())
    assert not found.state.tokens.requires_grad


def test_slots_that_go_on_keep_their_states_and_are_not_asked_about() -> None:
    before = Asked()
    kept = random_state(5).only(torch.tensor([True, False, True, False, True]))
    rollout = replace(slots(5), state=kept, age=torch.tensor([2, 0, 4, 0, 2]))
    found = BORDER.crossed(before, rollout, noise(1)).state
    ((z, _),) = before.calls
    assert torch.equal(z, BORDER.noisier(rollout, noise(1))[[1, 3]])
    assert isinstance(found, Hidden)
    assert torch.equal(found.tokens[[0, 2, 4]], kept.tokens[[0, 2, 4]])
    assert not torch.equal(found.tokens[[1, 3]], kept.tokens[[1, 3]])
    assert bool(found.present.all())
    older = replace(rollout, age=rollout.age + 1)
    assert BORDER.crossed(before, older, noise(1)) is older
    assert len(before.calls) == 1


def test_states_of_half_precision_are_kept_whole() -> None:
    def half(z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]:
        tokens = torch.ones(len(z), T, D, dtype=torch.bfloat16)
        return z, Hidden(tokens, torch.zeros(len(z), dtype=torch.int64))

    found = BORDER.crossed(half, slots(), noise()).state  # type: ignore[arg-type]
    assert isinstance(found, Hidden)
    assert found.tokens.dtype == torch.float32


def test_parts_of_a_batch_are_masked_as_the_whole_is() -> None:
    rollout = slots(7)
    whole = BORDER.noisier(rollout, noise(1))
    parts = [
        BORDER.noisier(rollout.take(slice(first, last)), noise(1), first=first, of=7)
        for first, last in ((0, 3), (3, 7))
    ]
    assert torch.equal(torch.cat(parts), whole)
