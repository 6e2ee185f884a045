"""Peak bytes and floating-point operations of a training step, counted from shapes: no GPU, no real tensors, the same
answer every time.

Bytes: one step under ``FakeTensorMode`` with PyTorch's ``MemTracker``, after one update with zero gradients, because
AdamW makes its state in its first; the peak by kind. 8-bit AdamW is counted as it runs eagerly: temporary tensors of
its step count as optimizer state, and may make the peak when batches are small; compiled it needs less.

Operations: one step under ``FlopCounterMode``, a multiplication and an addition counted as two.

A pass forward and backward can also be followed moment by moment (``passage``): ways of training that differ in where
weights, gradients and optimizer states wait have everything else in common.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from oneblock.optim.adamw import make_state


@dataclass(frozen=True)
class DryRun:
    """What to count: the module, its optimizer, other tensors that live all the time, and one training step.

    The step uses every trained parameter; afterwards there are no gradients.

    Args:
        more: optimizers of other parts of the module, which the step uses too or whose state waits meanwhile.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    others: tuple[Tensor, ...]
    step: Callable[[], None]
    more: tuple[torch.optim.Optimizer, ...] = ()


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
        optimizers = (run.optimizer, *run.more)
        for optimizer in optimizers:
            make_state(optimizer)
        tracker = _tracker(run.module)
        tracker.track_external(run.module, *optimizers, *run.others)
        with tracker:
            run.step()
        peak = tracker.get_tracker_snapshot("peak")
    by_kind = {str(getattr(kind, "value", kind)): int(size) for kind, size in next(iter(peak.values())).items()}
    return PeakBytes(by_kind.pop("Total"), by_kind)


Event = Literal["start", "enter", "leave", "return", "gradient"]
PLACED = ("Parameter", "Gradient", "Optstate")
"""Kinds of bytes that a ``Moment`` leaves out: where they are is what ways of training differ in."""


@dataclass(frozen=True)
class Moment:
    """Something that happens in a pass forward and backward, and what lives besides the kinds of ``PLACED``.

    Args:
        event: a layer is entered or left on the way forward, its backward pass begins (``"return"``), or the
            ``"gradient"`` of a parameter is there.
        name: of the layer or the parameter; empty at the start.
        now: bytes by kind.
        high: the same where they are most, from now until the next moment.
    """

    event: Event
    name: str
    now: Mapping[str, int]
    high: Mapping[str, int]


def passage(setup: Callable[[], DryRun], layers: Callable[[nn.Module], Mapping[str, nn.Module]]) -> list[Moment]:
    """The moments of one pass forward and backward in which every gradient is let go as soon as it is there.

    Args:
        setup: as for ``peak_bytes``; the optimizer is not asked for a state.
        layers: of the module, by their names.
    """
    with fake_tensors():
        run = setup()
        tracker = _tracker(run.module)
        tracker.track_external(run.module, *run.others)
        found = _Moments(tracker)
        for name, parameter in run.module.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(partial(found.gradient, name))
        for name, layer in layers(run.module).items():
            layer.register_forward_pre_hook(partial(found.enter, name))
            layer.register_forward_hook(partial(found.leave, name))
        with tracker:
            run.step()
    return found.moments()


class _Moments:
    """Writes them down; its methods are hooks."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._marks: list[tuple[Event, str, dict[str, int]]] = []
        self._highs: list[dict[str, int]] = []
        tracker.watch = self.see
        self._mark("start", "")

    def see(self) -> None:
        """Something has changed."""
        now = self._now()
        if sum(now.values()) > sum(self._highs[-1].values()):
            self._highs[-1] = now

    def enter(self, name: str, layer: nn.Module, inputs: Any) -> None:
        if not self._backward:
            self._mark("enter", name)

    def leave(self, name: str, layer: nn.Module, inputs: Any, outputs: Any) -> None:
        if self._backward:
            return
        self._mark("leave", name)
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(lambda _: self._mark("return", name))

    def gradient(self, name: str, parameter: Tensor) -> None:
        self._mark("gradient", name)
        parameter.grad = None

    def moments(self) -> list[Moment]:
        return [Moment(*mark, high) for mark, high in zip(self._marks, self._highs, strict=True)]

    @property
    def _backward(self) -> bool:
        return bool(self._tracker._mod_tracker.is_bw)

    def _mark(self, event: Event, name: str) -> None:
        self._marks.append((event, name, self._now()))
        self._highs.append(self._now())

    def _now(self) -> dict[str, int]:
        (snap,) = self._tracker._curr_mem_snap.values()
        kinds = {str(getattr(kind, "value", kind)): int(size) for kind, size in snap.items()}
        return {kind: size for kind, size in kinds.items() if kind not in (*PLACED, "Total")}


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


def layers_run(
    layers: Sequence[nn.Module], shape: tuple[int, ...], checkpointing: bool = False, idle: Sequence[nn.Module] = ()
) -> DryRun:
    """A step of residual layers alone, without stem and head: squared error between their output and a target.

    Fused AdamW, no weight average.

    Args:
        layers: trained, one after the other; each maps a tensor of ``shape``, e.g. (n, t, d), to its like.
        checkpointing: recompute activations layer by layer.
        idle: layers of other blocks, which wait beside them with their optimizer states.
    """
    optimizer = torch.optim.AdamW(nn.ModuleList(layers).parameters(), fused=True)
    x, target = torch.empty(shape), torch.empty(shape)

    def step() -> None:
        h = x
        for layer in layers:
            h = checkpoint(layer, h, use_reentrant=False) if checkpointing else layer(h)
        (h - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    waiting = list(nn.ModuleList(idle).parameters())
    if waiting:
        other = torch.optim.AdamW(waiting, fused=True)
        make_state(other)
        waiting += [t for state in other.state.values() for t in state.values()]
    return DryRun(nn.ModuleList(layers), optimizer, (x, target, *waiting), step)


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors made inside have a shape, a type and a device, and no storage."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        yield


def _tracker(module: nn.Module) -> Any:
    """PyTorch's tracker without its statistics of single modules, which are most of its work.

    Its hooks stand at every parameter of ``module`` from the start, frozen ones excepted, which torch refuses hooks.
    """
    try:
        from torch.distributed._tools.mem_tracker import MemTracker
        from torch.distributed._tools.mod_tracker import ModTracker
    except ImportError as error:
        raise RuntimeError(f"torch {torch.__version__} has no MemTracker; use torch 2.11 to 2.13") from error

    ask_device = torch.ops.prim.device.default

    class Tracker(MemTracker):
        watch: Callable[[], None] | None = None

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is ask_device:  # half of all calls with fake tensors, and it makes none
                return func(*args)
            if any(hasattr(kind, "__tensor_flatten__") for kind in types):
                return NotImplemented  # comes back as the operations on the tensors inside
            return super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[no-untyped-call]

        def _update_peak_stats(self, peak_state: Any) -> None:
            for device, now in self._curr_mem_snap.items():
                if now["Total"] > self._peak_mem.get(device, 0):
                    self._peak_mem[device], self._peak_mem_snap[device] = now["Total"], dict(now)
            if self.watch is not None:
                self.watch()

        def _pre_fw_hook(self, called: nn.Module, inputs: Any) -> None:
            if self._mod_tracker.is_bw and self._ac_mod is None:  # a checkpointed layer runs forward once more
                self._ac_mod, self._in_ac = weakref.ref(called), True

        def _post_fw_hook(self, called: nn.Module, inputs: Any, outputs: Any) -> None:
            if self._ac_mod is not None and self._ac_mod() is called:
                self._ac_mod, self._in_ac = None, False

    class Calls(ModTracker):
        # The original also waits for the gradients of each module's inputs and holds the first until the last is there:
        # with a condition that all layers share, one gradient per layer until the end, which training never holds.
        def _fw_pre_hook(self, called: nn.Module, inputs: Any) -> None:
            self._user_pre_fw_hook(called, inputs)  # type: ignore[misc]

        def _fw_post_hook(self, called: nn.Module, inputs: Any, outputs: Any) -> None:
            self._user_post_fw_hook(called, inputs, outputs)  # type: ignore[misc]

    tracker = Tracker()
    tracker._mod_tracker = Calls()  # type: ignore[no-untyped-call]
    for parameter in module.parameters():
        if not parameter.requires_grad:
            tracker._param_to_grad_hook_handles[parameter] = (_NoHook(), _NoHook())
    tracker._track_module_params_and_buffers(module)
    return tracker


class _NoHook:
    def remove(self) -> None:
        pass
