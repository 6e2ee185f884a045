from pathlib import Path

import pytest
from tiny import metrics_line, tiny_plan, tiny_run

from oneblock.tasks.image import ImageGeneration
from oneblock.train.checkpoint import CheckpointError, checkpoints
from oneblock.train.loop import BusyError, train_job
from oneblock.train.record import Recorder, read_rows
from oneblock.train.strategy import all_blocks, job_specs, one_block


def test_two_processes_never_train_one_job(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    first = one_block(run, "block-0")
    next(first)
    with pytest.raises(BusyError, match="block-0 is being trained by another process; wait for it or stop it"):
        next(one_block(run, "block-0"))
    next(one_block(run, "block-1"))  # another block is free
    first.close()
    assert next(one_block(run, "block-0")).step == 2


def test_checkpoints_come_at_the_interval_and_at_the_end(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, save_every=2, keep=2)
    list(one_block(run, "block-0"))
    assert [path.stem for path in checkpoints(tmp_path / "block-0")] == ["step-000000004", "step-000000006"]
    assert list(one_block(run, "block-0")) == []  # a finished job has nothing to do


def test_a_damaged_newest_checkpoint_costs_only_its_steps(tmp_path: Path) -> None:
    warnings: list[str] = []
    run = tiny_run(tmp_path / "a", save_every=2, warn=warnings.append)
    list(one_block(run, "block-0"))
    good = checkpoints(tmp_path / "a" / "block-0")[-1].read_bytes()
    checkpoints(tmp_path / "a" / "block-0")[-1].write_bytes(good[:100])
    assert [r.step for r in one_block(run, "block-0")] == [5, 6]
    assert len(warnings) == 1
    assert "is damaged" in warnings[0]
    assert checkpoints(tmp_path / "a" / "block-0")[-1].read_bytes() == good


def test_files_of_another_plan_in_the_directory_are_refused(tmp_path: Path) -> None:
    run, other = tiny_run(tmp_path / "a"), tiny_run(tmp_path / "b", tiny_plan(seed=1))
    list(one_block(run, "block-0"))
    (tmp_path / "a" / "block-0").rename(tmp_path / "b" / "block-0")
    with pytest.raises(CheckpointError, match="belongs to plan"):
        next(one_block(other, "block-0"))


def test_a_block_waits_for_its_trunk(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_plan(branch=0.5))
    with pytest.raises(ValueError, match="is not trained to its end; train that block first"):
        next(one_block(run, "block-0"))
    trunk = one_block(run, "trunk")
    next(trunk)
    trunk.close()
    with pytest.raises(ValueError, match="is not trained to its end; train that block first"):
        next(one_block(run, "block-1"))


def test_draws_of_a_step_stay_in_the_training_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path, tiny_plan(branch=0.5, overlap=0.1))
    seen: dict[int | None, list[float]] = {}
    loss = type(run.task).loss

    def spy(self, denoiser, noised, targets, condition):  # type: ignore[no-untyped-def]
        seen.setdefault(noised.block, []).extend(noised.sigma.tolist())
        return loss(self, denoiser, noised, targets, condition)

    monkeypatch.setattr(type(run.task), "loss", spy)
    list(all_blocks(run))
    for spec in job_specs(run.plan):
        lower, upper = spec.band
        assert all(lower * 0.999 <= sigma <= upper * 1.001 for sigma in seen[spec.block])
    edge = run.plan.edges[1]
    assert min(seen[0]) < edge < max(seen[1]), "both blocks also train beyond the edge between them"


def test_every_step_of_every_job_has_random_numbers_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path, tiny_plan(branch=0.5))
    seeds: list[int] = []

    draw = ImageGeneration.draw

    def spy(task, samples, sigma, block, generator):  # type: ignore[no-untyped-def]
        seeds.append(generator.initial_seed())
        return draw(task, samples, sigma, block, generator)

    monkeypatch.setattr(ImageGeneration, "draw", spy)
    list(all_blocks(run))
    assert len(seeds) == 6 + 3 + 3
    assert len(set(seeds)) == len(seeds)


def test_rows_are_complete_and_not_written_twice(tmp_path: Path) -> None:
    for stop in (3, 99):
        run = tiny_run(tmp_path, save_every=2)
        recorder, reports = Recorder(tmp_path, every=1), one_block(run, "block-1")
        for _, report in zip(range(stop), reports, strict=False):
            recorder.add(report)
        reports.close()
        (tmp_path / "block-1" / "step-000000003.safetensors").unlink(missing_ok=True)  # as if killed at step 3
    rows = list(read_rows(tmp_path / "block-1" / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["layer_evaluations"] for row in rows] == [step * 16 for step in range(1, 7)]
    assert all(row["job"] == "block-1" and row["num_steps"] == 6 for row in rows)


def test_a_row_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(metrics_line(step=1) + metrics_line(step=2)[:30])
    assert [row["step"] for row in read_rows(path)] == [1]
    assert list(read_rows(tmp_path / "absent.jsonl")) == []


def test_the_loop_is_lazy(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    spec = job_specs(run.plan)[0]
    train_job(run, spec)
    assert not (tmp_path / "block-0").exists()
