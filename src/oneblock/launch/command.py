"""The command line of a job. Whoever can run it, anywhere, trains the block."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """A job to start.

    Args:
        job: its name, e.g. ``"block-2"``.
        words: its command line.
    """

    job: str
    words: tuple[str, ...]


def job_command(job: str, run_dir: str, options: Sequence[str] = (), processes: int = 0) -> Command:
    """The command that trains ``job`` of the run at ``run_dir``.

    Args:
        job: ``"block-b"`` or ``"trunk"``.
        options: more words of ``oneblock job``.
        processes: how many torchrun starts for the block on one machine; 0 is one process without torchrun.
    """
    # standalone: a rendezvous of its own for every block, on a free port
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)) if processes else ()
    block = job.removeprefix("block-")  # or the trunk, by its name
    words = (sys.executable, *torchrun, "-m", "oneblock.cli", "job", run_dir, "--block", block, *options)
    return Command(job=job, words=words)
