"""Jobs as an array of Slurm, through submitit. A job that Slurm takes away is queued again and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from oneblock.launch.command import Command

MANY = 1_000_000
"""How often a job that ran into its time limit is queued again; submitit's own 3 would end a long training."""
Parameter = str | int | float
"""Value of a parameter of submitit."""


class Submission:
    """What submitit runs on a node: the command of a job."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        # Slurm warns all processes of a job with SIGUSR2; submitit answers, the command would die of it
        ignore = partial(signal.signal, signal.SIGUSR2, signal.SIG_IGN)
        self._process = subprocess.Popen(self.command, preexec_fn=ignore)
        code = self._process.wait()
        if code:
            raise subprocess.CalledProcessError(code, self.command)

    def checkpoint(self) -> Any:
        """submitit asks this before Slurm takes the job away: let the command save, and queue it again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            os.kill(self._process.pid, signal.SIGTERM)
            # runs in a signal handler, in the middle of `wait` above, which holds a lock and will fetch the exit code
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Submission(self.command))


def submit(
    stages: Sequence[Sequence[Command]],
    folder: Path,
    parameters: Mapping[str, Parameter],
    cluster: str = "slurm",
) -> dict[str, str]:
    """Submit one array for each stage; a stage starts when the one before has ended well.

    Args:
        stages: commands that may run at the same time.
        folder: for submitit's scripts and logs.
        parameters: of submitit's executor: ``timeout_min``, ``gpus_per_node``, ``slurm_partition``, ...
        cluster: ``"slurm"``, or ``"local"`` to try it without Slurm.

    Returns:
        Slurm's id of every job, by the job's name.

    Raises:
        ImportError: submitit is not installed.
        ValueError: Slurm is not there or refuses the array, or submitit does not know a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--slurm needs submitit; pip install 'oneblock[slurm]'") from error
    ids: dict[str, str] = {}
    before: list[str] = []
    for commands in stages:
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=MANY)
            executor.update_parameters(name="oneblock", **parameters)
            if before:
                executor.update_parameters(slurm_dependency="afterok:" + ":".join(before))
            with executor.batch():
                jobs = [executor.submit(Submission(command.words)) for command in commands]
        except (RuntimeError, NameError, AssertionError) as error:
            raise ValueError(f"cannot use Slurm here ({error}); look at --slurm-options, or use --local") from error
        before = [str(job.job_id) for job in jobs]
        ids |= dict(zip([command.job for command in commands], before, strict=True))
    return ids
