"""Batches that a thread reads before they are asked for, and sends to a device meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .memory import Batches, Samples

DEPTH = 2
"""Batches that are read before they are asked for."""


class _Sent(NamedTuple):
    """Samples on their way to a device, and the event that tells when they are there; None where nothing waits."""

    samples: Samples
    arrived: torch.cuda.Event | None


class Prefetcher:
    """The batches of ``source`` of ``steps``, in order, on ``device``.

    A thread reads them, ``DEPTH`` steps before they are asked for at most. On CUDA they go through pinned memory and a
    stream of their own, so that neither the reading nor the copy holds up what the device is doing.

    Args:
        batch_size, seed: of every batch (``Batches.batch``).
        check: is shown every batch before it leaves; what it raises, ``take`` raises.
    """

    def __init__(
        self,
        source: Batches,
        batch_size: int,
        seed: int,
        steps: range,
        device: torch.device,
        check: Callable[[Samples], None] = lambda samples: None,
    ) -> None:
        self._read = partial(_read, source, batch_size, seed, device, check)
        self._device = device
        self._steps = iter(steps)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="oneblock-read")
        self._waiting: deque[tuple[int, Future[_Sent]]] = deque()
        for _ in range(DEPTH):
            self._ask()

    def take(self, step: int) -> Samples:
        """The samples of ``step``, which must be the next one.

        Raises:
            ValueError: what the source, or ``check``, refuses.
        """
        asked, future = self._waiting.popleft()
        assert asked == step, f"batches come in order: step {asked} is next, not {step}"
        self._ask()
        samples, arrived = future.result()
        if arrived is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(arrived)
            for tensor in _tensors(samples):
                tensor.record_stream(now)  # its memory is not given away before what works on it now is done
        return samples

    def close(self) -> None:
        """Stop reading; what is being read is waited for."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _ask(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._waiting.append((step, self._thread.submit(self._read, self._stream, step)))


def _read(
    source: Batches,
    batch_size: int,
    seed: int,
    device: torch.device,
    check: Callable[[Samples], None],
    stream: torch.cuda.Stream | None,
    step: int,
) -> _Sent:
    samples = source.batch(step, batch_size, seed)
    check(samples)
    if stream is None:
        return _Sent(_mapped(samples, lambda tensor: tensor.to(device)), None)
    pinned = _mapped(samples, lambda tensor: tensor.pin_memory())
    with torch.cuda.stream(stream):
        sent = _mapped(pinned, lambda tensor: tensor.to(device, non_blocking=True))
    return _Sent(sent, stream.record_event())


def _mapped(samples: Samples, change: Callable[[Tensor], Tensor]) -> Samples:
    return Samples(change(samples.values), None if samples.labels is None else change(samples.labels))


def _tensors(samples: Samples) -> tuple[Tensor, ...]:
    return (samples.values,) if samples.labels is None else (samples.values, samples.labels)
