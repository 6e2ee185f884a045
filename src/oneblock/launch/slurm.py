"""Jobs as an array of Slurm, through submitit. A job that Slurm takes away is queued again and goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oneblock.launch.command import Task


@dataclass(frozen=True)
class Submission:
    """What submitit runs on a node: the command of a job."""

    command: tuple[str, ...]

    def __call__(self) -> None:
        subprocess.run(self.command, check=True)

    def checkpoint(self) -> Any:
        """submitit asks this before Slurm takes the job away: queue the same command again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    stages: Sequence[Sequence[Task]], folder: Path, parameters: Mapping[str, str | int | float], cluster: str = "slurm"
) -> dict[str, str]:
    """Submit one array for each stage; a stage starts when the one before has ended well.

    Args:
        stages: tasks that may run at the same time.
        folder: for submitit's scripts and logs.
        parameters: of submitit's executor: ``timeout_min``, ``gpus_per_node``, ``slurm_partition``, ...
        cluster: ``"slurm"``, or ``"local"`` to try it without one.

    Returns:
        Slurm's id of every job, by the job's name.

    Raises:
        ImportError: submitit is not installed.
        ValueError: Slurm is not there, or submitit does not know a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--slurm needs submitit; pip install 'oneblock[slurm]'") from error
    ids: dict[str, str] = {}
    before: list[str] = []
    for tasks in stages:
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            executor.update_parameters(name="oneblock", **parameters)
            if before:
                executor.update_parameters(slurm_dependency="afterok:" + ":".join(before))
        except (RuntimeError, NameError, AssertionError) as error:
            raise ValueError(f"cannot use Slurm here ({error}); look at --slurm-options, or use --local") from error
        with executor.batch():
            jobs = [executor.submit(Submission(task.command)) for task in tasks]
        before = [str(job.job_id) for job in jobs]
        ids |= dict(zip([task.job for task in tasks], before, strict=True))
    return ids
