"""Peak bytes and floating-point operations of a training step, counted from shapes: no GPU, no real tensors, the same
answer every time.

Bytes: two steps under ``FakeTensorMode`` with PyTorch's ``MemTracker`` (two, because AdamW makes its state in the
first); the peak of the second by kind. Operations: one step under ``FlopCounterMode``, a multiplication and an addition
counted as two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DryRun:
    """What to count: the module, its optimizer, other tensors that live all the time, and one training step."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    others: tuple[Tensor, ...]
    step: Callable[[], None]


@dataclass(frozen=True)
class PeakBytes:
    """Bytes at the moment of the peak, and their split by kind (parameters, gradients, activations, ...)."""

    total: int
    by_kind: dict[str, int]


def peak_bytes(setup: Callable[[], DryRun], real: bool = False) -> PeakBytes:
    """Count the peak of one training step.

    Args:
        setup: builds everything; called inside ``FakeTensorMode``, so even a network larger than this machine fits.
        real: use real tensors and train for real, to check the count.

    Raises:
        RuntimeError: this version of torch has no ``MemTracker`` (it is private to torch; known in 2.11 to 2.13).
    """
    with nullcontext() if real else fake_tensors():
        run = setup()
        tracker = _tracker(run.module)
        tracker.track_external(run.module, run.optimizer, *run.others)
        with tracker:
            run.step()
            run.step()
        peak = tracker.get_tracker_snapshot("peak")
    by_kind = {str(getattr(kind, "value", kind)): int(size) for kind, size in next(iter(peak.values())).items()}
    return PeakBytes(by_kind.pop("Total"), by_kind)


def step_flops(setup: Callable[[], DryRun]) -> int:
    """Floating-point operations of matrix products and attention in one training step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def forward(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(q, k, v))

    def backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        # five products where the forward pass has two: the scores once more, and two for each of its products
        return int(sdpa_flop_count(q, k, v)) * 5 // 2

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    with fake_tensors():
        run = setup()
        counter = FlopCounterMode(display=False, custom_mapping={attention: forward, attention_backward: backward})
        with counter:
            run.step()
    return int(counter.get_total_flops())


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors made inside have a shape, a type and a device, and no storage."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        yield


def _tracker(module: nn.Module) -> Any:
    """PyTorch's tracker, for a step that may call ``module`` several times and leave some of its parameters alone."""
    try:
        from torch.distributed._tools.mem_tracker import MemTracker
    except ImportError as error:
        raise RuntimeError(f"torch {torch.__version__} has no MemTracker; use torch 2.11 to 2.13") from error

    class Tracker(MemTracker):
        def _pre_fw_hook(self, called: nn.Module, inputs: Any) -> None:
            # statistics of single modules, which nobody asks for here, forbid a second call of the outermost one
            around = set(self._mod_tracker.parents) - {self._mod_tracker.get_known_fqn(called)}
            if around == {"Global"} and not self._mod_tracker.is_bw:
                self.reset_mod_stats()
            super()._pre_fw_hook(called, inputs)

    tracker = Tracker()
    for parameter in module.parameters():
        if not parameter.requires_grad:
            # it hooks every parameter it has no handles of, and torch refuses hooks on frozen ones
            tracker._param_to_grad_hook_handles[parameter] = (_NoHook(), _NoHook())
    return tracker


class _NoHook:
    def remove(self) -> None:
        pass
