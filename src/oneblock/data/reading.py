"""How files of images are read: what is too large, and what is kept of the work."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from oneblock.cpus import CHOSEN, available_cpus


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
    """Threads that may work at a time: the CPUs of this process, at most as many as ``OMP_NUM_THREADS`` says."""
    wanted = os.environ.get(CHOSEN, "").partition(",")[0]
    allowed = available_cpus()
    return min(allowed, int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else allowed
