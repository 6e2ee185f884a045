"""Where and how a training runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from oneblock.checks import check_choice, check_count
from oneblock.cpus import CHOSEN, available_cpus

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how it runs; none of it changes what is learned beyond rounding."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, mps"""
    threads: int = 0
    """CPU threads (0: OMP_NUM_THREADS, else the CPUs that this process may use)"""
    checkpointing: bool = False
    """recompute activations in the backward pass: less memory, more time"""
    compile: Switch = "auto"
    """pass layers, and the step of --optimizer adamw8bit, through torch.compile (auto: on CUDA, with a compiler)"""
    capture: Switch = "auto"
    """record a training step once and replay it, without waiting for its loss (auto: on CUDA)"""
    save_every: int = 500
    """steps between checkpoints of a block"""
    keep: int = 2
    """checkpoints kept per block"""

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("save_every", 1), ("keep", 1)):
            check_count(name, getattr(self, name), least)
        for name in ("compile", "capture"):
            check_choice(name, getattr(self, name), get_args(Switch))

    def torch_device(self) -> torch.device:
        """The device, tried out; sets the number of CPU threads."""
        if self.threads:
            torch.set_num_threads(self.threads)
        elif CHOSEN not in os.environ and torch.get_num_threads() > available_cpus():
            torch.set_num_threads(available_cpus())  # torch does not know of quotas
        return open_device(self.device)


def compiles(device: torch.device, asked: Switch = "auto") -> bool:
    """Whether to compile: as asked, and otherwise on CUDA where a compiler is at hand."""
    if asked != "auto" or device.type != "cuda":
        return asked == "on"
    from torch.utils._triton import has_triton

    return bool(has_triton()) and any(map(shutil.which, ("cc", "gcc", "clang")))


def captures(device: torch.device, asked: Switch = "auto") -> bool:
    """Whether to record steps: as asked, and otherwise on CUDA."""
    return asked == "on" or (asked == "auto" and device.type == "cuda")


HERE = Machine()
"""This machine's CPU, with the usual settings."""


def open_device(name: str | torch.device) -> torch.device:
    """The device of that name; ``ValueError`` if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={str(name)!r} is not available ({error}); use cpu or a device of this machine"
        ) from error
    return device
