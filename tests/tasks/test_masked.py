import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.condition import Condition, Nothing
from oneblock.data import Samples
from oneblock.noise import CosineMask, LinearMask, NoiseLaw
from oneblock.partition import make_partition
from oneblock.tasks.masked import MaskedText, nelbo

V = 5
LAWS: list[NoiseLaw] = [LinearMask(), CosineMask()]
P = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])


def iid(count: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.multinomial(P, count * length, replacement=True, generator=generator).view(count, length)


def oracle(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """The exact denoiser of independent symbols."""
    return P.log().expand(*z.shape, V)


@pytest.mark.parametrize("law", LAWS)
def test_the_masked_share_is_the_mass_below_the_time(law: NoiseLaw) -> None:
    tokens, sigma = iid(4000, 8), torch.full((4000,), 0.3)
    noised = MaskedText(law, V).noised(tokens, sigma, 1, torch.Generator().manual_seed(0))
    hidden = noised.z == V
    assert float(hidden.float().mean()) == pytest.approx(float(law.cdf(torch.tensor(0.3))), abs=0.01)
    assert torch.equal(noised.z[~hidden], tokens[~hidden])
    assert noised.block == 1


@pytest.mark.parametrize("law", LAWS)
def test_the_loss_is_that_of_md4(law: NoiseLaw) -> None:
    """``-alpha'(t) / (1 - alpha(t))`` times the summed cross-entropy, over the density ``-alpha'(t)`` of the times."""
    task, tokens = MaskedText(law, V), iid(6, 9)
    times = torch.rand(6, dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()
    alpha = 1 - law.cdf(times)
    (slope,) = torch.autograd.grad(alpha.sum(), times)
    noised = task.noised(tokens, times.detach(), None, torch.Generator().manual_seed(0))
    logits = torch.randn(6, 9, V, generator=torch.Generator().manual_seed(1))
    found = task.loss(lambda z, sigma, condition: logits, noised, tokens, Nothing(len(tokens)))
    nats = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none") * (noised.z == V)
    expected = (-slope / (1 - alpha)).detach() * nats.double().sum(1) / (-slope) / 9
    torch.testing.assert_close(found.weighted.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.plain, nats.sum(1) / (noised.z == V).sum(1).clamp_min(1))


@pytest.mark.parametrize("law", LAWS)
def test_even_weights_count_every_masked_token_alike_and_leave_the_bound(law: NoiseLaw) -> None:
    bound, even = MaskedText(law, V), MaskedText(law, V, {0: 0.25, None: 0.5})
    tokens, times = iid(6, 9), torch.linspace(0.1, 0.9, 6)
    logits = torch.randn(6, 9, V, generator=torch.Generator().manual_seed(1))
    for block, share in ((0, 0.25), (None, 0.5)):
        noised = even.noised(tokens, times, block, torch.Generator().manual_seed(0))
        found = even.loss(lambda z, sigma, condition: logits, noised, tokens, Nothing(len(tokens)))
        nats = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none") * (noised.z == V)
        torch.testing.assert_close(found.weighted, nats.sum(1) / (share * 9))
        plain = bound.loss(lambda z, sigma, condition: logits, noised, tokens, Nothing(len(tokens))).plain
        torch.testing.assert_close(found.plain, plain)
    partition = make_partition(law, 2)
    assert nelbo(oracle, even, partition, tokens) == nelbo(oracle, bound, partition, tokens)


@pytest.mark.parametrize("law", LAWS)
def test_the_bound_of_an_exact_denoiser_is_the_entropy(law: NoiseLaw) -> None:
    tokens = iid(3000, 16)
    exact = float(-P.log()[tokens].mean())  # of these very tokens, so that only masks are random
    bound = nelbo(oracle, MaskedText(law, V), make_partition(law, 1), tokens)
    assert abs(bound.total - exact) < 4 * bound.error
    assert bound.error < 0.02
    assert bound.bits(2.0)[0] == pytest.approx(2 * bound.total / math.log(2))


@pytest.mark.parametrize("law", LAWS)
def test_bands_sum_to_the_bound_of_one(law: NoiseLaw) -> None:
    def worse(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return oracle(z, sigma, condition) * (1 + 5 * sigma[:, None, None].float())

    task, tokens = MaskedText(law, V), iid(3000, 16)
    whole = nelbo(worse, task, make_partition(law, 1), tokens)
    parts = nelbo(worse, task, make_partition(law, 3), tokens)
    assert parts.total == sum(parts.bands)
    assert abs(whole.total - parts.total) < 4 * math.hypot(whole.error, parts.error)
    assert max(parts.bands) - min(parts.bands) > 10 * parts.error  # bands differ, so a wrong weight would show


@pytest.mark.parametrize("law", LAWS)
def test_the_bound_is_the_same_for_rows_in_any_order(law: NoiseLaw) -> None:
    """A denoiser that is worse at late times, of rows from the likeliest to the least likely: times that rise from row
    to row would ask it for the hard rows at late times only."""

    def worse(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return oracle(z, sigma, condition) * (1 + 5 * sigma[:, None, None].float())

    task, tokens = MaskedText(law, V), iid(6000, 8)
    rising = tokens[(-P.log()[tokens]).sum(1).argsort()]
    orders = [nelbo(worse, task, make_partition(law, 1), rows) for rows in (tokens, rising, rising.flip(0))]
    for one in orders[1:]:
        assert abs(one.total - orders[0].total) < 4 * math.hypot(one.error, orders[0].error)


def test_a_time_of_zero_masks_nothing_and_costs_nothing() -> None:
    task, tokens = MaskedText(LinearMask(), V), iid(2, 4)
    noised = task.noised(tokens, torch.zeros(2), None, torch.Generator())
    loss = task.loss(oracle, noised, tokens, Nothing(len(tokens)))
    assert loss.weighted.tolist() == loss.plain.tolist() == [0.0, 0.0]


def test_a_batch_follows_from_its_generator() -> None:
    task, tokens, sigma = MaskedText(LinearMask(), V), iid(5, 6), torch.rand(5)
    one, two = (task.draw(Samples(tokens, None), sigma, 0, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one.noised.z, two.noised.z)
    assert torch.equal(one.targets, tokens)
    assert isinstance(one.condition, Nothing) and len(one.condition) == 5


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="token 5 is unknown; the plan has 5 symbols, from 0 on"):
        MaskedText(LinearMask(), V).noised(torch.tensor([[1, 5]]), torch.ones(1), None, torch.Generator())
