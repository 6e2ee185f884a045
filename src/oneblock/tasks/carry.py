"""Generation with a state: the loss of a call that is given what an earlier, noisier call has left.

In sampling the call before saw a noisier version of what this one sees. Training makes one up: at the level
``s1 = s exp(u)``, u uniform in [0, ``SPREAD``], from

    z1 = z + sqrt(s1^2 - s^2) * fresh noise.

z1 depends on the target through z alone, so given z it tells nothing more of it. (The same noise at two levels would
give the target away: ``(s1 z - s z1) / (s1 - s)`` is the target itself.) The pass at z1 is made without gradients, and
a share of the samples gets its state, so that a call without one is learned too; as in Analog Bits (Chen et al.,
Section 2.2, https://arxiv.org/abs/2208.04202), which carries the prediction, and Recurrent Interface Networks (Jabri
et al., Section 3.2, https://arxiv.org/abs/2212.11972), whose pass is at the same z and s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.data import Samples
from oneblock.precondition import aligned
from oneblock.state import START, Hidden, State, StatefulDenoiser
from oneblock.tasks.base import Batch, Earlier, Loss, Noised, Task

SPREAD = 0.9
"""Of the logarithm of the ratio of the two levels."""


def noisier(noised: Noised, upper: Tensor | float, share: float, generator: torch.Generator) -> Earlier:
    """What an earlier call may have seen of ``noised``, for all samples; a ``share`` of them, drawn one by one, gets
    the state that it leaves.

    Args:
        upper: the highest level of the earlier call, a number or one for each sample (n,); a sample whose own level is
            above it keeps that.
        generator: of levels, noise and shares.
    """
    z, sigma = noised.z, noised.sigma
    where = generator.device
    ratio = (SPREAD * torch.rand(sigma.shape, generator=generator, device=where)).exp().to(sigma)
    earlier = torch.maximum(sigma, torch.minimum(sigma * ratio, torch.as_tensor(upper).to(sigma)))
    fresh = torch.randn(z.shape, generator=generator, device=where).to(z)
    more = ((earlier - sigma) * (earlier + sigma)).sqrt()
    kept = torch.rand(sigma.shape, generator=generator, device=where).to(sigma.device) < share
    return Earlier(z + aligned(more, z) * fresh, earlier, kept)


def same(noised: Noised, share: float, generator: torch.Generator) -> Earlier:
    """The same of an earlier call that has seen what this one sees."""
    kept = torch.rand(noised.sigma.shape, generator=generator, device=generator.device) < share
    return Earlier(noised.z, noised.sigma, kept.to(noised.sigma.device))


class WithLoss(Protocol):
    """What has the loss of a ``Task``."""

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss: ...


def loss_with_state(
    task: WithLoss, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition
) -> Loss:
    """The loss of ``task``, whose denoiser is given the state of the earlier pass of ``noised``."""
    earlier, asked = noised.earlier, cast(StatefulDenoiser, denoiser)
    if earlier is None:
        return task.loss(denoiser, noised, targets, condition)
    with torch.no_grad():
        _, state = asked(earlier.z, earlier.sigma, condition, START)
    if isinstance(state, Hidden):
        state = state.only(earlier.kept)
    return task.loss(_Given(asked, state), noised, targets, condition)


@dataclass(frozen=True)
class _Given:
    """A denoiser with the state of its next call."""

    denoiser: StatefulDenoiser
    state: State

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return self.denoiser(z, sigma, condition, self.state)[0]


@dataclass(frozen=True)
class WithState:
    """A ``Task``: another one, of numbers with noise, whose denoiser is given a state.

    Args:
        task: draws samples, noise and conditions.
        share: of the samples that get the state.
        uppers: by block (None: the trunk) the highest level of an earlier call.
        noisier: the earlier call has seen a noisier version; otherwise the same.
    """

    task: Task
    share: float
    uppers: Mapping[int | None, float]
    noisier: bool = True

    def check(self, samples: Samples) -> None:
        self.task.check(samples)

    def to(self, device: torch.device) -> WithState:
        return replace(self, task=self.task.to(device))

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        """The batch of the task, with the same noise, and what the earlier call has seen."""
        batch = self.task.draw(samples, sigma, block, generator)
        if self.noisier:
            earlier = noisier(batch.noised, self.uppers[block], self.share, generator)
        else:
            earlier = same(batch.noised, self.share, generator)
        return replace(batch, noised=replace(batch.noised, earlier=earlier))

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        return loss_with_state(self.task, denoiser, noised, targets, condition)
