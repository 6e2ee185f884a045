import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.condition import Condition, Tokens, told
from oneblock.data import Samples
from oneblock.noise import LogNormal
from oneblock.sample.causal import Calls, predict
from oneblock.table import simplex
from oneblock.tasks.causal import CausalText, code_length

V, N, T = 3, 4, 5
TABLE = simplex(V)
TASK = CausalText(TABLE, LogNormal())


def tokens() -> Tensor:
    return torch.randint(V, (N, T), generator=torch.Generator().manual_seed(0))


def test_targets_are_rows_with_noise_of_their_level() -> None:
    levels = torch.tensor([0.1, 1.0, 2.0, 4.0])
    many = torch.zeros(N, 2000, dtype=torch.long)
    batch = TASK.draw(Samples(many, None), levels, 1, torch.Generator().manual_seed(0))
    assert batch.noised.block == 1 and torch.equal(batch.condition.values, many) and torch.equal(batch.targets, many)
    spread = (batch.noised.z - TABLE[0]).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(spread, levels, rtol=0.06, atol=0)
    torch.testing.assert_close(batch.noised.z[0].mean(0), TABLE[0], rtol=0, atol=0.01)


def test_a_share_of_the_batch_is_told_nothing() -> None:
    task, levels = CausalText(TABLE, LogNormal(), clean=0.5), torch.full((N,), 0.1)
    noised = task.draw(Samples(tokens(), None), levels, 0, torch.Generator()).noised
    torch.testing.assert_close(noised.sigma, torch.tensor([80.0, 80.0, 0.1, 0.1]))
    assert float(noised.z[:2].abs().mean()) > 20 > 1 > float(noised.z[2:].abs().mean())


def test_the_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.randn(N, T, V, generator=torch.Generator().manual_seed(2))
    noised = TASK.noised(tokens(), torch.ones(N), 0, torch.Generator().manual_seed(0))
    loss = TASK.loss(lambda z, sigma, condition: logits, noised, tokens(), Tokens(tokens()))
    p = logits.softmax(-1)
    by_hand = torch.stack([-sum(p[i, j, tokens()[i, j]].log() for j in range(T)) / T for i in range(N)])
    torch.testing.assert_close(loss.weighted, by_hand)
    assert torch.equal(loss.plain, loss.weighted)


def test_unknown_tokens_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="token 3 is unknown; the plan has 3 symbols"):
        TASK.noised(torch.full((N, T), 3), torch.ones(N), 0, torch.Generator())
    with pytest.raises(ValueError, match=r"clean=1\.5 is not a share; use 0 to 1"):
        CausalText(TABLE, LogNormal(), clean=1.5)


P = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]])
"""A toy language: the next symbol follows from the one before; the first comes after symbol 0."""


def exact(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """The posterior of the next symbol of the toy language from a noisy row, by Bayes' rule."""
    before = F.pad(told(condition, Tokens).values, (1, 0))[:, : z.shape[1]]
    return P[before].log() + z @ TABLE.mT / sigma[:, None, None] ** 2


@pytest.mark.parametrize("levels", [(8.0,), (8.0, 0.8, 0.3), (1.0, 0.5)])
def test_the_code_length_is_above_the_exact_value_and_falls_to_it(levels: tuple[float, ...]) -> None:
    """With exact blocks the mean over the noise is exact wherever the first level tells nothing of the token."""
    texts = torch.cartesian_prod(*[torch.arange(V)] * 3)
    truth = -P[F.pad(texts, (1, 0))[:, :3], texts].log()
    calls = Calls(levels=levels, path="redraw")
    draws = []
    for seed in range(2000):
        *_, last = predict(exact, TABLE, texts, calls, seed=seed)
        draws.append(last.gather(-1, texts[..., None])[..., 0])
    log_p = torch.stack(draws)
    lengths = {k: code_length(log_p.unflatten(0, (-1, k)).transpose(0, 1)).mean() for k in (1, 10, 2000)}
    assert lengths[1] > lengths[10] > truth.mean() - 0.01
    if levels[0] == 8.0:
        assert float(lengths[2000]) == pytest.approx(float(truth.mean()), abs=0.01)
    if len(levels) > 1:
        assert lengths[1] > truth.mean() + 0.1


def test_one_draw_or_equal_draws_change_nothing() -> None:
    log_p = torch.tensor([0.2, 0.5]).log()
    torch.testing.assert_close(code_length(log_p[None]), -log_p)
    torch.testing.assert_close(code_length(log_p.expand(7, 2)), -log_p)
    mixed = code_length(torch.tensor([[0.2], [0.4]]).log())
    assert float(mixed) == pytest.approx(-math.log(0.3))
