"""``oneblock status``."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.launch.status import status
from oneblock.report.status import status_report


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where the jobs of a run stand, read from its directory alone."""

    run_dir: Positional[str]
    """directory of the run, or its fsspec address (s3://..., gs://..., sftp://...)"""
    json: bool = False
    """print one JSON object per job instead of a table"""

    def run(self) -> None:
        jobs = status(self.run_dir)
        if not self.json:
            console.report(status_report(f"{self.run_dir}, plan {jobs[0].plan}", jobs))
            return
        for job in jobs:
            console.emit(asdict(job))
