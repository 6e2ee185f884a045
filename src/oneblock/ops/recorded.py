"""Work that is recorded once and replayed: on CUDA one launch in the place of hundreds.

A CUDA graph holds the kernels of ``work`` and the addresses that they read and write. A replay costs the processor one
launch, so that small networks no longer wait for it. What the work needs to know must stand in tensors that stay where
they are; numbers of Python that it has read are part of the recording.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

import torch

WARM_UPS = 3
"""Times that work is done before it is recorded: kernels are compiled, chosen and tried out, and memory is found."""
Result = TypeVar("Result")


class CannotRecordError(RuntimeError):
    """This work cannot be recorded; the message says why."""


class Recorded(Generic[Result]):
    """``work`` as something that can be called again and again.

    On CUDA it is captured as a graph. On other devices nothing is recorded and a call does the work itself, after the
    same warm-up and with the same refusals: what is around it is tested there.

    Args:
        work: reads and writes tensors that exist already, and never waits for the device. It is done ``WARM_UPS`` times
            here, and not undone. What it returns is overwritten by the next call.
        device: on which it works.

    Raises:
        CannotRecordError: it waits for the device, draws from a generator of torch's or Python's own (what it draws
            would be part of the recording), or does something else that a graph cannot hold. All tensors are as
            ``WARM_UPS`` times the work leave them, and generators as they were.
    """

    def __init__(self, work: Callable[[], Result], device: torch.device) -> None:
        self._work = work
        self._graph: torch.cuda.CUDAGraph | None = None
        before = _random_states(device)
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self._warm_up(device)
            if before != _random_states(device):
                _set_random_states(before, device)
                raise CannotRecordError("it draws random numbers from a generator of torch's or Python's own")
            if device.type == "cuda":
                self._capture()

    def __call__(self) -> Result:
        """Do the work once; what it returns."""
        if self._graph is None:
            return self._work()
        self._graph.replay()
        return self._result

    def _warm_up(self, device: torch.device) -> None:
        if device.type != "cuda":
            for _ in range(WARM_UPS):
                self._work()
            return
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._work()
        torch.cuda.current_stream(device).wait_stream(side)

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads read data and may ask for memory meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._result = self._work()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise CannotRecordError(f"a graph cannot hold it ({reason[:160]})") from error
        self._graph = graph


def _random_states(device: torch.device) -> tuple[Any, bytes, bytes]:
    """How far the generators are that work may draw from without being told to: Python's, and torch's on the CPU and on
    the device."""
    there = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0, dtype=torch.uint8)
    return random.getstate(), bytes(torch.default_generator.get_state().tolist()), bytes(there.tolist())


def _set_random_states(states: tuple[Any, bytes, bytes], device: torch.device) -> None:
    python, here, there = states
    random.setstate(python)
    torch.default_generator.set_state(torch.tensor(list(here), dtype=torch.uint8))
    if there:
        torch.cuda.set_rng_state(torch.tensor(list(there), dtype=torch.uint8), device)
