"""Who trained: the command, machine and versions of every process that works on a job or a comparison, as JSON lines.

A session is written when a process starts to work, and again, with what it took, when it ends; one that was killed has
its first line alone.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from oneblock.checks import check_fields
from oneblock.plain import parse_plain
from oneblock.version import VERSION

SESSIONS_FILE = "sessions.jsonl"
MOST_LINE = 2**20
"""Bytes of a line: a comparison may have thousands of runs."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """The work of one process.

    Args:
        began: in seconds since 1970, by the clock of ``host``.
        process: its number there.
        command: the words that started it, as a shell takes them.
        versions: of oneblock, Python and torch.
        threads: CPU threads of torch; ``gpu`` is the name of a CUDA device that it used, or empty.
        about: what it is to do, e.g. the runs of a comparison; plain values.
        seconds: that it took; None of one that has not ended, or was killed.
        resident_bytes: highest memory of the process until then, with all that it loaded; None where the system does
            not tell. ``gpu_bytes``: highest bytes of tensors on its CUDA device, None without one.
    """

    began: float
    process: int
    host: str
    command: str
    versions: dict[str, str]
    threads: int
    gpu: str = ""
    about: dict[str, object] = field(default_factory=dict)
    seconds: float | None = None
    resident_bytes: int | None = None
    gpu_bytes: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def ended(self) -> Session:
        """The same with what it took until now."""
        return replace(
            self,
            seconds=max(0.0, time.time() - self.began),
            resident_bytes=_resident_bytes(),
            gpu=_gpu(),
            gpu_bytes=torch.cuda.max_memory_allocated() if _gpu() else None,
        )


def this_session(about: dict[str, object] | None = None) -> Session:
    """A session of this process that begins now."""
    return Session(
        began=time.time(),
        process=os.getpid(),
        host=socket.gethostname(),
        command=command(),
        versions={"oneblock": VERSION, "python": platform.python_version(), "torch": str(torch.__version__)},
        threads=torch.get_num_threads(),
        gpu=_gpu(),
        about=about or {},
    )


def command() -> str:
    """The words that started this process; those of a worker are its parent's. Empty in an interactive Python."""
    first, *others = sys.argv or [""]
    path = Path(first)
    if path.parts[-2:] == ("oneblock", "__main__.py"):
        return shlex.join(["oneblock", *others])
    if path.suffix == ".py":
        return shlex.join(["python", first, *others])
    return "" if first in ("", "-c") else shlex.join([path.name, *others])


def add_session(directory: Path, session: Session) -> None:
    """Append a session to those of a job or comparison; a disk that takes nothing more is no reason to stop."""
    try:
        with open(directory / SESSIONS_FILE, "a") as file:
            file.write(json.dumps(asdict(session)) + "\n")
    except OSError:
        return


@contextmanager
def in_session(directory: Path, about: dict[str, object] | None = None) -> Iterator[None]:
    """What is done inside is a session of ``directory``, which exists afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    session = this_session(about)
    add_session(directory, session)
    try:
        yield
    finally:
        add_session(directory, session.ended())


def read_sessions(directory: Path) -> list[Session]:
    """The sessions of a job or comparison in their order, each as it was last written; lines that are none are left
    out."""
    path = directory / SESSIONS_FILE
    if not path.is_file():
        return []
    found: dict[tuple[str, int, float], Session] = {}
    with open(path, "rb") as file:
        while line := file.readline(MOST_LINE):
            session = _session(line)
            if session is not None:
                found[session.host, session.process, session.began] = session
    return list(found.values())


def _session(line: bytes) -> Session | None:
    try:
        values = parse_plain(line, "a session")
        known = isinstance(values, dict) and values.keys() == {one.name for one in fields(Session)}
        return Session(**values) if known else None
    except ValueError:
        return None


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_initialized() else ""


def _resident_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
