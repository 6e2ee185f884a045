"""Jobs as processes of this machine: some at a time, and started again when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from oneblock.launch.command import Command
from oneblock.train.checkpoint import checkpoints, job_folder

MISTAKE = 2
"""Exit code of a command that was given wrong options: the same command will fail again."""
BUSY = 75
"""Exit code of a command whose job another process trains (EX_TEMPFAIL of sysexits.h): later it may work."""
BUSY_PATIENCE = 60
"""Times ``patience`` before a busy job is asked again."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job.

    Args:
        code: the exit code that ended its last process.
        log: gets what the job prints, on this machine.
        slurm_id: what Slurm calls the job when it was ``submitted``.
    """

    job: str
    kind: Literal["started", "restarted", "finished", "given up", "busy", "submitted"]
    code: int | None = None
    log: Path | None = None
    slurm_id: str = ""


@dataclass
class _Running:
    command: Command
    slot: int
    code: int | None = None
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    busy: bool = False
    newest: str = ""
    start_at: float = field(default_factory=time.monotonic)


def run_commands(
    commands: Sequence[Command],
    directory: Path,
    workers: int,
    retries: int = 3,
    environment: Callable[[int], dict[str, str]] = lambda slot: {},
    patience: float = 1.0,
) -> Generator[Event, None, None]:
    """Run ``commands``, at most ``workers`` at a time, and say what happens to them.

    A job that dies is started again and goes on from its checkpoint. After more than ``retries`` deaths without a new
    checkpoint, or when its options were wrong (exit code 2), it is given up; the others go on. A job that another
    process trains (exit code 75), say after its launcher was killed, is waited for. Closing the iterator stops all
    processes, with a checkpoint.

    Args:
        directory: of the run on this machine; what a job prints goes to ``log_file``.
        environment: variables for the process in slot 0 .. workers - 1, e.g. which GPU it may see.
        patience: seconds before the first new start; doubled for each further death, up to a minute.
    """
    waiting, free, running = list(commands), list(range(workers)), list[_Running]()
    try:
        while waiting or running:
            while waiting and free:
                running.append(_Running(waiting.pop(0), free.pop(0)))
            for one in list(running):
                event = _look_after(one, directory, retries, environment, patience)
                if event is None:
                    continue
                if event.kind in ("finished", "given up"):
                    running.remove(one)
                    free.append(one.slot)
                yield event
            time.sleep(0.05)
    finally:
        _stop([one.process for one in running if one.process is not None])


def log_file(directory: Path, job: str) -> Path:
    """What a job of the run in ``directory`` prints."""
    return job_folder(directory, job) / "log.txt"


def _look_after(
    one: _Running, directory: Path, retries: int, environment: Callable[[int], dict[str, str]], patience: float
) -> Event | None:
    job = one.command.job
    tell = partial(Event, job=job, log=log_file(directory, job))
    if one.process is None:
        if time.monotonic() < one.start_at:
            return None
        one.process = _start(one.command, log_file(directory, job), environment(one.slot))
        if one.busy:
            return None
        return tell(kind="restarted" if one.failures else "started", code=one.code)
    one.code = code = one.process.poll()
    if code is None:
        return None
    one.process = None
    if code == 0:
        return tell(kind="finished", code=code)
    if code == BUSY:
        known, one.busy = one.busy, True
        one.start_at = time.monotonic() + BUSY_PATIENCE * patience
        return None if known else tell(kind="busy", code=code)
    one.busy = False
    newest = "".join(path.name for path in checkpoints(job_folder(directory, job))[-1:])
    one.failures = 1 if newest != one.newest else one.failures + 1
    one.newest = newest
    if code == MISTAKE or one.failures > retries:
        return tell(kind="given up", code=code)
    one.start_at = time.monotonic() + min(60.0, patience * 2.0 ** (one.failures - 1))
    return None


def _start(command: Command, file: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab") as log:
        return subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **variables},
            start_new_session=True,  # Ctrl-C is for the launcher, which then stops its jobs one by one
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 60.0) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
