"""Where the jobs of a run stand, read from its directory alone: no network is built and no process is asked."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from oneblock.launch.mirror import listing
from oneblock.presets.bytes import is_byte_run, read_byte_plan
from oneblock.presets.door import read_plan
from oneblock.train.checkpoint import (
    CheckpointError,
    StorageError,
    checkpoint_step,
    checkpoints,
    job_folder,
    read_stamp,
)
from oneblock.train.integer import JOB
from oneblock.train.record import (
    METRICS_FILE,
    NOTES_FILE,
    Heartbeat,
    last_row,
    read_heartbeat,
    read_notes,
)
from oneblock.train.strategy import job_specs

SILENT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """Where one job stands.

    Args:
        plan: hash of the run's plan.
        step: of the last sign of life; ``saved`` is that of the newest checkpoint, where a killed job goes on.
        seconds_left: at the last speed.
        seen_seconds_ago: since the last sign of life or the newest checkpoint.
        state: ``not started``, ``running``, ``silent`` (no sign of life for a minute), ``stopped``, ``failed: ...``,
            ``damaged`` (not running, and its newest checkpoint is not one of it) or ``done``.
        problems: what is wrong with the newest checkpoints, of which ``saved`` is then none. Their headers alone are
            read; ``fsck`` reads everything.
        classes: names of the plan's classes; empty where they are called by their numbers.
        notes: what the job's record says of its training, e.g. that its data changed on the way.
    """

    plan: str
    job: str
    step: int
    saved: int
    num_steps: int
    loss: float | None
    steps_per_second: float | None
    seconds_left: float | None
    seen_seconds_ago: float | None
    host: str
    state: str
    problems: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def status(run_dir: str | Path) -> list[JobStatus]:
    """Where the jobs of a run stand, in the order in which one process would train them.

    Args:
        run_dir: directory of the run, or its fsspec address; no checkpoint is fetched.
    """
    with listing(str(run_dir)) as directory:
        found = _of_bytes(directory) if is_byte_run(directory) else _of_blocks(directory)
        here, there = str(directory), str(run_dir)
        return [replace(job, problems=tuple(one.replace(here, there) for one in job.problems)) for job in found]


def _of_blocks(directory: Path) -> list[JobStatus]:
    plan = read_plan(directory)
    specs = [(spec.name, (spec.first_step, spec.last_step)) for spec in job_specs(plan)]
    return [_job_status(directory, name, between, plan.hash, plan.classes) for name, between in specs]


def _of_bytes(directory: Path) -> list[JobStatus]:
    plan = read_byte_plan(directory)
    return [_job_status(directory, JOB, (0, plan.settings.steps), plan.hash)]


def _job_status(
    directory: Path, name: str, between: tuple[int, int], plan: str, classes: tuple[str, ...] = ()
) -> JobStatus:
    """The state of one job ``between`` its first and last step, from its checkpoints, metrics and heartbeat."""
    folder, (first_step, last_step) = job_folder(directory, name), between
    found, problems = _believable(folder, plan)
    row = last_row(folder / METRICS_FILE)
    beat = read_heartbeat(folder)
    saved = checkpoint_step(found[-1]) if found else first_step
    # the time of a checkpoint at a remote address is not known and stands at 0
    signs = [at for at in (path.stat().st_mtime for path in found[-1:]) if at] + ([beat.time] if beat else [])
    # clocks of two machines differ a little: a sign from the future is one from now
    seen = max(0.0, time.time() - max(signs)) if signs else None
    state = _state(beat, saved, last_step, seen) if found or beat or problems else "not started"
    if problems and state != "done" and not (beat and state == "running"):
        state = "damaged"
    speed = beat.steps_per_second if beat and state == "running" else None
    step = max(saved, beat.step) if beat and state != "done" else saved
    return JobStatus(
        plan=plan,
        job=name,
        step=step,
        saved=saved,
        num_steps=last_step,
        loss=float(row["loss"]) if row else beat.loss if beat else None,
        steps_per_second=speed,
        seconds_left=(last_step - step) / speed if speed else None,
        seen_seconds_ago=seen,
        host=beat.host if beat else "",
        state=state,
        problems=tuple(problems),
        classes=classes,
        notes=tuple(f"after step {note.step}: {note.note}" for note in read_notes(folder / NOTES_FILE)),
    )


def _believable(folder: Path, plan: str) -> tuple[list[Path], list[str]]:
    """The checkpoints of a job up to the newest whose header says that it is one, and what is wrong with the newer."""
    found, problems = checkpoints(folder), list[str]()
    while found:
        try:
            read_stamp(found[-1], plan, folder.name)
        except (CheckpointError, StorageError) as error:
            problems.append(str(error))
            found.pop()
        else:
            break
    return found, problems


def _state(beat: Heartbeat | None, saved: int, last_step: int, seen: float | None) -> str:
    if saved >= last_step:
        return "done"
    if beat is not None and beat.state in ("stopped", "failed"):
        return f"failed: {beat.error}" if beat.state == "failed" else "stopped"
    return "running" if seen is not None and seen < SILENT_SECONDS else "silent"
