"""The trunk of a branched run: its name, its random numbers, and runs in which it had another name."""

from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK
from tiny import tiny_plan, tiny_run

from oneblock.launch.mirror import Mirror, listing
from oneblock.plan import Plan, write_plan
from oneblock.train.checkpoint import (
    CheckpointError,
    Stamp,
    checkpoint_step,
    checkpoints,
    job_folder,
    latest,
    load_checkpoint,
    save_checkpoint,
)
from oneblock.train.record import Recorder, read_heartbeat, read_rows
from oneblock.train.strategy import TRUNK, all_blocks, job_name, one_block

PLAN = tiny_plan(branch=0.5)


def make_old(directory: Path, plan: Plan = PLAN) -> None:
    """Turn a run into one of an earlier version: the trunk's files lie in ``seed/`` and say so."""
    (directory / "trunk").rename(directory / "seed")
    for path in checkpoints(directory / "seed"):
        tensors, stamp = load_checkpoint(path, plan.hash, TRUNK)
        save_checkpoint(path, tensors, Stamp(stamp.plan, "seed", stamp.step, stamp.num_steps))


def last(directory: Path, job: str) -> bytes:
    return checkpoints(directory / job)[-1].read_bytes()


@pytest.mark.parametrize("reports", [3, 6, 8])
@pytest.mark.parametrize("shared", ["private", "synced"])
def test_an_old_run_goes_on_to_the_same_bytes(tmp_path: Path, reports: int, shared: str) -> None:
    """Stopped in the trunk, at its end, and in the blocks."""
    plan = tiny_plan(branch=0.5, shared=shared, sync_every=2)
    whole, old = tiny_run(tmp_path / "whole", plan), tiny_run(tmp_path / "old", plan)
    list(all_blocks(whole))
    some = all_blocks(old)
    for _ in range(reports):
        next(some)
    some.close()
    make_old(tmp_path / "old", plan)
    more = list(all_blocks(old))
    assert len(more) == 6 + 3 + 3 - reports
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["block-0", "block-1", "plan.json", "seed"]
    for block in ("block-0", "block-1"):
        assert last(tmp_path / "old", block) == last(tmp_path / "whole", block)
    ours, stamp = load_checkpoint(checkpoints(tmp_path / "old" / "seed")[-1], plan.hash, TRUNK)
    theirs, _ = load_checkpoint(checkpoints(tmp_path / "whole" / "trunk")[-1], plan.hash, TRUNK)
    assert stamp.job == "seed", "an earlier version can go on with it too"
    assert all(t.equal(theirs[name]) for name, t in ours.items())


def test_its_random_numbers_are_those_of_its_first_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path, PLAN)
    noise, data = [], []
    draw, batch = type(run.task).draw, type(run.source).batch

    def spy_draw(self: Any, *words: Any) -> Any:
        noise.append(words[-1].initial_seed())
        return draw(self, *words)

    def spy_batch(self: Any, step: int, batch_size: int, seed: int) -> Any:
        data.append(seed)
        return batch(self, step, batch_size, seed)

    monkeypatch.setattr(type(run.task), "draw", spy_draw)
    monkeypatch.setattr(type(run.source), "batch", spy_batch)
    list(one_block(run, TRUNK))
    assert noise == [PLAN.derive_seed("noise", "seed", step) for step in range(6)]
    assert set(data) == {PLAN.derive_seed("data", "seed")}


def test_metrics_and_heartbeats_of_an_old_run_stay_in_their_place(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, PLAN)
    first = one_block(run, TRUNK)
    recorder = Recorder(tmp_path, every=1)
    recorder.add(next(first))
    first.close()
    make_old(tmp_path)
    again = Recorder(tmp_path, every=1)
    for report in one_block(run, TRUNK):
        again.add(report)
    assert [row["step"] for row in read_rows(tmp_path / "seed" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    beat = read_heartbeat(job_folder(tmp_path, TRUNK))
    assert beat is not None
    assert (beat.job, beat.state) == ("trunk", "done")
    assert not (tmp_path / "trunk").exists()


def test_an_old_run_is_read_at_its_address(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "remote", PLAN)
    reports = one_block(run, TRUNK)
    next(reports)
    reports.close()
    make_old(tmp_path / "remote")
    mirror = Mirror(f"file://{tmp_path}/remote", tmp_path / "here")
    here = mirror.pull(TRUNK)
    assert latest(job_folder(here, TRUNK), PLAN.hash)[1].step == 1  # type: ignore[index]
    list(one_block(tiny_run(here, PLAN), TRUNK))
    mirror.push(TRUNK)
    assert last(tmp_path / "remote", "seed") == last(here, "seed")
    assert sorted(path.name for path in (tmp_path / "remote").iterdir()) == ["plan.json", "seed"]
    with listing(f"file://{tmp_path}/remote") as directory:
        assert [checkpoint_step(path) for path in checkpoints(job_folder(directory, TRUNK))] == [1, 6]


def test_only_the_trunk_has_a_former_name(tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path)
    assert job_folder(tmp_path, TRUNK) == tmp_path / "trunk"
    assert job_folder(tmp_path, "block-0") == tmp_path / "block-0"
    path = tmp_path / "block-0" / "step-000000001.safetensors"
    save_checkpoint(path, {}, Stamp(PLAN.hash, "seed", 1, 2))
    with pytest.raises(CheckpointError, match="holds seed, not block-0"):
        latest(tmp_path / "block-0", PLAN.hash)


def test_status_and_launch_find_an_old_run(tmp_path: Path, ok: Any) -> None:
    words = ("train", "images", "--out", tmp_path, "--branch", "0.5", *TINY, *WORK)
    ok(*words)
    (tmp_path / "trunk").rename(tmp_path / "seed")
    states = ok("status", tmp_path, "--json")
    assert [(state["job"], state["state"]) for state in states] == [
        ("trunk", "done"), ("block-0", "done"), ("block-1", "done"),
    ]  # fmt: skip
    ok("job", tmp_path, "--block", "-1", "--threads", "1")
    assert not (tmp_path / "trunk").exists()


@pytest.mark.parametrize(("block", "job"), [(0, "block-0"), ("1", "block-1"), (-1, "trunk"), ("trunk", "trunk")])
def test_a_job_by_its_block(block: int | str, job: str) -> None:
    assert job_name(PLAN, block) == job


def test_blocks_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="block=2 does not exist; use 0"):
        job_name(PLAN, 2)
    with pytest.raises(ValueError, match="block='first' does not exist; use 0"):
        job_name(PLAN, "first")
