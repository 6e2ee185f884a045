from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rivalry import same, settings_of, weights_of
from torch import Tensor

from oneblock.data import Samples
from oneblock.models.cache import RecurrentCache
from oneblock.models.gpt import GPTConfig
from oneblock.models.recurrent import RecurrentDepth
from oneblock.rivals import TruncatedBPTT, train_rival, training_peak
from oneblock.rivals.recurrent import draw_iterations

V, T = 5, 6
CONFIG = GPTConfig(
    vocabulary=V, context=T, label_width=V, depth=2, width=16, heads=2, streams="none", prelude=1, coda=1
)


class Cycles:
    """Texts that count upwards from a random symbol."""

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        first = torch.randint(V, (batch_size, 1), generator=torch.Generator().manual_seed(seed % 2**32 + step))
        return Samples((first + torch.arange(T)) % V, None)


def randomised() -> RecurrentDepth:
    torch.manual_seed(0)
    model = RecurrentDepth(CONFIG).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


TOKENS = torch.randint(V, (3, T), generator=seeded())


def test_the_state_follows_the_equations() -> None:
    model = randomised()
    gpt = model.gpt
    state, e, condition = model.start(TOKENS, seeded())
    torch.testing.assert_close(state, torch.randn(3, T, 16, generator=seeded()).double())
    for _ in range(3):
        h = state @ model.adapter.weight[:, :16].mT + e @ model.adapter.weight[:, 16:].mT
        for name in ("0", "1"):
            h = gpt.layers[name](h, condition)
        state = model.norm(h)
    torch.testing.assert_close(model(TOKENS, 3, 3, seeded()), gpt.head(state, condition))
    *_, last = model.answers(TOKENS, 3, seeded())
    torch.testing.assert_close(last, gpt.head(state, condition))


def test_cached_answers_are_those_of_the_whole_text() -> None:
    model = randomised()
    states = torch.randn(3, T, 16, generator=seeded()).double()
    cache = RecurrentCache(model, 3)
    before = [model.gpt.stem.start(3, TOKENS.device)[:, 0], *TOKENS.unbind(1)]
    answers = [cache.ask(before[i], states[:, i]) for i in range(T)]
    torch.testing.assert_close(torch.stack(answers, 1), model(TOKENS, 3, 3, seeded()))
    with pytest.raises(ValueError, match="the text has 7 tokens, but the network was made for 6; cut it"):
        cache.ask(before[-1], states[:, 0])


def gradient(iterations: int, back: int) -> dict[str, Tensor]:
    model = randomised()
    loss = F.cross_entropy(model(TOKENS, iterations, back, seeded()).flatten(0, 1), TOKENS.flatten())
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_go_back_so_far_and_no_further() -> None:
    """The same as when the state before the last iterations is a constant."""
    model = randomised()
    state, e, condition = model.start(TOKENS, seeded())
    for _ in range(3):
        state = model.step(state, e, condition)
    state = state.detach()
    for _ in range(2):
        state = model.step(state, e, condition)
    F.cross_entropy(model.gpt.head(state, condition).flatten(0, 1), TOKENS.flatten()).backward()
    found = gradient(5, 2)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad)
    assert not torch.allclose(gradient(5, 5)["adapter.weight"], found["adapter.weight"])
    assert torch.equal(gradient(2, 8)["adapter.weight"], gradient(2, 2)["adapter.weight"])


def test_nothing_leaks() -> None:
    model = randomised()
    before = model(TOKENS, 3, 1, seeded())
    for place in range(T):
        changed = TOKENS.clone()
        changed[:, place] = (changed[:, place] + 1) % V
        moved = (model(changed, 3, 1, seeded()) - before).abs().amax((0, 2)) > 1e-9
        assert moved.tolist() == [i > place for i in range(T)]


def test_iterations_have_the_law_of_the_paper() -> None:
    generator = seeded()
    drawn = torch.tensor([draw_iterations(32, generator) for _ in range(20_000)], dtype=torch.float64)
    assert float(drawn.min()) >= 1
    assert float(drawn.mean()) == pytest.approx(33, abs=0.4)
    # Var = E[exp(tau)] + Var[exp(tau)], of a log-normal with mean 32 and spread 1/2
    assert float(drawn.var()) == pytest.approx(32 + 32**2 * (torch.tensor(0.25).exp().item() - 1), rel=0.1)


def test_it_learns_spends_its_budget_and_repeats_itself() -> None:
    settings = settings_of(16 * 40 * (2 + 2 * 5), learning_rate=0.02)
    rivals = [TruncatedBPTT(CONFIG, iterations=4, back=2) for _ in range(2)]
    reports = [list(train_rival(rival, Cycles(), settings)) for rival in rivals]
    assert reports[0] == reports[1]
    spent = sum(report.layer_evaluations for report in reports[0])
    assert reports[0][-1].work == spent
    assert spent == 16 * sum(2 + 2 * r for r in rivals[0].schedule(settings))
    assert spent == pytest.approx(settings.budget, rel=0.05)
    models = [rival.model for rival in rivals]
    assert models[0] is not None and models[1] is not None
    assert same(weights_of(models[0]), weights_of(models[1]))
    held_out = (torch.arange(V)[:, None] + torch.arange(T)) % V
    steps = list(rivals[0].log_probabilities(held_out, 4))
    right = [float(p[:, 1:].argmax(-1).eq(held_out[:, 1:]).float().mean()) for p in steps]
    assert len(right) == 4 and right[-1] == 1.0
    torch.testing.assert_close(steps[-1].exp().sum(-1), torch.ones(V, T))
    written = list(rivals[0].write(held_out[:, :2], T - 2, 4, temperature=0.0))
    assert torch.equal(torch.stack(written, 1), held_out[:, 2:])


def test_memory_grows_with_the_iterations_that_gradients_go_through() -> None:
    settings = settings_of(10_000)
    two, eight = (training_peak(TruncatedBPTT(CONFIG, back=back), settings) for back in (2, 8))
    assert eight.by_kind["Activation"] > 2.5 * two.by_kind["Activation"]
    assert training_peak(TruncatedBPTT(CONFIG, back=2), settings, real=True) == two


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncatedBPTT(CONFIG, back=0), "iterations=32, back=0: nothing is trained; use 1 or more"),
        (lambda: RecurrentDepth(replace(CONFIG, streams="one")), "streams='one': a recurrence has no noisy targets"),
        (lambda: list(TruncatedBPTT(CONFIG).log_probabilities(TOKENS, 1)), "truncated-bptt has trained 0 of 1 parts"),
        (lambda: next(TruncatedBPTT(CONFIG).write(TOKENS, 1, 1)), "truncated-bptt has trained 0 of 1 parts"),
        (lambda: TruncatedBPTT(CONFIG).schedule(settings_of(10)), "budget=10 does not pay for one step"),
    ],
)
def test_wrong_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
