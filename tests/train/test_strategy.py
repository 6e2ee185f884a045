from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_plan, tiny_run

from oneblock.plan import Plan
from oneblock.train.checkpoint import checkpoints
from oneblock.train.step import JobSpec
from oneblock.train.strategy import Budget, job_specs, one_block, round_robin


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


def test_turns_of_a_stride_each_after_the_trunk(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_plan(branch=0.5, budget=8 * 8 * 4))
    order = [r.job for r in round_robin(run, stride=3)]
    assert order == ["trunk"] * 8 + ["block-0"] * 3 + ["block-1"] * 3 + ["block-0"] + ["block-1"]
    assert all(len(checkpoints(tmp_path / job)) == 1 for job in ("trunk", "block-0", "block-1"))


def test_closing_a_round_saves_every_block(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    reports = round_robin(run, stride=2)
    for _ in range(5):  # block 0 twice, block 1 twice, block 0
        next(reports)
    reports.close()
    steps = [checkpoints(tmp_path / f"block-{b}")[-1].stem for b in (0, 1)]
    assert steps == ["step-000000003", "step-000000002"]


def test_fractions() -> None:
    with pytest.raises(ValueError, match=r"branch=1.0 is not a fraction"):
        Budget(layer_evaluations=10, batch_size=1, branch=1.0)
