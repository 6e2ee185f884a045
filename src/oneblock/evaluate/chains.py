"""Chains of cycles of an image generator, and one-shot samples for as many calls of it: how many are copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from oneblock.audit.attractors import attractors, degenerate
from oneblock.audit.copies import KAPPA, gaps, nearest
from oneblock.audit.cyclic import REVERSES, cycle, cycle_grid
from oneblock.audit.intervals import share
from oneblock.audit.residence import half_at, onset, steps, survival
from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.evaluate.auditing import Auditing, Compared
from oneblock.evaluate.device import device_of
from oneblock.plan import Plan
from oneblock.presets.image import image_shape, image_task
from oneblock.sample import karras_grid
from oneblock.sample.generate import generate

Row = dict[str, Any]
LATE = 5
"""Cycles at the end of a chain whose states are clustered."""
CLUSTERED = 8000
"""States that are clustered at most."""
FOUND, KEPT, REPEATS = 16, 8, 4
"""Images that were found, and images of each split, at which chains are started to see how long they stay; chains of
each."""
GROUPS = ("found", "training", "held_out")
"""Where they start: at training images that were found, at others, and at images that were never trained."""


@dataclass(frozen=True, eq=False)
class _Copies:
    """Which of n samples are copies, bool (n,), and of which training image, int64 (n,)."""

    hits: Tensor
    index: Tensor


@dataclass(frozen=True, eq=False)
class _Starts:
    """Images (k, ...) with their classes (k,), the distance within which a chain is still there (k,), and how many are
    of each of ``GROUPS``."""

    images: Tensor
    labels: Tensor
    reach: Tensor
    sizes: list[int]


class Chains:
    """Samples of a model and what they are copies of.

    Args:
        compared: what samples are compared with.
    """

    def __init__(self, denoiser: DenoiserLike, plan: Plan, compared: Compared, auditing: Auditing) -> None:
        self.denoiser = denoiser
        self.plan = plan
        self.compared = compared
        self.auditing = auditing
        self.kappa = compared.kappa(auditing)
        self.device = device_of(denoiser)
        self._task = compared.task or image_task(plan)
        self._visits: Counter[int] = Counter()
        self._best: dict[int, tuple[float, Tensor]] = {}

    @property
    def calls(self) -> int:
        """Calls of the network, each for one sample, that every row has: those of all chains of an amplitude."""
        asked = self.auditing
        of_start = REVERSES[asked.reverse].calls(asked.start_steps)
        return asked.chains * (of_start + asked.cycles * REVERSES[asked.reverse].calls(asked.cycle_steps))

    def one_shot(self, sampler: str) -> Row:
        """Samples for the same calls, without a cycle."""
        count = self.calls // REVERSES[sampler].calls(self.auditing.start_steps)
        samples = self._samples(sampler, count)
        return {"how": "one-shot", "sampler": sampler, **self._counted(samples)}

    def cycles(self, sigma: float) -> Row:
        """The last states of chains that start from samples of the same sampler."""
        asked, law = self.auditing, self.plan.partition.law
        start = self._samples(asked.reverse, asked.chains)
        grid = cycle_grid(law, sigma, asked.cycle_steps)
        generator = torch.Generator().manual_seed(asked.audit_seed)
        told = self.condition(self._in_turn(asked.chains))
        kept = max(1, min(LATE, asked.cycles, CLUSTERED // asked.chains))
        late: list[Tensor] = []
        lengths = steps(_tail(self._stream(start, grid, generator, told), late, kept))
        states = torch.stack(late)
        return {
            "how": "cycles",
            "sampler": asked.reverse,
            "sigma": sigma,
            "q": sigma**2,
            **self._counted(states[-1]),
            **self._attractors(states),
            "steps": lengths.median(1).values.tolist(),
            "onset": onset(-lengths.median(1).values, min(5, asked.cycles)),
        }

    def depths(self, sigmas: Sequence[float]) -> Row:
        """How long chains stay that start at images that were found, at other training images, and at held-out images;
        and the amplitude at which half of those of each image that was found have left."""
        every = [index for index, _ in self._visits.most_common()]
        starts = self._starts(every[:FOUND])
        rows, stayed = [], []
        for sigma in sigmas:
            inside = self._stay(starts, sigma)
            groups = zip(GROUPS, inside.split(starts.sizes, dim=1), strict=True)
            curves = {name: survival(part.flatten(1)).tolist() for name, part in groups if part.numel()}
            rows.append({"sigma": sigma, **curves})
            stayed.append(inside.all(0).double().mean(1))
        shares = torch.stack(stayed)
        depths = [half_at(sigmas, of_start.tolist()) for of_start in shares.T[: len(every[:FOUND])]]
        memories = [self._memory(index, depth) for index, depth in zip_longest(every, depths)]
        return {"survival": rows, "memories": memories}

    def _starts(self, found: Sequence[int]) -> _Starts:
        """Where chains start that must stay: at the training images ``found``, at others, at held-out images."""
        c = self.compared
        others = [index for index in _spread(len(c.known), KEPT + FOUND) if index not in found][:KEPT]
        held = _spread(len(c.held_out), KEPT)
        trained = [*found, *others]
        labels = torch.zeros(len(trained) + len(held), dtype=torch.int64)
        if c.labels is not None and c.held_out_labels is not None:
            labels = torch.cat([c.labels[trained], c.held_out_labels[held]])
        reach = torch.cat([gaps(c.known, torch.tensor(trained)), nearest(c.held_out[held], c.known).distance])
        images = torch.cat([c.images[trained], c.held_out[held]])
        return _Starts(images, labels, KAPPA * reach, [len(found), len(others), len(held)])

    def _memory(self, index: int, half: float | None) -> Row:
        """What is known of a training image that was found; ``half`` of those that were found most often."""
        known = self.compared.known
        return {
            "image": int(known.first[index]),
            "copies": int(known.copies[index]),
            "samples": self._visits[index],
            "half_at": half,
        }

    def recovered(self) -> Tensor:
        """Pairs (k, 2, ...) of the sample that is nearest to a training image, of those that are copies, and the image,
        most often found first."""
        order = [index for index, _ in self._visits.most_common()]
        pairs = [torch.stack([self._best[index][1], self.compared.images[index]]) for index in order]
        return torch.stack(pairs) if pairs else self.compared.images[:0].unsqueeze(1).repeat_interleave(2, 1)

    def condition(self, labels: Tensor) -> Condition:
        """What the network is told of chains of these classes."""
        told = self._task.condition(labels).to(self.device)
        return told.null() if self._task.num_classes and self.auditing.told == "nothing" else told

    def _in_turn(self, count: int) -> Tensor:
        """The label of each of ``count`` samples: classes in turn, or those of the captions of training images; zeros
        without either."""
        if self._task.captions is not None and self.compared.labels is not None:
            return self.compared.labels[torch.arange(count) % len(self.compared.labels)]
        classes = self._task.num_classes
        return torch.arange(count) % classes if classes else torch.zeros(count, dtype=torch.int64)

    def _samples(self, sampler: str, count: int) -> Tensor:
        asked, law = self.auditing, self.plan.partition.law
        grid = karras_grid(law.low, law.high, asked.start_steps).to(self.device)
        told = self.condition(self._in_turn(count))
        shape = image_shape(self.plan)
        return generate(self.denoiser, REVERSES[sampler], grid, told, shape, asked.audit_seed).float()

    def _stream(self, start: Tensor, grid: Tensor, generator: torch.Generator, told: Condition) -> Iterator[Tensor]:
        yield start
        yield from cycle(self.denoiser, start, grid, self.auditing.cycles, generator, told, self.auditing.reverse)

    def _counted(self, samples: Tensor) -> Row:
        """What every row says of its samples."""
        found, false = self._copies(samples), nearest(samples.cpu(), self.compared.fresh).ratio < self.kappa
        self._visits.update(found.index[found.hits].tolist())
        return {
            "calls": self.calls,
            "samples": len(samples),
            "copies": share(found.hits).as_row(),
            "false_copies": share(false).as_row(),
            "distinct": len(found.index[found.hits].unique()),
            "degenerate": float(degenerate(samples, self.compared.spread).double().mean()),
        }

    def _copies(self, samples: Tensor) -> _Copies:
        seen = nearest(samples.cpu(), self.compared.known)
        hits = seen.ratio < self.kappa
        for place in hits.nonzero()[:, 0].tolist():
            index, ratio = int(seen.index[place]), float(seen.ratio[place])
            if index not in self._best or ratio < self._best[index][0]:
                self._best[index] = ratio, samples[place].cpu()
        return _Copies(hits, seen.index)

    def _attractors(self, states: Tensor) -> Row:
        """Clusters of late states (cycles, n, ...) that several chains have reached: how many, of which degenerate, and
        of which copies."""
        found = attractors(states, KAPPA * self.compared.gap)
        if not found:
            return {"attractors": 0, "degenerate_attractors": 0, "copied_attractors": 0, "return_time": None}
        centers = torch.stack([one.center for one in found])
        flat = degenerate(centers, self.compared.spread).cpu()
        copied = (nearest(centers.cpu(), self.compared.known).ratio < self.kappa) & ~flat
        times = [one.return_time for one in found if one.return_time is not None]
        return {
            "attractors": len(found),
            "degenerate_attractors": int(flat.sum()),
            "copied_attractors": int(copied.sum()),
            "return_time": sum(times) / len(times) if times else None,
        }

    def _stay(self, starts: _Starts, sigma: float) -> Tensor:
        """Whether the chains of each start are near it, bool (cycles, k, REPEATS)."""
        asked = self.auditing
        x, reach = (t.repeat_interleave(REPEATS, 0) for t in (starts.images, starts.reach))
        told = self.condition(starts.labels.repeat_interleave(REPEATS))
        grid = cycle_grid(self.plan.partition.law, sigma, asked.cycle_steps)
        generator = torch.Generator().manual_seed(asked.audit_seed + 1)
        states = cycle(self.denoiser, x.to(self.device), grid, asked.cycles, generator, told, asked.reverse)
        near = [(state.cpu() - x).flatten(1).norm(dim=1) < reach for state in states]
        return torch.stack(near).unflatten(1, (-1, REPEATS))


def _spread(count: int, chosen: int) -> list[int]:
    """``chosen`` of ``count`` places, evenly spread; all if there are fewer."""
    return torch.linspace(0, count - 1, min(chosen, count), dtype=torch.float64).round().long().unique().tolist()


def _tail(states: Iterator[Tensor], late: list[Tensor], kept: int) -> Iterator[Tensor]:
    """The same states; ``late`` holds the last ``kept`` of them in the end."""
    for state in states:
        late.append(state)
        del late[:-kept]
        yield state
