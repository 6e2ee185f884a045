"""Peak bytes of a training step, counted from shapes: no GPU, no real tensors, the same answer every time.

Runs two steps under ``FakeTensorMode`` with PyTorch's ``MemTracker`` (two, because AdamW makes its state in the first)
and reports the peak of the second by kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class DryRun:
    """What to count: the module, its optimizer, other tensors that live all the time, and one training step."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    others: tuple[torch.Tensor, ...]
    step: Callable[[], None]


@dataclass(frozen=True)
class PeakBytes:
    """Bytes at the moment of the peak, and their split by kind (parameters, gradients, activations, ...)."""

    total: int
    by_kind: dict[str, int]


def peak_bytes(setup: Callable[[], DryRun]) -> PeakBytes:
    """Count the peak of one training step.

    Args:
        setup: builds everything; called inside ``FakeTensorMode``, so even a network larger than this machine fits.

    Raises:
        RuntimeError: this version of torch has no ``MemTracker`` (it is private to torch; known in 2.11 to 2.13).
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        from torch.distributed._tools.mem_tracker import MemTracker
    except ImportError as error:
        raise RuntimeError(f"torch {torch.__version__} has no MemTracker; use torch 2.11 to 2.13") from error
    with FakeTensorMode():
        run = setup()
        tracker = MemTracker()
        tracker.track_external(run.module, run.optimizer, *run.others)
        with tracker:
            run.step()
            tracker.reset_mod_stats()
            run.step()
        peak = tracker.get_tracker_snapshot("peak")
    by_kind = {str(getattr(kind, "value", kind)): int(size) for kind, size in next(iter(peak.values())).items()}
    return PeakBytes(by_kind.pop("Total"), by_kind)
