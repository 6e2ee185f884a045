"""Evolution of networks of a few numbers; noise, fitness and interception have tests of their own."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oneblock as ob
from oneblock.ops.members import LowRank
from oneblock.optim.evolution import LEARNING_RATE
from oneblock.optim.population import Population

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (8,), generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def likelihood(net: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return -F.cross_entropy(net(x), y, reduction="none")


def evolution(net: nn.Module | None = None, **words: Any) -> ob.Evolution[nn.Module]:
    return ob.Evolution(network() if net is None else net, **{"population": 32, "sigma": 0.1, **words})


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def members(es: ob.Evolution[nn.Module]) -> list[nn.Module]:
    """Networks with the weights of every member."""
    found = []
    for i in range(es.population.size):
        with es.member(i) as net:
            found.append(copy.deepcopy(net))
    return found


def test_a_member_is_the_network_with_its_noise_and_the_network_stays() -> None:
    es = evolution()
    before = weights(es.network)
    even, odd, other, *rest = members(es)
    torch.testing.assert_close((weights(even) + weights(odd)) / 2, before)
    added = torch.cat([weights(net) - before for net in (even, other, *rest)])
    assert float(added.square().mean()) == pytest.approx(0.01, rel=0.2)
    assert not weights(even).equal(weights(other))
    assert weights(es.network).equal(before)


def test_all_members_answer_as_they_would_alone() -> None:
    es = evolution(population=6, chunk=4)
    torch.testing.assert_close(es.ask(X), torch.stack([net(X) for net in members(es)]))


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize(
    ("scaling", "factor"), [("gradient", 1 / (32 * 0.1)), ("paper", 1 / 32), ("official", 0.1 / 32**0.5)]
)
def test_the_gradient_is_the_weighted_sum_of_the_noise(rank: int, scaling: Any, factor: float) -> None:
    es = evolution(rank=rank, scaling=scaling, shaping="none")
    before = weights(es.network)
    fitness = torch.linspace(-1, 2, 32).sin()
    noise = torch.stack([(weights(net) - before) / 0.1 for net in members(es)])
    es.estimate(fitness)
    found = torch.cat([p.grad.flatten() for p in es.network.parameters() if p.grad is not None])
    torch.testing.assert_close(found, -factor * fitness @ noise, rtol=1e-4, atol=1e-5)
    assert weights(es.network).equal(before)


def test_the_estimate_is_the_gradient_of_a_quadratic_in_expectation() -> None:
    """``f(W) = -|W - T|^2 / 2``: the estimate of the gradient of -f has the mean W - T, for any sigma and rank."""
    target = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    net = nn.Linear(6, 8, bias=False)
    for rank in (0, 1):
        es = ob.Evolution(net, population=20_000, sigma=0.7, rank=rank, shaping="none", chunk=2000)
        eye = torch.eye(6)
        fitness = es._scored(lambda x: -(net(x) - target.T).square().sum() / 2, eye)
        es.estimate(fitness)
        exact = net.weight.detach() - target
        assert net.weight.grad is not None
        spread = float(exact.norm()) / 100 * (3.0 if rank else 1.0)  # of a number, over 10,000 pairs
        torch.testing.assert_close(net.weight.grad, exact, rtol=0, atol=4 * spread)
        slope = float((net.weight.grad * exact).sum() / exact.square().sum())
        assert slope == pytest.approx(1.0, abs=0.03)


def test_the_estimate_points_along_the_gradient_when_sigma_is_small() -> None:
    es = evolution(population=4096, sigma=0.01, rank=1, shaping="none")
    es.estimate(es._scored(lambda batch: likelihood(es.network, batch), (X, Y)))
    parameters = list(es.network.parameters())
    exact = torch.autograd.grad(-likelihood(es.network, (X, Y)).mean(), parameters)
    found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    flat = torch.cat([g.flatten() for g in exact])
    assert float(torch.cosine_similarity(found, flat, dim=0)) > 0.95
    assert float(found @ flat / flat.square().sum()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("chunk", [1, 2, 6, 8])
def test_the_step_is_the_same_for_any_chunk_bit_for_bit(chunk: int) -> None:
    """Ranks do not see how the last bit of a matrix product was rounded."""
    whole, parts = (evolution(chunk=c, shaping="centred-ranks") for c in (0, chunk))
    for _ in range(3):
        whole.step((X, Y), likelihood)
        parts.step((X, Y), likelihood)
    assert weights(parts.network).equal(weights(whole.network))


def test_steps_learn_and_are_repeated_from_the_seed_and_the_number_of_the_step() -> None:
    es = evolution(population=64, shaping="sign", seed=3)
    first = es.step((X, Y), likelihood).mean
    for _ in range(60):
        last = es.step((X, Y), likelihood).mean
    assert last > 0.7 * first
    again = evolution(copy.deepcopy(es.network), population=64, shaping="sign", seed=3, optimizer=None)
    again.steps = es.steps
    assert all(a.equal(b) for a, b in zip(again.ask(X), es.ask(X), strict=True))
    again.steps += 1
    assert not again.ask(X).equal(es.ask(X))


def test_asking_and_telling_is_a_step() -> None:
    one, two = evolution(), evolution()
    done = one.step((X, Y), likelihood)
    answers = two.ask(X)
    scores = [-float(F.cross_entropy(answer, Y)) for answer in answers]
    told = two.tell(scores)
    torch.testing.assert_close(weights(two.network), weights(one.network), rtol=0, atol=1e-5)
    assert told.mean == pytest.approx(done.mean)
    assert (done.step, done.broken, done.moved, done.cosine) == (1, 0, None, None)
    assert done.best >= done.mean > done.best - 5 * done.spread


def test_the_gradient_goes_through_any_optimizer() -> None:
    net = network()
    es = evolution(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.5), shaping="none")
    before = weights(net)
    fitness = torch.linspace(-1, 1, 32)
    es.estimate(fitness)
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    es.tell(fitness)
    torch.testing.assert_close(weights(net), before - 0.5 * gradient)
    assert all(p.grad is None for p in net.parameters())
    assert evolution().optimizer.param_groups[0]["lr"] == LEARNING_RATE


def test_groups_have_parts_of_a_batch_of_their_own() -> None:
    x, y = X.view(4, 2, 6), Y.view(4, 2)
    es = evolution(population=16, group_size=4, chunk=6)
    alone = members(es)
    fitness = es._scored(lambda batch: likelihood(es.network, batch), (x, y))
    expected = [likelihood(alone[i], (x[i // 4], y[i // 4])).mean().item() for i in range(16)]
    torch.testing.assert_close(fitness, torch.tensor(expected))
    es.step((x, y), likelihood)
    torch.testing.assert_close(evolution(population=16, group_size=4).ask(x)[5], alone[5](x[1]))
    with pytest.raises(ValueError, match=r"first axes of \[8\], but there are 4 groups of 4 members; give 4 parts"):
        es.step((X, Y), likelihood)


def test_what_is_frozen_stays_and_tied_weights_have_one_noise() -> None:
    net = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7, bias=False))
    net[2].weight = net[0].weight
    es = evolution(net, freeze=["1.*"])
    assert list(es.population.parameters) == ["0.weight"]
    before = net[1].weight.detach().clone()
    es.step((torch.tensor([1, 2]), torch.tensor([2, 3])), likelihood)
    assert net[1].weight.equal(before)
    ids = torch.tensor([1, 2])
    torch.testing.assert_close(es.ask(ids), torch.stack([one(ids) for one in members(es)]))


def test_dropout_is_off_and_statistics_stay() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    with pytest.warns(UserWarning, match="1, 2: members are evaluated without dropout") as caught:
        es = evolution(net)
    assert caught[0].filename == __file__
    before = {name: t.clone() for name, t in net.named_buffers()}
    assert es.ask(X).equal(es.ask(X))
    es.step((X, Y), likelihood)
    assert all(t.equal(before[name]) for name, t in net.named_buffers())
    assert all(module.training for module in net.modules())


def test_random_numbers_of_a_forward_pass_are_the_same_for_all_members_and_chunks() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    whole, parts = (ob.Evolution(Noisy(6, 3), 8, 1e-6, chunk=chunk) for chunk in (0, 2))
    for es in (whole, parts):
        answers = es.ask(X)
        torch.testing.assert_close(answers, answers[:1].expand_as(answers), rtol=0, atol=1e-3)
    parts.network.load_state_dict(whole.network.state_dict())
    state = torch.random.get_rng_state()
    torch.testing.assert_close(parts.ask(X), whole.ask(X))
    assert torch.random.get_rng_state().equal(state)
    before = parts.ask(X)
    parts.steps += 1
    assert float((parts.ask(X) - before).abs().max()) > 0.1, "every step has its own"


def test_equal_fitness_moves_nothing_and_warns_once() -> None:
    es = evolution()
    es.step((X, Y), likelihood)  # momentum that would go on moving
    before = weights(es.network)
    with pytest.warns(UserWarning, match=r"all members have the fitness 0.5, and nothing moves") as caught:
        done = es.tell([0.5] * 32)
    assert caught[0].filename == __file__
    assert weights(es.network).equal(before)
    assert (done.step, done.spread, es.steps) == (2, 0.0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        es.tell([0.5] * 32)


def test_members_that_break_are_counted_and_are_the_worst() -> None:
    one, two = evolution(), evolution()
    fitness = torch.linspace(0, 1, 32)
    broken = fitness.clone()
    broken[[5, 9]] = torch.tensor([float("nan"), float("inf")])
    fitness[[5, 9]] = 0.0
    done = one.tell(broken)
    two.tell(fitness)
    assert done.broken == 2
    assert weights(one.network).equal(weights(two.network))


def test_diagnoses() -> None:
    es = evolution(diagnose=True, freeze=["0.weight"])
    first, second = es.step((X, Y), likelihood), es.tell(torch.linspace(0, 1, 32))
    assert first.cosine is None
    assert second.cosine is not None
    assert -1 <= second.cosine <= 1
    assert first.moved == 1.0
    net = network().bfloat16()
    es = evolution(net, diagnose=True, optimizer=torch.optim.SGD(net.parameters(), lr=1e-4))
    done = es.step((X.bfloat16(), Y), likelihood)
    assert done.moved is not None
    assert 0 < done.moved < 1, "small steps are rounded away where weights are large"


def test_a_network_that_cannot_go_side_by_side_goes_one_by_one() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(6, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x)[0][:, -1]

    with pytest.raises(ValueError, match=r"members cannot go side by side here .*; use chunk=1"):
        evolution(Recurrent()).ask(X[:, None])
    es = evolution(Recurrent(), chunk=1)
    with pytest.warns(UserWarning, match="given to gru, which has no form for noise of low rank"):
        answers = es.ask(X[:, None])
    torch.testing.assert_close(answers, torch.stack([net(X[:, None]) for net in members(es)]))


def test_answers_may_be_of_several_tensors() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"a": super().forward(x), "b": (x.sum(), x[0])}

    found = ob.Evolution(Two(6, 3), 8, 0.1, chunk=4).ask(X)
    assert found["a"].shape == (8, 8, 3)
    assert found["b"][1].shape == (8, 6)


def shared_memory() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight.data = net[0].weight.data
    return net


def frozen() -> nn.Module:
    return network().requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: evolution(population=31), "population=31 is odd"),
        (lambda: evolution(group_size=5), "group_size=5 must be even"),
        (lambda: evolution(chunk=3), "chunk=3 splits a pair; use an even number, 1 for one by one, or 0 for all"),
        (lambda: evolution(chunk=-1), "chunk=-1 is not allowed"),
        (lambda: evolution(shaping="best"), "shaping='best' is not allowed"),
        (lambda: evolution(scaling="best"), "scaling='best' is not allowed; use one of gradient, paper, official"),
        (lambda: evolution(freeze=["3.*"]), r"freeze='3.\*' fits none of 0.weight"),
        (lambda: evolution(freeze=["*"]), "leaves no parameter to evolve"),
        (lambda: evolution(frozen()), "has no parameters that require gradients"),
        (lambda: evolution(shared_memory()), "0.weight and 1.weight are two parameters in the same memory"),
        (lambda: evolution().tell([0.0] * 31), r"fitness has shape \(31,\); give one number for each of the 32"),
        (lambda: evolution().tell([float("nan")] * 32), "the fitness of no member is finite"),
        (lambda: evolution().step(X, lambda net, x: 1.0), "the fitness of a member is float; return a tensor"),
        (
            lambda: evolution().step(X, lambda net, x: net(x)),
            "has shape \\(8, 3\\); return a number, or one for each sample",
        ),
        (lambda: evolution().member(32).__enter__(), "index=32 is not allowed"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_populations_know_their_chunks() -> None:
    made = Population(dict(network().named_parameters()), size=10, sigma=0.1, chunk=4)
    assert made.chunks == [range(0, 4), range(4, 8), range(8, 10)]
    assert isinstance(made.noise.offsets(0, range(2))["0.weight"], LowRank)
