"""How files of images are read: what is too large, and what is kept of the work."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
OLD_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
OLD_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files of images are read.

    Args:
        max_pixels: an image with more pixels is left out, for it may be a small file that unpacks to fill the memory;
            the default is where Pillow refuses.
        cache: keep the decoded images on disk, and take them from there while the files stay as they are.
        cache_gb: decoded images of all sets together that are kept, in 10^9 bytes; those unused for longest go first.

    Raises:
        ValueError: ``max_pixels`` below 1, ``cache_gb`` negative or not a number.
    """

    max_pixels: int = 178_956_970
    cache: bool = True
    cache_gb: float = 20.0

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ValueError(
                f"max_pixels={self.max_pixels} is too small; 1 or more is allowed; use for example 1000000"
            )
        if not (self.cache_gb >= 0 and math.isfinite(self.cache_gb)):
            raise ValueError(
                f"cache_gb={self.cache_gb} is not possible; 0 or more is allowed; use --no-cache to keep nothing"
            )


READING = Reading()
"""The usual way."""


def data_folder() -> Path:
    """``$ONEBLOCK_DATA``, or ``./data``."""
    return Path(os.environ.get("ONEBLOCK_DATA") or "data")


def usable_cpus() -> int:
    """CPUs that this process may keep busy: those of its affinity, no more than the quota of its control group and
    ``OMP_NUM_THREADS`` allow."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdecimal() and int(wanted) > 0:
        allowed = min(allowed, int(wanted))
    return max(1, min(allowed, _quota()))


def _quota() -> int:
    """CPUs of the control group's quota, rounded up; very many without a quota."""
    try:
        if CPU_MAX.is_file():
            quota, period = CPU_MAX.read_text().split()[:2]
        else:
            quota, period = OLD_QUOTA.read_text(), OLD_PERIOD.read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else 2**30
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no control groups here
        return 2**30
