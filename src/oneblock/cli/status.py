"""``oneblock status``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.plan import read_plan
from oneblock.presets import plan_budget
from oneblock.train.checkpoint import checkpoints
from oneblock.train.record import read_rows
from oneblock.train.step import JobSpec
from oneblock.train.strategy import job_specs


@dataclass(frozen=True)
class JobStatus:
    """One row of the table; ``step`` is that of the newest checkpoint."""

    job: str
    step: int
    num_steps: int
    loss: float | None
    saved_seconds_ago: float | None
    state: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where the jobs of a run stand, read from its directory alone."""

    run_dir: Positional[Path]
    """directory of the run"""
    json: bool = False
    """print one JSON object per job instead of a table"""

    def run(self) -> None:
        plan = read_plan(self.run_dir)
        jobs = [job_status(self.run_dir, spec) for spec in job_specs(plan, plan_budget(plan))]
        if self.json:
            for job in jobs:
                console.emit(asdict(job))
            return
        rows = [
            (
                job.job,
                f"{job.step}/{job.num_steps}",
                "-" if job.loss is None else f"{job.loss:.4f}",
                "-" if job.saved_seconds_ago is None else f"{job.saved_seconds_ago:.0f} s ago",
                job.state,
            )
            for job in jobs
        ]
        console.table(f"{self.run_dir}, plan {plan.hash}", ("job", "step", "loss", "saved", "state"), rows)


def job_status(directory: Path, spec: JobSpec) -> JobStatus:
    """The state of one job."""
    found = checkpoints(directory / spec.name)
    rows = list(read_rows(directory / spec.name / "metrics.jsonl"))
    loss = float(rows[-1]["loss"]) if rows else None
    if not found:
        return JobStatus(spec.name, spec.first_step, spec.last_step, loss, None, "not started")
    step = int(found[-1].stem.removeprefix("step-"))
    age = time.time() - found[-1].stat().st_mtime
    return JobStatus(spec.name, step, spec.last_step, loss, age, "done" if step >= spec.last_step else "unfinished")
