"""Text revealed by a policy: calls counted, states carried, finished rows dropped."""

import pytest
import torch
from relay import T, V, masked_denoiser, masked_tokens
from torch import Tensor

from oneblock.condition import Condition, Nothing
from oneblock.noise import CosineMask, LinearMask
from oneblock.sample.policy import Schedule, Uncertainty
from oneblock.sample.relay import masked_levels, nats_in_calls, reveal_by
from oneblock.state import START, Hidden, State

LAW = LinearMask()
MASKED = torch.full((3, T), V)


def test_the_time_is_that_of_the_masked_share() -> None:
    hidden = torch.tensor([[True, True, False, False], [True, False, False, False]])
    assert masked_levels(LAW, hidden).tolist() == [0.5, 0.25]
    free = torch.tensor([[True, True, True, True], [True, True, False, False]])
    assert masked_levels(LAW, hidden, free).tolist() == [0.5, 0.5]
    times = masked_levels(CosineMask(), hidden)
    torch.testing.assert_close(CosineMask().cdf(times).float(), torch.tensor([0.5, 0.25]))


class Sure:
    """Knows the answer, surer of early places; remembers which calls it was asked and what states it was given."""

    def __init__(self, answer: Tensor, probabilities: list[float]) -> None:
        self.answer, self.probabilities = answer, torch.tensor(probabilities)
        self.asked: list[Tensor] = []
        self.times: list[list[float]] = []
        self.states: list[State] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State = START) -> object:
        self.asked.append(z)
        self.times.append(sigma.tolist())
        self.states.append(state)
        rows = [next(i for i, one in enumerate(self.answer) if bool(((one == row) | (row == V)).all())) for row in z]
        p = self.probabilities.expand(len(z), T)
        rest = ((1 - p) / (V - 1))[..., None].expand(-1, -1, V)
        logits = rest.scatter(-1, self.answer[rows][..., None], p[..., None]).log()
        marks = torch.tensor(rows, dtype=torch.float32).view(-1, 1, 1) + 10 * len(self.asked)
        return logits, Hidden(marks, torch.zeros(len(z), dtype=torch.int64))


ANSWER = torch.tensor([[0, 1, 2, 3, 4, 0, 1], [1, 2, 3, 4, 0, 1, 2], [2, 3, 4, 0, 1, 2, 3]])


def test_calls_are_counted_for_every_sequence_and_finished_ones_are_dropped() -> None:
    """Uncertainties from 0.03 to 0.09 and a tau of 0.15: 7 places are revealed as 3, 2, 1 and 1, and 4 as 3 and 1."""
    given = ANSWER.clone()
    given[0], given[1, :4], given[2, 2] = V, V, V
    denoiser = Sure(ANSWER, [0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91])
    found = reveal_by(denoiser, LAW, given, V, Uncertainty(tau=0.15, spread=0.5), most=10)  # type: ignore[arg-type]
    assert torch.equal(found.tokens, ANSWER)
    assert found.calls.tolist() == [4, 2, 1]
    assert [len(z) for z in denoiser.asked] == [3, 2, 1, 1]
    assert denoiser.times[0] == pytest.approx([1.0, 4 / 7, 1 / 7])
    for before, after in zip(denoiser.asked, denoiser.asked[1:], strict=False):
        known = before[: len(after)] != V
        assert torch.equal(after[known], before[: len(after)][known])


def test_states_go_on_with_their_rows() -> None:
    """The first row is done first: the second then gets its own state, not the first one's."""
    given = ANSWER.clone()
    given[0, 0], given[1, 1:] = V, V
    denoiser = Sure(ANSWER, [0.9] * T)
    reveal_by(denoiser, LAW, given[:2], V, Uncertainty(tau=0.0), most=2)  # type: ignore[arg-type]
    assert denoiser.states[0] is START
    states = [state.tokens.flatten().tolist() for state in denoiser.states[1:] if isinstance(state, Hidden)]
    assert states == [[11.0], [21.0]]


def test_after_so_many_calls_one_more_reveals_the_rest() -> None:
    denoiser = Sure(ANSWER, [0.9] * T)
    found = reveal_by(denoiser, LAW, MASKED[:1], V, Uncertainty(tau=0.0), most=3)  # type: ignore[arg-type]
    assert found.calls.tolist() == [4]
    assert torch.equal(found.tokens, ANSWER[:1])
    denoiser = Sure(ANSWER, [0.9] * T)
    at_once = reveal_by(denoiser, LAW, MASKED, V, Uncertainty(), most=0)  # type: ignore[arg-type]
    assert at_once.calls.tolist() == [1, 1, 1]


def test_without_carrying_it_is_the_sampler_of_a_network_without_states() -> None:
    """A network with its way shut reveals the same with states as without."""
    tokens, _ = masked_tokens(6, 3)
    open_way, shut = masked_denoiser().eval(), masked_denoiser(zero=True).eval()
    for policy in (Uncertainty(tau=0.5), Schedule(steps=5)):
        without = reveal_by(open_way, LAW, tokens, V, policy, carry=False, temperature=1.0, seed=4)
        assert torch.equal(without.tokens[tokens != V], tokens[tokens != V])
        assert not bool((without.tokens == V).any())
        carried = reveal_by(shut, LAW, tokens, V, policy, carry=True, temperature=1.0, seed=4)
        assert torch.equal(carried.tokens, without.tokens)
        assert torch.equal(carried.calls, without.calls)
    with_states = reveal_by(open_way, LAW, tokens, V, Uncertainty(tau=0.5), temperature=1.0, seed=4)
    without = reveal_by(open_way, LAW, tokens, V, Uncertainty(tau=0.5), carry=False, temperature=1.0, seed=4)
    assert not torch.equal(with_states.tokens, without.tokens)


def test_a_sequence_without_masks_costs_nothing() -> None:
    found = reveal_by(masked_denoiser(), LAW, ANSWER, V, Uncertainty())
    assert found.calls.tolist() == [0, 0, 0]
    assert torch.equal(found.tokens, ANSWER)
    assert len(Nothing(3)) == 3


class Pairs:
    """Two symbols that are equal, each 0 with probability 0.8; what was revealed is known, and the calls before this
    one, if states are handed on."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.times: list[float] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None) -> object:
        self.times.append(float(sigma[0]))
        shown = torch.where(z == 2, -1, z).amax(1)
        odds = torch.tensor([[0.8, 0.2], [1.0, 0.0], [0.0, 1.0]]).clamp_min(1e-30).log()
        logits = odds[shown + 1][:, None].expand(-1, 2, -1)
        if state is None:
            return logits
        before = int(state.tokens[0, 0, 0]) if isinstance(state, Hidden) else 0
        self.calls.append(before)
        return logits, Hidden(torch.full((len(z), 1, 1), before + 1.0), torch.zeros(len(z), dtype=torch.int64))


def test_bits_in_as_many_calls_as_places_are_those_of_the_chain_rule_and_in_one_call_those_of_the_margins() -> None:
    """-ln 0.8 of the first symbol and nothing of the second; or -ln 0.8 of both, drawn as if they were independent."""
    tokens = torch.tensor([[0, 0], [1, 1], [0, 0], [0, 0], [1, 1]])
    each = torch.where(tokens[:, 0] == 0, 0.8, 0.2).log().neg()
    denoiser = Pairs()
    nats = nats_in_calls(denoiser, LAW, tokens, 2, 2, carry=False, seed=1)  # type: ignore[arg-type]
    torch.testing.assert_close(nats.sum(1), each)
    assert {float(row.argmax()) for row in nats} == {0.0, 1.0}, "any place is the first one"
    assert denoiser.times == [1.0, 0.5]
    torch.testing.assert_close(nats_in_calls(denoiser, LAW, tokens, 2, 1, carry=False).sum(1), 2 * each)  # type: ignore[arg-type]


def test_bits_in_calls_hand_states_on_and_begin_anew() -> None:
    tokens, denoiser = torch.zeros(3, 2, dtype=torch.int64), Pairs()
    for _ in range(2):
        nats_in_calls(denoiser, LAW, tokens, 2, 2)  # type: ignore[arg-type]
    assert denoiser.calls == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="calls=3 is not allowed"):
        nats_in_calls(denoiser, LAW, tokens, 2, 3)  # type: ignore[arg-type]
