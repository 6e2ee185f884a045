"""Learning from rollouts: slots, losses, and gradients through the state."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from relay import D, T, V, encoder, masked_denoiser
from torch import Tensor

from oneblock.blockwise import BlockDenoiser
from oneblock.condition import Nothing
from oneblock.noise import LinearMask
from oneblock.precondition import MaskedTokens
from oneblock.sample.policy import Schedule, Uncertainty
from oneblock.sample.relay import masked_levels, reveal_by
from oneblock.state import NOBODY, START, Hidden
from oneblock.tasks.relay import GradientShare, RelayLoss, Rollout, RolloutBuffer

LAW = LinearMask()


def texts(count: int, seed: int = 0) -> Tensor:
    return torch.randint(V, (count, T), generator=torch.Generator().manual_seed(seed))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(count: int = 4, seed: int = 0) -> Rollout:
    return RolloutBuffer(mask=V, low=0.3).filled(texts(count, seed), noise(seed))


def relay_loss(**settings: object) -> RelayLoss:
    return RelayLoss(mask=V, law=LAW, policy=Uncertainty(tau=1.0), **settings)  # type: ignore[arg-type]


def test_the_first_filling_is_staggered_and_the_next_ones_start_at_the_top() -> None:
    buffer = RolloutBuffer(mask=V, low=0.2, high=0.7)
    tokens = texts(20_000)
    first = buffer.filled(tokens, noise())
    shares = (first.z == V).double().mean(1)
    assert float(shares.mean()) == pytest.approx(0.45, abs=0.01)
    assert float(shares.std()) > 1.2 * (0.45 * 0.55 / T) ** 0.5  # more than of one level
    assert torch.equal(first.z[first.z != V], tokens[first.z != V])
    buffer.keep(replace(first, z=first.tokens))
    second = buffer.filled(texts(20_000, 1), noise(1))
    assert float((second.z == V).double().mean()) == pytest.approx(0.7, abs=0.01)


def test_slots_that_are_done_are_filled_with_the_texts_of_their_numbers() -> None:
    buffer = RolloutBuffer(mask=V)
    first = buffer.filled(texts(4), noise())
    z = first.z.clone()
    z[1], z[3] = first.tokens[1], first.tokens[3]
    z[0, 0] = z[2, 0] = V
    state = Hidden(torch.randn(4, T, D, generator=noise()), torch.zeros(4, dtype=torch.int64))
    buffer.keep(Rollout(first.tokens, z, first.free, state, torch.tensor([5, 6, 7, 8])))
    fresh = texts(4, 1)
    second = buffer.filled(fresh, noise(1))
    assert torch.equal(second.tokens, torch.stack([first.tokens[0], fresh[1], first.tokens[2], fresh[3]]))
    assert torch.equal(second.z[[0, 2]], z[[0, 2]])
    assert bool((second.z[[1, 3]] == V).all())
    assert second.age.tolist() == [5, 0, 7, 0]
    assert isinstance(second.state, Hidden)
    assert second.state.owner.tolist() == [0, NOBODY, 0, NOBODY]
    assert not bool(second.state.tokens[[1, 3]].any())
    assert torch.equal(second.state.tokens[[0, 2]], state.tokens[[0, 2]])


def test_another_number_of_texts_than_slots_is_refused() -> None:
    buffer = RolloutBuffer(mask=V)
    buffer.filled(texts(3), noise())
    with pytest.raises(ValueError, match="1 texts for 3 slots"):
        buffer.filled(texts(1, 1), noise(1))


def test_parts_of_a_batch_are_masked_as_the_whole_is() -> None:
    whole, parts = RolloutBuffer(mask=V, high=0.6), [RolloutBuffer(mask=V, high=0.6) for _ in range(2)]
    for seed in range(2):
        tokens = texts(6, seed)
        found = whole.filled(tokens, noise(seed)).z
        own = [
            part.filled(tokens[first : first + 3], noise(seed), first=first, of=6).z
            for part, first in zip(parts, (0, 3), strict=True)
        ]
        assert torch.equal(torch.cat(own), found)
        for part in (whole, *parts):
            assert part.rollout is not None
            part.keep(replace(part.rollout, z=part.rollout.tokens))


def test_a_slot_of_a_band_is_done_at_its_lower_share() -> None:
    buffer = RolloutBuffer(mask=9, low=0.5)
    z = torch.tensor([[9, 9, 9, 0], [9, 9, 0, 0], [9, 0, 0, 0]])
    every = torch.ones_like(z, dtype=torch.bool)
    rollout = Rollout(torch.zeros_like(z), z, every, START, torch.zeros(3, dtype=torch.int64))
    assert buffer.done(rollout).tolist() == [False, True, True]
    half = every & (torch.arange(4) < 2)  # the share is of the places that can be masked
    assert buffer.done(replace(rollout, free=half)).tolist() == [False, False, True]


def test_places_that_are_given_are_never_masked() -> None:
    free = torch.rand(50, T, generator=noise(3)) < 0.5
    rollout = RolloutBuffer(mask=V).filled(texts(50), noise(), free)
    assert not bool(((rollout.z == V) & ~free).any())
    assert bool(((rollout.z == V) & free).any())


def test_a_buffer_goes_on_from_its_tensors() -> None:
    denoiser, buffer = masked_denoiser(), RolloutBuffer(mask=V)
    _, after = relay_loss()(denoiser, buffer.filled(texts(4), noise()), noise())
    buffer.keep(after)
    assert isinstance(buffer.rollout, Rollout)
    assert isinstance(buffer.rollout.state, Hidden)
    assert not buffer.rollout.state.tokens.requires_grad
    other = RolloutBuffer(mask=V)
    other.load(buffer.tensors(), torch.device("cpu"))
    ours, theirs = (one.filled(texts(4, 1), noise(1)) for one in (buffer, other))
    for name in ("tokens", "z", "free", "age"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert isinstance(theirs.state, Hidden)
    assert isinstance(ours.state, Hidden)
    assert torch.equal(ours.state.tokens, theirs.state.tokens)
    other.load({}, torch.device("cpu"))
    assert other.rollout is None
    assert RolloutBuffer(mask=V).tensors() == {}


def by_hand(denoiser: BlockDenoiser, rollout: Rollout, detach: bool, generator: torch.Generator) -> Tensor:
    """Two calls, written out; the mean over all masked places of each."""
    total, z, state = torch.zeros(()), rollout.z, rollout.state
    for _ in range(2):
        hidden = z == V
        times = hidden.sum(1).float() / T
        logits, state = denoiser(z, times, Nothing(len(z)), state)
        total = total + F.cross_entropy(logits[hidden], rollout.tokens[hidden])
        sure = logits.detach().softmax(-1).amax(-1)
        z = torch.where(Uncertainty(tau=1.0)(sure, hidden, generator), rollout.tokens, z)
        state = state.detach() if detach else state
    return total


@pytest.mark.parametrize("detach", [False, True])
def test_losses_and_gradients_are_those_of_two_calls_by_hand(detach: bool) -> None:
    found = []
    for ours in (True, False):
        denoiser, rollout = masked_denoiser(), started()
        if ours:
            loss, after = relay_loss(detach=detach)(denoiser, rollout, noise(7))
            total = loss.weighted.mean()
            assert after.age.tolist() == [2] * 4
        else:
            total = by_hand(denoiser, rollout, detach, noise(7))
        total.backward()
        found.append((total.detach(), [p.grad for p in denoiser.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for ours_grad, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours_grad, theirs, rtol=1e-4, atol=1e-5)


class Watched(BlockDenoiser):
    """Keeps the states that it leaves, and their gradients."""

    def forward(self, *inputs: object) -> object:  # type: ignore[override]
        answer, state = super().forward(*inputs)  # type: ignore[misc]
        if state.tokens.requires_grad:
            state.tokens.retain_grad()
        self.left = [*getattr(self, "left", []), state]
        return answer, state


@pytest.mark.parametrize("detach", [False, True])
def test_the_second_loss_reaches_the_first_state_unless_it_is_detached(detach: bool) -> None:
    watched = Watched(masked_denoiser().backbone, MaskedTokens())
    loss, _ = relay_loss(detach=detach)(watched, started(), noise(7))
    single, _ = relay_loss(calls=1)(Watched(masked_denoiser().backbone, MaskedTokens()), started(), noise(7))
    first = watched.left[0].tokens
    (from_second,) = torch.autograd.grad((loss.weighted - single.weighted.detach()).sum(), first, retain_graph=True)
    (from_first,) = torch.autograd.grad(loss_of_first_call(watched, first), first)
    through = (from_second - from_first).abs().max()
    assert bool(through > 1e-4) != detach


def loss_of_first_call(watched: Watched, tokens: Tensor) -> Tensor:
    """What the head makes of the hidden tokens of the first call."""
    rollout = started()
    hidden = rollout.z == V
    _, modulation = watched.backbone.stem(rollout.z, 4 * masked_levels(LAW, hidden), Nothing(4))
    logits = watched.backbone.head(tokens, modulation)
    return 4 * F.cross_entropy(logits[hidden], rollout.tokens[hidden])


def test_the_gradient_of_the_way_agrees_with_finite_differences() -> None:
    """Through the state of the first call."""
    denoiser, rollout = masked_denoiser(), started()
    way = denoiser.backbone.relay.norm.weight  # type: ignore[union-attr]
    loss = relay_loss()

    def value() -> Tensor:
        return loss(denoiser, rollout, noise(7))[0].weighted.mean()

    (grad,) = torch.autograd.grad(value(), way)
    step = 3e-3
    for i in (0, 5):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                way[i] += sign * step
                ends.append(float(value()))
                way[i] -= sign * step
        assert float(grad[i]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2, abs=1e-3)


def gradients(loss: RelayLoss, rollout: Rollout) -> list[Tensor]:
    denoiser = masked_denoiser()
    loss(denoiser, rollout, noise(7))[0].weighted.mean().backward()
    found = [p.grad for p in denoiser.parameters()]
    assert all(grad is not None for grad in found)
    return found  # type: ignore[return-value]


def test_with_one_call_a_step_relay_is_relay_with_stopped_gradients() -> None:
    denoiser = masked_denoiser()
    buffer = RolloutBuffer(mask=V)
    buffer.keep(relay_loss()(denoiser, buffer.filled(texts(4), noise()), noise())[1])
    rollout = buffer.filled(texts(4, 1), noise(1))
    for ours, theirs in zip(
        gradients(relay_loss(calls=1), rollout), gradients(relay_loss(calls=1, detach=True), rollout), strict=True
    ):
        assert torch.equal(ours, theirs)
    two = gradients(relay_loss(), rollout), gradients(relay_loss(detach=True), rollout)
    assert any(not torch.allclose(ours, theirs) for ours, theirs in zip(*two, strict=True))


def test_every_parameter_gets_a_gradient_though_nothing_is_masked_and_nobody_has_a_state() -> None:
    rollout = started()
    assert all(not bool(g.any()) for g in gradients(relay_loss(calls=1), replace(rollout, z=rollout.tokens)))


def test_symbols_that_are_shown_never_change_and_true_ones_are_revealed() -> None:
    denoiser, rollout = masked_denoiser(), started(16)
    _, after = relay_loss(calls=3)(denoiser, rollout, noise())
    shown = rollout.z != V
    assert torch.equal(after.z[shown], rollout.z[shown])
    new = (after.z != V) & ~shown
    assert bool(new.any(1).all())
    assert torch.equal(after.z[new], rollout.tokens[new])
    assert torch.equal(after.tokens, rollout.tokens)


def test_rollouts_without_states_are_those_of_the_network_alone() -> None:
    """The arm without states asks no network for any."""
    plain = BlockDenoiser(encoder(), MaskedTokens())
    loss, after = relay_loss(carry=False)(plain, started(), noise(7))
    assert after.state is START
    carried, _ = relay_loss()(masked_denoiser(zero=True), started(), noise(7))
    torch.testing.assert_close(loss.weighted, carried.weighted)


def test_training_and_sampling_reveal_alike() -> None:
    """Who is always right is asked in sampling as often as in training."""
    tokens = texts(V)
    tokens[:, 0] = torch.arange(V)  # shown, so that texts can be told apart
    free = (torch.arange(T) > 0).expand(V, T)

    def right(z: Tensor, sigma: Tensor, condition: object) -> Tensor:
        p = torch.linspace(0.99, 0.7, T)[None, :, None] - 0.04 * z[:, :1, None]
        answer = F.one_hot(tokens[z[:, 0]], V).float()
        return (answer * p + (1 - answer) * (1 - p) / (V - 1)).log()

    policy = Uncertainty(tau=0.2, spread=0.0)
    start = torch.where(free, V, tokens)
    found = reveal_by(right, LAW, start, V, policy, carry=False)
    assert torch.equal(found.tokens, tokens)
    rollout = Rollout(tokens, start, free, START, torch.zeros(V, dtype=torch.int64))
    step = RelayLoss(mask=V, law=LAW, policy=policy, calls=1, carry=False)
    calls = torch.zeros(V, dtype=torch.int64)
    while bool((rollout.z == V).any()):
        calls += (rollout.z == V).any(1)
        _, rollout = step(right, rollout, noise())
    assert torch.equal(calls, found.calls)
    assert len(set(calls.tolist())) > 1


def test_the_time_is_that_of_the_share_of_free_places() -> None:
    seen: list[Tensor] = []

    def asked(z: Tensor, sigma: Tensor, condition: object) -> Tensor:
        seen.append(sigma)
        return torch.zeros(*z.shape, V)

    tokens, free = texts(3), (torch.arange(T) < 4).expand(3, T)
    z = torch.where(free & (torch.arange(T) < 2), V, tokens)
    rollout = Rollout(tokens, z, free, START, torch.zeros(3, dtype=torch.int64))
    relay_loss(carry=False, calls=1)(asked, rollout, noise())
    assert seen[0].tolist() == [0.5] * 3


def test_the_time_stays_in_the_band() -> None:
    seen: list[Tensor] = []

    def asked(z: Tensor, sigma: Tensor, condition: object) -> Tensor:
        seen.append(sigma)
        return torch.zeros(*z.shape, V)

    loss = replace(relay_loss(carry=False, calls=1), band=(0.4, 0.6), policy=Schedule(steps=4))
    loss(asked, RolloutBuffer(mask=V).filled(texts(30), noise()), noise())
    assert float(seen[0].min()) == pytest.approx(0.4)
    assert float(seen[0].max()) == pytest.approx(0.6)


def test_shares_and_calls_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"low=0.5, high=0.5 are not masked shares"):
        RolloutBuffer(mask=V, low=0.5, high=0.5)
    with pytest.raises(ValueError, match="calls=0 is not allowed"):
        relay_loss(calls=0)


def test_the_share_of_the_gradient_through_states_is_that_of_the_two_losses() -> None:
    """By hand: of the first call's hidden tokens, what the second loss sends back against what the first one does."""
    denoiser, gradients = masked_denoiser(), GradientShare()
    rollout = started()
    loss, _ = relay_loss(calls=2, gradients=gradients)(denoiser, rollout, noise())
    loss.weighted.mean().backward()
    found = gradients.take()
    assert gradients.take() is None

    hidden, parts = rollout.z == V, []
    logits, state = denoiser(rollout.z, masked_levels(LAW, hidden, rollout.free), Nothing(4), rollout.state)
    assert isinstance(state, Hidden)
    parts.append((logits, hidden))
    chosen = Uncertainty(tau=1.0)(logits.detach().softmax(-1).amax(-1), hidden, noise())
    z = torch.where(chosen, rollout.tokens, rollout.z)
    handed = state.tokens.detach().requires_grad_()
    hidden = z == V
    logits, _ = denoiser(z, masked_levels(LAW, hidden, rollout.free), Nothing(4), replace(state, tokens=handed))
    parts.append((logits, hidden))
    first, second = (
        (F.cross_entropy(a.flatten(0, 1), rollout.tokens.flatten(), reduction="none") * h.flatten()).sum() / h.sum()
        for a, h in parts
    )
    (later,) = torch.autograd.grad(second, handed)
    (own,) = torch.autograd.grad(first, state.tokens)
    assert found == pytest.approx(float(later.norm() / (later.norm() + own.norm())), rel=1e-4)
    relay_loss(calls=1, gradients=gradients)(denoiser, rollout, noise())[0].weighted.mean().backward()
    assert gradients.take() is None
