"""Held-out losses that generators of every objective and codec can be compared by: EDM's, on pixels.

Every network here is a denoiser, whatever it was trained to predict, so its error can be weighed as another's. A
denoiser D of components ``y' = a R (y - m)`` (``data.pca``) is also one of pixels: as R has orthonormal rows,
``a R (y + sigma eps - m)`` is y' with noise of level ``a sigma``, and

    D'(z, sigma) = m + R^T D(a R (z - m), a sigma) / a.

What the components leave out, it answers with the mean. A level beyond those of the network's law is taken for the
nearest of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast, overload

from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.data import Pixels
from oneblock.data.pca import PatchPCA
from oneblock.noise import LogNormal, NoiseLaw
from oneblock.plan import Plan
from oneblock.presets.codec import fitted_in
from oneblock.state import State, StatefulDenoiser
from oneblock.tasks.image import ImageGeneration


@dataclass(frozen=True)
class OnPixels:
    """The denoiser of pixels at EDM's levels that another is; see the module.

    Args:
        denoiser: of pixels, or of the components of ``codec``.
        law: the levels that it knows.
    """

    denoiser: DenoiserLike
    law: NoiseLaw
    codec: PatchPCA | None = None

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...

    def __call__(
        self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        if self.codec is not None:
            z, sigma = self.codec.encode(z), self.codec.scale * sigma
        sigma = sigma.clamp(self.law.low, self.law.high)
        if state is None:
            return self._decoded(self.denoiser(z, sigma, condition))
        answer, left = cast(StatefulDenoiser, self.denoiser)(z, sigma, condition, state)
        return self._decoded(answer), left

    def _decoded(self, answer: Tensor) -> Tensor:
        return answer if self.codec is None else self.codec.decode(answer)


def common_law(plan: Plan) -> NoiseLaw:
    """The noise law that losses are compared on: EDM's for an objective with another, else the plan's."""
    return LogNormal() if "objective" in plan.recipe else plan.partition.law


def common_loss(denoiser: DenoiserLike, plan: Plan, task: ImageGeneration) -> tuple[DenoiserLike, ImageGeneration]:
    """A denoiser and a task by whose loss plans of different objectives and codecs compare; of a plan with neither both
    are its own, ``denoiser`` and ``task``."""
    codec = fitted_in(plan)
    if codec is None and "objective" not in plan.recipe:
        return denoiser, task
    frame = plan.precondition if "objective" in plan.recipe else task.frame
    return OnPixels(denoiser, plan.partition.law, codec), replace(task, frame=frame, codec=Pixels())
