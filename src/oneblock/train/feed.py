"""From samples to the batches of a job, on its device.

On CUDA everything random is drawn there, by a generator that is seeded for every step: as on a CPU it follows from
(seed, job, step) alone, and as it is another generator, the numbers are others. Samples that fit are kept there too;
others are read ahead by a thread. On other devices noise is drawn on the CPU, as samples are read.
"""

from __future__ import annotations

import torch

from oneblock.data import Augment, Batches, Prefetcher, Samples, movable
from oneblock.plan import Plan
from oneblock.tasks.base import Batch, Task
from oneblock.train.levels import draw_levels
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.step import JobSpec

RESIDENT_SHARE = 0.25
"""Of a device's free memory, which samples may take."""


def placed(source: Batches, device: torch.device) -> Batches:
    """``source`` held by a CUDA device if that takes no more than ``RESIDENT_SHARE`` of its free memory; else as it
    is."""
    found = movable(source) if device.type == "cuda" else None
    if found is None or found.nbytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return source
    return found.to(device)


class Feed:
    """The batches of a job from step ``first`` on, in order.

    Args:
        source: of samples, on the CPU or (``placed``) on the device.
        task: on the device that draws.
        prefetch: read the samples ahead in a thread; they are drawn where they arrive.
        ranks: the processes that share each batch. All draw all of it, so that it does not matter how many they are.
    """

    def __init__(
        self,
        plan: Plan,
        spec: JobSpec,
        task: Task,
        source: Batches,
        device: torch.device,
        *,
        first: int,
        augment: Augment | None = None,
        prefetch: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self._plan, self._spec, self._task = plan, spec, task
        self._source, self._augment, self._ranks, self._device = source, augment, ranks, device
        self._generator = torch.Generator(device if device.type == "cuda" else "cpu")
        self._seed = plan.derive_seed("data", spec.stream)
        self._prefetcher: Prefetcher | None = None
        if prefetch:
            steps = range(first, spec.last_step)
            self._prefetcher = Prefetcher(source, spec.batch_size, self._seed, steps, device, task.check)

    def batch(self, step: int) -> Batch:
        """The batch of ``step``, or this process's part of it."""
        samples = self._samples(step)
        generator = self._generator.manual_seed(self._plan.derive_seed("noise", self._spec.stream, step))
        if self._augment is not None:
            samples = samples._replace(values=self._augment(samples.values, generator))
        sigma = draw_levels(self._plan, self._spec, len(samples.values), generator)
        batch = self._task.draw(samples, sigma, self._spec.block, generator)
        return batch.split(self._ranks.size)[self._ranks.rank].to(self._device)

    def close(self) -> None:
        """Stop reading."""
        if self._prefetcher is not None:
            self._prefetcher.close()

    def _samples(self, step: int) -> Samples:
        if self._prefetcher is not None:
            return self._prefetcher.take(step)
        return self._source.batch(step, self._spec.batch_size, self._seed)
