"""The CPUs that this process may use: fewer than the machine has under taskset, in a container or in a batch job."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
GROUP = Path("/proc/self/cgroup")
CHOSEN = "OMP_NUM_THREADS"
"""The variable by which users set the threads of every process; torch follows it."""


def available_cpus() -> int:
    """CPUs that this process may use: those of its affinity, at most its cgroup's quota in whole CPUs; at least 1."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return affine if quota is None else max(1, min(affine, int(quota)))


def threads_each(processes: int) -> int:
    """CPU threads for each of so many processes that run at the same time; 0 leaves them to ``OMP_NUM_THREADS``, which
    is set."""
    return 0 if os.environ.get(CHOSEN) else max(1, available_cpus() // processes)


def cpu_quota() -> float | None:
    """CPUs' worth of time that the cgroups of this process allow, the smallest; None without a limit.

    ``cpu.max`` of version 2 holds ``quota period``, version 1 has a file for each; both in microseconds.
    """
    found = [_quota(place) for place in _places()]
    return min((quota for quota in found if quota is not None), default=None)


def _places() -> list[Path]:
    """Folders of the CPU groups of this process, with those that they lie in."""
    try:
        lines = [line.split(":", 2) for line in GROUP.read_text().splitlines()]
    except OSError:
        return []
    places = []
    for _, controllers, name in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        inner = root / name.lstrip("/")
        places += [inner, *(above for above in inner.parents if above.is_relative_to(root))]
    return places


def _quota(place: Path) -> float | None:
    try:
        if (place / "cpu.max").is_file():
            quota, period = (place / "cpu.max").read_text().split()
        else:
            quota, period = ((place / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 and float(period) > 0 else None
    except (OSError, ValueError):  # no limit is written "max", or the group sets none
        return None
