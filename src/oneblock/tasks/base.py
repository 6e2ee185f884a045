"""What every task gives to the training loop: ``z = y + sigma eps``, what is predicted from it, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.data import Samples
from oneblock.precondition import aligned


@dataclass(frozen=True)
class Earlier:
    """What a call before has seen (``tasks.carry``): noisy targets z (n, ...), their levels sigma (n,), and bool (n,),
    which samples get the state that it leaves."""

    z: Tensor
    sigma: Tensor
    kept: Tensor


@dataclass(frozen=True)
class Noised:
    """Noisy targets: ``z = y + sigma * eps`` (n, ...), their levels (n,), and the block they were drawn
    for (None: the trunk of a branched run, which trains on the whole range); with ``earlier`` what the call before has
    seen."""

    z: Tensor
    sigma: Tensor
    block: int | None
    earlier: Earlier | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds."""
        before = self.earlier
        return self.z, self.sigma, *(() if before is None else (before.z, before.sigma, before.kept))

    def with_tensors(self, tensors: Sequence[Tensor]) -> Noised:
        """The same of other tensors, in the order of ``tensors``."""
        z, sigma, *before = tensors
        return Noised(z, sigma, self.block, Earlier(*before) if before else None)


@dataclass(frozen=True)
class Batch:
    """Samples with their noise drawn: noisy targets, clean targets y (n, ...), and the condition x of n samples."""

    noised: Noised
    targets: Tensor
    condition: Condition

    def __len__(self) -> int:
        return len(self.targets)

    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds, those of the condition too."""
        z, *others = self.noised.tensors()
        return self.targets, z, *self.condition.tensors(), *others

    def clone(self) -> Batch:
        """A copy in memory of its own."""
        noised = self.noised.with_tensors([tensor.clone() for tensor in self.noised.tensors()])
        every = torch.arange(len(self), device=self.targets.device)  # an index copies, where a slice would not
        return Batch(noised, self.targets.clone(), self.condition.take(every))

    def copy_(self, other: Batch) -> None:
        """Take over the content of a batch of the same shapes."""
        torch._foreach_copy_(list(self.tensors()), list(other.tensors()))

    def split(self, count: int) -> list[Batch]:
        """``count`` parts in order, as equal as can be."""
        parts = zip(*(tensor.tensor_split(count) for tensor in self.noised.tensors()), strict=True)
        noised = [self.noised.with_tensors(part) for part in parts]
        targets, condition = self.targets.tensor_split(count), self.condition.split(count)
        return [Batch(noised[i], targets[i], condition[i]) for i in range(count)]

    def to(self, device: torch.device) -> Batch:
        noised = self.noised.with_tensors([tensor.to(device) for tensor in self.noised.tensors()])
        return Batch(noised, self.targets.to(device), self.condition.to(device))


@dataclass(frozen=True)
class Loss:
    """Per-sample losses, both (n,): ``weighted`` is minimised, ``plain`` is the unweighted one for the log."""

    weighted: Tensor
    plain: Tensor

    def __post_init__(self) -> None:
        assert self.weighted.shape == self.plain.shape, "loss and weight must have one shape, one value per sample"
        assert self.weighted.ndim == 1, f"a loss has one value per sample, got shape {tuple(self.weighted.shape)}"


def add_noise(y: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator | None = None) -> Noised:
    """``z = y + sigma eps`` of clean targets ``y`` (n, ...), floating point, at levels ``sigma`` (n,).

    eps is drawn on the generator's device; without a ``generator``, on that of ``y`` by torch's default one.
    """
    where = y.device if generator is None else generator.device
    noise = torch.randn(y.shape, generator=generator, device=where).to(y)
    sigma = sigma.to(y)
    return Noised(y + aligned(sigma, y) * noise, sigma, block)


def check_known(ids: Tensor, size: int, one: str, all_of_them: str) -> None:
    """Refuse ``ids`` outside 0 .. ``size`` - 1 with a ``ValueError`` that names the first; ``one`` of
    ``all_of_them``."""
    unknown = ids[(ids < 0) | (ids >= size)]
    if len(unknown):
        raise ValueError(f"{one} {int(unknown[0])} is unknown; the plan has {size} {all_of_them}, from 0 on")


class Task(Protocol):
    """What is noised, what is predicted, and with which loss."""

    def check(self, samples: Samples) -> None:
        """Refuse samples that the plan does not know, with a ``ValueError``; waits for the device that they are on."""

    def to(self, device: torch.device) -> Task:
        """The same with its tensors on ``device``."""

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        """A training batch of n samples from the data with noise at levels ``sigma`` (n,); all randomness is the
        generator's, and samples, levels and generator are on one device. Samples on the CPU are checked; on others
        nobody waits, and ``check`` has seen them before they went there."""

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """Per-sample loss of ``denoiser`` on what ``draw`` gave."""
