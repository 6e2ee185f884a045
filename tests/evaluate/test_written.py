"""Masked text that is written with states and by a policy."""

from dataclasses import replace

import torch
from relay import shaken

from oneblock.blockwise import Denoiser
from oneblock.data import Characters
from oneblock.evaluate.masked import write_masked, written_masked
from oneblock.evaluate.writing import Writing
from oneblock.plan import Plan
from oneblock.presets import MaskedRecipe, TextFacts, blockwise
from oneblock.sample.carry import AtBorders, Carrying
from oneblock.sample.masked import reveal
from oneblock.sample.policy import Uncertainty
from oneblock.sample.relay import reveal_by

MASK, T = 27, 12
WRITING = Writing(count=3, prompt="the ", reveals=6)


def relay_plan(relay: str, across: bool = False) -> Plan:
    recipe = MaskedRecipe(
        depth=2,
        width=16,
        heads=2,
        blocks=2,
        length=T,
        relay=relay,  # type: ignore[arg-type]
        policy_at=0.4,
        relay_across=across,
    )
    return recipe.plan(TextFacts(vocabulary=Characters()))


def shaken_denoiser(plan: Plan) -> Denoiser:
    def load(block: int) -> object:
        made = blockwise(plan).denoiser(block).eval()
        shaken(made, block)
        return made

    return Denoiser(plan.partition, load)  # type: ignore[arg-type]


def start() -> torch.Tensor:
    tokens = torch.full((3, T), MASK)
    tokens[:, :4] = Characters().encode("the ")
    return tokens


def test_a_plan_with_relay_is_written_with_states_in_any_order() -> None:
    plan = relay_plan("relay")
    denoiser, law = shaken_denoiser(plan), plan.partition.law
    *_, last = reveal(Carrying(denoiser), law, start(), MASK, 6, seed=3)
    written = written_masked(denoiser, plan, WRITING, 3)
    assert written.texts == [Characters().decode(row) for row in last]
    assert written.calls == [6, 6, 6]
    *_, without = reveal(denoiser, law, start(), MASK, 6, seed=3)
    assert not torch.equal(last, without)


def test_a_policy_is_that_of_the_plan() -> None:
    plan = relay_plan("relay")
    denoiser = shaken_denoiser(plan)
    found = reveal_by(
        denoiser, plan.partition.law, start(), MASK, Uncertainty(tau=0.4), most=5, temperature=1.0, seed=3
    )
    written = written_masked(denoiser, plan, replace(WRITING, order="policy"), 3)
    assert written.texts == [Characters().decode(row) for row in found.tokens]
    assert written.calls == found.calls.tolist()
    assert max(written.calls) <= 6


def test_states_cross_borders_where_blocks_have_learned_that() -> None:
    private, across = relay_plan("relay"), relay_plan("relay", across=True)
    denoiser, law = shaken_denoiser(private), private.partition.law
    handed = AtBorders(denoiser, "across")
    *_, ancestral = reveal(Carrying(handed), law, start(), MASK, 6, seed=3)
    by_policy = reveal_by(handed, law, start(), MASK, Uncertainty(tau=0.4), most=5, temperature=1.0, seed=3).tokens
    for expected, writing in ((ancestral, WRITING), (by_policy, replace(WRITING, order="policy"))):
        found = write_masked(denoiser, across, writing, 3)
        assert found == [Characters().decode(row) for row in expected]
        assert found != write_masked(denoiser, private, writing, 3)


def test_rollouts_without_states_are_written_without() -> None:
    plan = relay_plan("rollout")
    denoiser = shaken_denoiser(plan)
    *_, last = reveal(denoiser, plan.partition.law, start(), MASK, 6, seed=3)
    assert write_masked(denoiser, plan, WRITING, 3) == [Characters().decode(row) for row in last]
