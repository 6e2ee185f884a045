"""Blocks never touch each other, and come out the same however they are trained."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from tiny import tiny_plan, tiny_run

from oneblock.presets import plan_budget
from oneblock.train.checkpoint import checkpoints
from oneblock.train.strategy import one_block, round_robin

JOBS = ("seed", "block-0", "block-1")


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("step-*.safetensors")}


def train_alone(directory: Path, branch: float, job: str) -> None:
    run = tiny_run(directory, tiny_plan(branch=branch))
    list(one_block(run, plan_budget(run.plan), job))


def test_a_step_on_one_block_leaves_the_other_blocks_files_alone(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, save_every=1)
    budget = plan_budget(run.plan)
    list(one_block(run, budget, "block-0"))
    before = files(tmp_path / "block-0")
    reports = one_block(run, budget, "block-1")
    next(reports)
    reports.close()
    assert files(tmp_path / "block-0") == before
    assert len(checkpoints(tmp_path / "block-1")) == 1


@pytest.mark.parametrize("branch", [0.0, 0.5])
def test_in_turn_one_by_one_and_in_separate_processes_give_the_same_bytes(tmp_path: Path, branch: float) -> None:
    jobs = JOBS if branch else JOBS[1:]
    for stride in (1, 100):
        run = tiny_run(tmp_path / f"stride-{stride}", tiny_plan(branch=branch))
        list(round_robin(run, plan_budget(run.plan), stride))
    for job in (jobs[0], *reversed(jobs[1:])):
        torch.manual_seed(hash(job))  # the global generator must not matter
        torch.rand(3)
        train_alone(tmp_path / "alone", branch, job)
    context = multiprocessing.get_context("spawn")
    separate = [context.Process(target=train_alone, args=(tmp_path / "apart", branch, job)) for job in jobs]
    if branch:  # the seed block's job comes before those that copy it
        separate[0].start()
        separate.pop(0).join()
    for process in separate:
        process.start()
    for process in separate:
        process.join()
    expected = files(tmp_path / "stride-1")
    assert len(expected) == len(jobs)
    for way in ("stride-100", "alone", "apart"):
        assert files(tmp_path / way) == expected, way


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = tiny_run(tmp_path / str(seed), tiny_plan(seed=seed))
        list(one_block(run, plan_budget(run.plan), "block-0"))
    assert files(tmp_path / "0") != files(tmp_path / "1")


def test_blocks_start_as_copies_of_the_seed_block(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = tiny_run(tmp_path, tiny_plan(branch=0.5))
    budget = plan_budget(run.plan)
    list(one_block(run, budget, "seed"))
    reports = one_block(run, budget, "block-1")
    first = next(reports)
    assert first.step == 7  # counts on from the seed block's 6 steps
    reports.close()
    seed = load_file(checkpoints(tmp_path / "seed")[-1])
    block = load_file(checkpoints(tmp_path / "block-1")[-1])
    for name, tensor in seed.items():
        mine = block[name.replace("layers.0.", "layers.2.").replace("layers.1.", "layers.3.")]
        if name.startswith("exp_avg_sq"):  # one step of AdamW with beta2 0.99 after the copy
            assert bool((mine >= 0.99 * tensor * (1 - 1e-5)).all())
        if name.startswith("weights"):
            assert float((mine - tensor).abs().max()) < 0.01
