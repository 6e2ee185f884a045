"""Where the jobs of a run stand, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from oneblock.launch.status import JobStatus
from oneblock.report.table import Report, Table

COLUMNS = ("job", "step", "saved", "loss", "steps/s", "left", "last seen", "host", "state")


def status_table(title: str, jobs: Sequence[JobStatus]) -> Table:
    """One row for each job."""
    return Table(title, COLUMNS, [_row(job) for job in jobs])


def status_report(title: str, jobs: Sequence[JobStatus]) -> Report:
    """The table, names of classes, what the record of each job says, and what is wrong with its checkpoints."""
    classes = [f"classes: {', '.join(jobs[0].classes)}"] if jobs[0].classes else []
    notes = [f"{job.job}, {note}" for job in jobs for note in (*job.notes, *job.problems)]
    return Report([status_table(title, jobs)], classes + notes)


def _row(job: JobStatus) -> tuple[str, ...]:
    return (
        job.job,
        f"{job.step}/{job.num_steps}",
        str(job.saved),
        "-" if job.loss is None else f"{job.loss:.4f}",
        "-" if job.steps_per_second is None else f"{job.steps_per_second:.3g}",
        "-" if job.seconds_left is None else duration(job.seconds_left),
        "-" if job.seen_seconds_ago is None else f"{duration(job.seen_seconds_ago)} ago",
        job.host or "-",
        job.state,
    )


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3.4 h``, ``2.5 d``."""
    for size, unit, digits in ((86400.0, "d", 1), (3600.0, "h", 1), (60.0, "min", 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
