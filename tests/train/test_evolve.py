"""Blocks that learn by evolution: the update, resuming, processes that share a population, and what it costs."""

import copy
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FACTS, TINY, last_files, tiny_classify_plan, tiny_plan, tiny_run
from torch import Tensor, nn

from oneblock.data import Samples
from oneblock.memory import step_flops
from oneblock.plan import Plan
from oneblock.presets import ImageRecipe, blockwise
from oneblock.presets.cost import costliest_job, dry_run, job_peaks, training_flops
from oneblock.presets.door import checked
from oneblock.presets.fit import cost
from oneblock.tasks.base import Loss
from oneblock.tasks.image import ImageGeneration
from oneblock.train.block import block_learner, block_losses
from oneblock.train.evolve import EvolutionUpdate, UpdateSettings, job_update, plan_update
from oneblock.train.learner import Losses, NonFiniteError
from oneblock.train.loop import train_job
from oneblock.train.parallel import Ranks
from oneblock.train.step import OptimizerSettings
from oneblock.train.strategy import all_blocks, job_specs, plan_optimizer

SMALL: dict[str, Any] = {"update": "evolution", "population": 12, "chunk": 4}


def evolving(**changes: Any) -> Plan:
    return tiny_plan(**SMALL | changes)


def pieces_of(network: nn.Module, sizes: list[int]) -> tuple[list[Losses], Tensor]:
    """Losses of micro-batches, and the inputs of them all."""
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(1))

    def losses(part: Tensor) -> Loss:
        found = network(part).square().sum(-1)
        return Loss(2 * found, found)

    return [partial(losses, part) for part in x.split(sizes)], x


@pytest.mark.parametrize("sizes", [[5], [3, 2]])
def test_gradients_are_those_of_the_members_losses(sizes: list[int]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 2)).train()
    settings = UpdateSettings(update="evolution", population=8, chunk=4, weight_noise=0.1, shaping="none")
    update = EvolutionUpdate(settings, seed=5)
    losses, x = pieces_of(network, sizes)
    found = update([network], losses, 10, step=3)
    assert network.training
    gradients = {name: p.grad for name, p in network.named_parameters()}
    population = update._population([network])
    expected = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for i in range(8):
        with population.member(3, i):
            member = copy.deepcopy(network).eval()
        fitness = -float((2 * member(x).square().sum(-1)).sum().detach()) / 10
        for (name, p), mine in zip(network.named_parameters(), member.parameters(), strict=True):
            expected[name] -= fitness * (mine - p).detach() / (8 * 0.1**2)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-3)
    plain = network.eval()(x).square().sum(-1)
    torch.testing.assert_close(found.plain, plain, msg="the losses that are reported are those of the weights")
    torch.testing.assert_close(found.weighted, 2 * plain)


@pytest.mark.parametrize("plan", [evolving(branch=0.5), tiny_classify_plan(**SMALL), evolving(shared="joint")])
def test_a_run_in_pieces_equals_a_run_in_one(tmp_path: Path, plan: Plan) -> None:
    list(all_blocks(tiny_run(tmp_path / "whole", plan)))
    for steps in (3, 99):
        reports = all_blocks(tiny_run(tmp_path / "parts", plan, save_every=2))
        list(islice(reports, steps))
        reports.close()
    whole = last_files(tmp_path / "whole")
    assert {"block-0", "block-1"} <= set(whole)
    assert last_files(tmp_path / "parts") == whole


def test_processes_send_a_number_for_each_member() -> None:
    settings = UpdateSettings(update="evolution", population=64, chunk=4)
    assert EvolutionUpdate(settings, 0).exchanged == 0
    assert EvolutionUpdate(settings, 0, Ranks("ddp", 0, 3)).exchanged == 256


def test_blocks_of_their_own_have_noise_of_their_own() -> None:
    updates = [job_update(evolving(), spec) for spec in job_specs(evolving(branch=0.5))]
    assert len({update.seed for update in updates if update is not None}) == 3
    assert job_update(tiny_plan(), job_specs(tiny_plan())[0]) is None


def test_the_gradient_of_a_block_is_that_of_backpropagation_and_noise() -> None:
    """Of d numbers, N / 2 pairs find a part: the cosine is about sqrt(N / 2 / (d + N / 2)), chance 1 / sqrt(d)."""
    plan = evolving(population=512, chunk=256, weight_noise=0.003, shaping="none")
    spec = job_specs(plan)[1]
    learners = [
        block_learner(spec, blockwise(plan).denoiser(1), plan_optimizer(plan), update=update)
        for update in (None, job_update(plan, spec))
    ]
    torch.manual_seed(0)
    images = ImageGeneration(plan.precondition, 3, 0.0)
    batch = images.draw(
        Samples(torch.randn(8, 1, 8, 8), torch.arange(8) % 3), torch.full((8,), 0.5), 1, torch.Generator()
    )
    for learner in learners:
        learner.update([learner.network], block_losses(learner, images, batch), 8, 0)
    exact, found = (
        torch.cat([p.grad.flatten() for p in one.weights.values() if p.grad is not None]) for one in learners
    )
    assert float(torch.cosine_similarity(exact, found, dim=0)) > 0.08
    assert float(exact @ found / exact.square().sum()) == pytest.approx(1.0, abs=0.3)


def test_a_block_needs_no_activations_of_a_backward_pass() -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    words: dict[str, Any] = {"batch_size": 64, "block_batch_size": 64, "budget": 10 * 64 * 8}
    plain = job_peaks(tiny_plan(**words))["block-0"]
    plan = evolving(**words, population=4, chunk=1)
    planned = job_peaks(plan)["block-0"]
    assert planned == job_peaks(plan, real=True)["block-0"]
    assert planned.total < 0.5 * plain.total
    more = job_peaks(evolving(**words, population=4))["block-0"]
    assert 2.5 < more.by_kind["Activation"] / planned.by_kind["Activation"] < 4.5


def test_operations_are_those_of_the_population_and_of_its_sum() -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    plan, twice = (evolving(population=population) for population in (8, 16))
    job = costliest_job(plan)
    flops = training_flops(plan)
    assert flops.step(job) == step_flops(partial(dry_run, plan, job))
    assert flops.once_layer > 0
    more = training_flops(twice)
    assert more.once_layer == 2 * flops.once_layer
    passes = training_flops(tiny_plan()).layer / 3  # forward, of three that backpropagation needs
    assert 8 * passes < flops.layer < 11 * passes
    assert more.layer > 1.7 * flops.layer


def test_a_plan_of_evolution_has_no_rivals_with_a_backward_pass() -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    few = {"depth": 1, "blocks": 1, "population": 2, "chunk": 2}
    found = cost(ImageRecipe(**TINY | SMALL | few), image_size=8, channels=1)
    assert found.rows
    assert not found.rivals


def test_a_plan_says_how_gradients_are_found_only_where_it_is_by_evolution() -> None:
    usual = tiny_plan()
    assert usual.hash == tiny_plan(update="backpropagation").hash
    assert "update" not in usual.recipe
    assert plan_update(usual) == UpdateSettings()
    plan = Plan.from_json(evolving(noise_rank=2, shaping="sign").to_json())
    assert plan_update(checked(plan, "plan")) == UpdateSettings(**SMALL, noise_rank=2, shaping="sign")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"population": 7}, "population=7 is odd, and members come in pairs; use 8"),
        ({"chunk": 3}, "chunk=3 splits a pair"),
        ({"chunk": 0}, "chunk=0 is not allowed"),
        ({"weight_noise": 0.0}, "weight_noise=0.0 is not allowed"),
        ({"noise_rank": -1}, "noise_rank=-1 is not allowed"),
        ({"shaping": "best"}, "shaping='best' is not allowed"),
        ({"update": "magic"}, "update='magic' is not allowed"),
        ({"update": "backpropagation"}, "population=12 goes with update='evolution'; leave it out"),
    ],
)
def test_recipes_that_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageRecipe(**TINY | SMALL | words)


def test_plans_that_are_refused() -> None:
    plan = ImageRecipe(**TINY | SMALL).plan(FACTS)
    with pytest.raises(ValueError, match=r"recipe\.population=7 is odd"):
        checked(replace(plan, recipe={**plan.recipe, "population": 7}), "plan")


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (Ranks("fsdp", 0, 2), "block-0: update='evolution' shares out members, and not weights"),
        (Ranks("ddp", 0, 4), "population=12 in chunks of 4 is too few for 4 processes; use a smaller chunk"),
    ],
)
def test_processes_that_are_refused(ranks: Ranks, message: str) -> None:
    plan = evolving()
    with pytest.raises(ValueError, match=message):
        job_update(plan, job_specs(plan)[0], ranks)


def test_a_loss_that_is_not_finite_for_any_member_stops_the_run(tmp_path: Path) -> None:
    plan = evolving(optimizer=OptimizerSettings(learning_rate=1e30))
    with pytest.raises(NonFiniteError, match="block-0"):
        list(train_job(tiny_run(tmp_path, plan), job_specs(plan)[0]))
