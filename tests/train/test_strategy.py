from pathlib import Path
from typing import Any

import pytest
from tiny import last_files, tiny_plan, tiny_run, turns

from oneblock.plan import Plan
from oneblock.train.checkpoint import checkpoints
from oneblock.train.step import JobSpec
from oneblock.train.strategy import Budget, Turns, all_blocks, job_specs, one_block


def specs(**changes: Any) -> list[JobSpec]:
    plan = tiny_plan(**changes)
    return job_specs(plan)


def work(plan: Plan) -> int:
    return sum((s.last_step - s.first_step) * len(s.layers) * s.batch_size for s in job_specs(plan))


@pytest.mark.parametrize(
    "changes",
    [
        {"blocks": 1},
        {"blocks": 2},
        {"blocks": 4},
        {"layers": (1, 3)},
        {"branch": 0.5},
        {"branch": 0.3, "blocks": 4},
        {"block_batch_size": 4},
        {"block_batch_size": 2, "branch": 0.5},
    ],
)
def test_one_budget_is_the_same_work_however_it_is_spent(changes: dict[str, Any]) -> None:
    asked = 40 * 8 * 4 + 17
    plan = tiny_plan(budget=asked, **changes)
    step = plan.depth * 8
    assert abs(work(plan) - asked) <= step * (1 if "branch" not in changes else 2) / 2 + 17


def test_whole_plain_and_branched_jobs_by_hand() -> None:
    """A budget of 40 end-to-end steps, 2 blocks of 2 layers out of 4."""
    budget = 40 * 8 * 4
    (whole,) = specs(budget=budget, blocks=1)
    assert (whole.name, whole.first_step, whole.last_step, list(whole.layers)) == ("block-0", 0, 40, [0, 1, 2, 3])
    plain = specs(budget=budget)
    assert [(s.name, s.first_step, s.last_step) for s in plain] == [("block-0", 0, 40), ("block-1", 0, 40)]
    trunk, *blocks = specs(budget=budget, branch=0.5)
    # the trunk has half of the layers: half of the work is as many steps as the whole network would make in all
    assert (trunk.name, trunk.block, list(trunk.layers)) == ("trunk", None, [0, 1])
    assert (trunk.first_step, trunk.last_step) == (0, 40)
    assert [(s.name, s.first_step, s.last_step) for s in blocks] == [("block-0", 40, 60), ("block-1", 40, 60)]


def test_a_smaller_batch_of_the_blocks_pays_for_more_steps() -> None:
    trunk, *blocks = specs(budget=40 * 8 * 4, branch=0.5, block_batch_size=4)
    assert (trunk.batch_size, trunk.last_step) == (8, 40)
    assert [(s.batch_size, s.first_step, s.last_step) for s in blocks] == [(4, 40, 80), (4, 40, 80)]
    shared = specs(budget=40 * 8 * 4, block_batch_size=0)  # without a number of its own, a block's share of the batch
    assert [(s.batch_size, s.last_step) for s in shared] == [(4, 80), (4, 80)]
    assert specs(budget=400, batch_size=3, block_batch_size=0, blocks=4)[0].batch_size == 1
    (whole,) = specs(budget=40 * 8 * 4, blocks=1, block_batch_size=4)
    assert (whole.batch_size, whole.last_step) == (8, 40)


def test_bands_of_the_jobs() -> None:
    plan = tiny_plan(branch=0.5, overlap=0.1)
    trunk, first, second = job_specs(plan)
    assert trunk.band == (0.002, 80.0)
    assert first.band == plan.partition.training_band(0)
    assert second.band == plan.partition.training_band(1)
    assert first.band[0] < second.band[1]  # they overlap


def test_schedule_of_a_branched_run_holds_until_the_copy() -> None:
    budget = 400 * 8 * 4
    for spec in specs(budget=budget, branch=0.5, warmup=0.1, hold=0.9):
        assert (spec.warmup, spec.hold) == (60, 400)
    (whole,) = specs(budget=budget, blocks=1, hold=0.25)
    assert (whole.warmup, whole.hold) == (20, 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 15}, "budget=15 does not pay for one step of every block; use at least 32 layer evaluations"),
        ({"budget": 40, "branch": 0.01}, "does not pay for one step"),
        ({"branch": 0.5, "blocks": 1}, "branch=0.5 needs two blocks or more"),
        ({"branch": 0.5, "layers": (1, 3)}, r"layers=\(1, 3\) are uneven; use equal blocks"),
        ({"hold": -0.1}, "hold=-0.1 is not a fraction; use 0 up to"),
        ({"batch_size": 0}, "batch_size=0, block_batch_size=8 are not batch sizes; use 1 or more"),
        ({"block_batch_size": -1}, "block_batch_size=-1 are not batch sizes"),
    ],
)
def test_wrong_budgets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        specs(**changes)


def test_a_job_by_its_name(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    reports = list(one_block(run, "block-1"))
    assert {r.job for r in reports} == {"block-1"}
    assert [r.step for r in reports] == list(range(1, 7))
    assert all(r.layer_evaluations == 8 * 2 for r in reports)
    assert not (tmp_path / "block-0").exists()
    with pytest.raises(ValueError, match="job 'trunk' does not exist in this plan; use one of block-0, block-1"):
        list(one_block(run, "trunk"))


@pytest.mark.parametrize("in_turns", [False, True])
def test_blocks_train_one_after_the_other_or_in_turns_after_the_trunk(tmp_path: Path, in_turns: bool) -> None:
    run = tiny_run(tmp_path, tiny_plan(branch=0.5, budget=8 * 8 * 4))
    order = [r.job for r in all_blocks(run, turns(3) if in_turns else None)]
    rest = ["block-0"] * 3 + ["block-1"] * 3 + ["block-0", "block-1"]
    assert order == ["trunk"] * 8 + (rest if in_turns else ["block-0"] * 4 + ["block-1"] * 4)
    assert all(len(checkpoints(tmp_path / job)) == 1 for job in ("trunk", "block-0", "block-1"))


def test_a_turn_ends_with_the_first_step_after_its_time(tmp_path: Path) -> None:
    """Steps of 4, 1, 1, ... seconds in turns of 3: a long step is a whole turn."""
    moments = iter([0.0, 4.0, 10.0, 11.0, 12.0, 13.0, 20.0, 21.0, 22.0, 23.0])
    timed = Turns(seconds=3.0, clock=lambda: next(moments, 99.0))
    order = [r.job for r in all_blocks(tiny_run(tmp_path), timed)]
    assert order[:7] == ["block-0"] + ["block-1"] * 3 + ["block-0"] * 3


def test_turns_of_no_time_are_single_steps(tmp_path: Path) -> None:
    order = [r.job for r in all_blocks(tiny_run(tmp_path), Turns(seconds=0.0))]
    assert order == ["block-0", "block-1"] * 6


def test_a_run_may_go_on_in_another_order(tmp_path: Path) -> None:
    plan = tiny_plan(branch=0.5)
    list(all_blocks(tiny_run(tmp_path / "whole", plan)))
    for pieces, order in ((9, turns(2)), (1, None), (2, turns(1, "disk")), (99, None)):
        reports = all_blocks(tiny_run(tmp_path / "parts", plan, save_every=2), order)
        for _, _report in zip(range(pieces), reports, strict=False):
            pass
        reports.close()
    assert last_files(tmp_path / "parts") == last_files(tmp_path / "whole")


@pytest.mark.parametrize("changes", [{"shared": "joint"}, {"shared": "synced"}])
def test_blocks_that_share_take_turns_at_every_step_and_no_others(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = tiny_run(tmp_path, tiny_plan(**changes))
    with pytest.raises(ValueError, match=r"order='turns' is for blocks of their own, .* leave out order, turn_seconds"):
        next(all_blocks(run, turns(2)))
    assert [r.job for r in all_blocks(run)] == ["block-0", "block-1"] * 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seconds": -1.0}, r"turn_seconds=-1\.0 is not allowed; use a number, 0 or more"),
        ({"idle": "attic"}, "idle='attic' is not allowed; use one of device, host, disk"),
    ],
)
def test_turns_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Turns(**given)


def test_closing_a_round_saves_every_block(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    reports = all_blocks(run, turns(2))
    for _ in range(5):  # block 0 twice, block 1 twice, block 0
        next(reports)
    reports.close()
    steps = [checkpoints(tmp_path / f"block-{b}")[-1].stem for b in (0, 1)]
    assert steps == ["step-000000003", "step-000000002"]


def test_fractions() -> None:
    with pytest.raises(ValueError, match=r"branch=1.0 is not a fraction"):
        Budget(layer_evaluations=10, batch_size=1, branch=1.0)
