"""Blocks that are trained in order: each goes on from the states of the one before."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import last_files, relay_plan, relay_run, turns

from oneblock.memory import step_flops
from oneblock.plan import Plan
from oneblock.presets import ImageFacts, MaskedRecipe, blockwise, plan_task
from oneblock.presets.cost import dry_run, job_peaks, training_flops
from oneblock.presets.door import check_plan
from oneblock.presets.fit import Prices, _rows, ways
from oneblock.relay import RelayAdapter
from oneblock.state import START, Hidden, State
from oneblock.tasks.across import Border, border_above
from oneblock.tasks.relay import RelayText
from oneblock.train.checkpoint import CheckpointError, checkpoints, load_checkpoint
from oneblock.train.loop import BlockJob, Run, train_job
from oneblock.train.strategy import all_blocks, job_specs, one_block


def across_plan(**changes: Any) -> Plan:
    """A few steps for each of the two blocks."""
    return relay_plan(**{"relay_across": True, **changes})


def states_given(run: Run, block: int, steps: int) -> list[State]:
    """The states that the block's calls are given in its first steps, as they were."""
    job = BlockJob(run, job_specs(run.plan)[block])
    found: list[State] = []
    with job.lock():
        job.restore()
        job.learner.module.register_forward_pre_hook(lambda module, given: found.append(given[3].detach()))
        for _ in range(steps):
            job.advance()
        job.release()
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first block has been trained."""
    folder = tmp_path_factory.mktemp("across")
    list(one_block(relay_run(folder, across_plan()), "block-0"))
    return folder


def test_the_state_of_the_block_before_reaches_the_first_call(first: Path) -> None:
    plan = across_plan()
    run, spec = relay_run(first, plan), job_specs(plan)[1]
    task = plan_task(plan)
    assert isinstance(task, RelayText)
    begins, goes_on = states_given(run, 1, 1)
    stored, _ = load_checkpoint(checkpoints(first / "block-0")[-1], plan.hash, "block-0")
    before = blockwise(plan).denoiser(0)
    averages = {name.removeprefix("ema/"): t for name, t in stored.items() if name.startswith("ema/")}
    assert not all(torch.equal(t, stored[f"weights/{name}"]) for name, t in averages.items())
    before.backbone.load_state_dict(averages, strict=False)
    job = BlockJob(run, spec)
    job.restore()
    feed, _ = job._begun()
    batch = feed.batch(0)
    slots = task.slots(1).filled(
        batch.targets, torch.Generator().manual_seed(plan.derive_seed("rollout", "block-1", 0)), of=8
    )
    border = border_above(task, 1)
    assert (border.share, border.times) == (task.slots(1).high, plan.partition.training_band(0))
    generator = torch.Generator().manual_seed(plan.derive_seed("border", "block-1", 0))
    expected = border.crossed(before.eval(), slots, generator).state
    assert isinstance(begins, Hidden) and isinstance(expected, Hidden) and isinstance(goes_on, Hidden)
    torch.testing.assert_close(begins.tokens, expected.tokens)
    assert not torch.equal(goes_on.tokens, begins.tokens)
    job.release()


def test_slots_that_are_filled_later_get_one_too(first: Path) -> None:
    found = states_given(relay_run(first, across_plan()), 1, 4)
    assert all(isinstance(state, Hidden) and bool(state.present.all()) for state in found)


def test_what_is_random_follows_from_the_step(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, seeds, crossed = across_plan(), list[int](), Border.crossed

    def seen(border: Border, before: Any, rollout: Any, generator: torch.Generator, **part: Any) -> Any:
        seeds.append(generator.initial_seed())
        return crossed(border, before, rollout, generator, **part)

    monkeypatch.setattr(Border, "crossed", seen)
    states_given(relay_run(first, plan), 1, 3)
    assert seeds == [plan.derive_seed("border", "block-1", step) for step in range(3)]


def test_without_the_setting_and_in_the_first_block_there_is_none(tmp_path: Path) -> None:
    for block, plan in ((1, relay_plan()), (0, across_plan())):
        begins, _ = states_given(relay_run(tmp_path / plan.hash, plan), block, 1)
        assert begins is START


def test_the_block_before_is_frozen_and_learns_nothing(first: Path) -> None:
    run = relay_run(first, across_plan())
    job = BlockJob(run, job_specs(run.plan)[1])
    job.restore()
    assert job._rollouts is not None
    before: Any = job._rollouts._before
    assert not before.training
    assert isinstance(before.backbone, RelayAdapter)
    held = {name: p.clone() for name, p in before.named_parameters()}
    job.advance()
    for name, p in before.named_parameters():
        assert not p.requires_grad
        assert p.grad is None
        assert torch.equal(p, held[name])
    assert not {id(p) for p in before.parameters()} & {id(p) for p in job.learner.weights.values()}
    job.release()
    assert job._rollouts is None


@pytest.mark.parametrize("changes", [{}, {"relay": "relay-sg", "branch": 0.5, "accumulate": 2}])
def test_a_run_in_pieces_equals_a_run_in_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = across_plan(**changes)
    list(all_blocks(relay_run(tmp_path / "whole", plan)))
    for pieces in (2, 6, 99):
        reports = all_blocks(relay_run(tmp_path / "parts", plan, save_every=2))
        for _, _report in zip(range(pieces), reports, strict=False):
            pass
        reports.close()
    assert last_files(tmp_path / "parts") == last_files(tmp_path / "whole")
    private = relay_plan(**{**changes, "relay_across": False})
    assert private.hash != plan.hash


def test_a_block_needs_the_one_before_to_be_trained(tmp_path: Path, first: Path) -> None:
    plan = across_plan()
    run = relay_run(tmp_path, plan)
    with pytest.raises(
        ValueError, match=r"block-1 goes on from the states of block 0, .* has no checkpoint .*train block 0 first"
    ):
        next(one_block(run, "block-1"))
    half = train_job(replace(run, save_every=1), job_specs(plan)[0])
    next(half)
    half.close()
    with pytest.raises(CheckpointError, match=r"it stands at step 1 of 5\); train block 0 first \(--block 0\)"):
        next(one_block(run, "block-1"))
    assert not checkpoints(tmp_path / "block-1")
    list(one_block(run, "block-0"))
    list(one_block(run, "block-1"))
    list(all_blocks(relay_run(first, plan)))
    assert last_files(tmp_path) == last_files(first)


def test_of_three_blocks_the_last_waits_for_the_second(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"block-2 goes on from the states of block 1, .*train block 1 first"):
        next(one_block(relay_run(tmp_path, across_plan(blocks=3, depth=3, budget=1000)), "block-2"))


def test_a_damaged_block_before_is_named(tmp_path: Path) -> None:
    plan = across_plan()
    run = relay_run(tmp_path, plan)
    list(one_block(run, "block-0"))
    path = checkpoints(tmp_path / "block-0")[-1]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"goes on from the states of block 0, .*; train block 0 first"):
        next(one_block(run, "block-1"))


def test_turns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"order='turns' lets all blocks advance, but with relay_across=True a block"):
        next(all_blocks(relay_run(tmp_path, across_plan()), turns(2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relay": "mlm"}, r"relay_across=True does not go with relay='mlm' \(use relay or relay-sg\); change"),
        ({"relay": "rollout"}, r"relay='rollout' \(use relay or relay-sg\)"),
        ({"blocks": 1}, r"blocks=1 \(use 2 or more\)"),
        ({"shared": "synced"}, r"shared='synced' \(use private\)"),
        ({"update": "evolution"}, r"update='evolution' \(use backpropagation\)"),
        ({"relay": "mlm", "shared": "joint"}, r"with relay='mlm' \(.*\), shared='joint' \(use private\); change"),
    ],
)
def test_what_it_does_not_go_with_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        across_plan(**changes)


def test_a_plan_says_it_only_where_it_is_so() -> None:
    plan, private = across_plan(), relay_plan(relay_across=False)
    check_plan(plan)
    assert "relay_across" not in private.recipe
    assert private == relay_plan()
    assert {**private.recipe, "relay_across": True} == plan.recipe
    wrong = replace(plan, recipe={**plan.recipe, "relay": "rollout"})
    with pytest.raises(ValueError, match=r"relay_across=True does not go with relay='rollout'"):
        check_plan(wrong)


def test_a_single_block_is_made_without_it() -> None:
    recipe = MaskedRecipe(relay="relay", relay_across=True)
    assert not recipe.one_block().relay_across
    assert recipe.of_several() == "relay_across=True"
    assert replace(recipe, relay_across=False).of_several() == ""


def test_a_step_pays_for_a_pass_more() -> None:
    plan, private = across_plan(budget=4000), relay_plan(budget=4000)
    assert (plan.step_thirds, private.step_thirds) == (7, 6)
    assert across_plan(relay_calls=3).step_thirds == 10
    (steps, more) = (job_specs(one)[0].last_step for one in (plan, private))
    assert steps == pytest.approx(6 / 7 * more, abs=1)
    assert [job.before for job in job_specs(plan)] == [range(0), range(1)]
    assert [job.before for job in job_specs(across_plan(depth=3, layers=(2, 1)))] == [range(0), range(2)]
    assert [job.before for job in job_specs(across_plan(branch=0.5))] == [range(0), range(0), range(1)]


def test_planned_bytes_are_those_that_are_counted() -> None:
    plan = across_plan(depth=3, layers=(2, 1), accumulate=2)
    planned = job_peaks(plan)
    assert planned == job_peaks(plan, real=True)
    private = job_peaks(replace(plan, recipe={**plan.recipe, "relay_across": False}), real=True)
    assert planned["block-0"] == private["block-0"]
    before, own = (sum(p.numel() * 4 for p in blockwise(plan).denoiser(b).parameters()) for b in (0, 1))
    assert planned["block-1"].by_kind["Parameter"] == before + own
    assert private["block-1"].by_kind["Parameter"] == own
    assert planned["block-1"].total >= private["block-1"].total + before


def test_planned_operations_are_those_that_are_counted() -> None:
    plan = across_plan(depth=3, layers=(2, 1))
    found, last = training_flops(plan), job_specs(plan)[1]
    assert found.step(last) == step_flops(partial(dry_run, plan, last))
    without = replace(last, before=range(0))
    assert found.step(without) == step_flops(partial(dry_run, plan, without))
    assert 0 < found.before_layer < found.layer / 4


def test_blocks_that_wait_for_each_other_do_not_wait_on_the_device() -> None:
    recipe = MaskedRecipe(depth=2, width=16, heads=2, blocks=2, length=16, relay="relay", batch_size=4)
    for across, waits in ((False, ["all resident"]), (True, [])):
        _, way = ways(replace(recipe, relay_across=across), ImageFacts(shape=(1, 8, 8), num_classes=0))
        names = [row.strategy for row in _rows(way, Prices(real=True)) if not row.checkpointing]
        assert names == [*waits, "own block"]
