"""MeanFlow: the network learns the mean velocity of the flow between two times, so that one step may be long.

On the path ``x_t = (1 - t) y + t eps`` let ``u(x_t, r, t)`` be the mean of the velocity from time r up to t. It obeys
``u = v - (t - r) du/dt``, with ``v = eps - y`` and the derivative along the path (Geng et al., "Mean Flows for One-step
Generative Modeling", Equations 4 to 6, https://arxiv.org/abs/2505.13447). A denoiser here answers
``D = x_t - t u(x_t, r, t)``: where a step from t to 0 at this velocity ends. In D the same identity is

    D = y + (1 - r / t) (D - y) - (t - r) dD/dt,    dD/dt = (1 + sigma)^2 (eps dD/dz + dD/dsigma)

as ``z = y + sigma eps`` and ``sigma = t / (1 - t)``. The right side is the target, without gradients (Equations 10 and
11), and its derivative one product of the Jacobian with a vector. At r = t it is y, and D the denoiser of a flow.

**Blocks.** A block knows the times of its band alone. So steps that it learns end within the band, at its lower end at
the earliest, and one sample takes at least as many steps as there are blocks; one-step sampling takes one block. For
the trunk of a branched run the band is the whole range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition, Until
from oneblock.data import Samples
from oneblock.noise import NoiseLaw
from oneblock.precondition import aligned
from oneblock.tasks.base import Batch, Loss, Noised
from oneblock.tasks.image import ImageGeneration

JUMPS = 0.25
"""Share of the samples with r below t; the others have r = t (Geng et al., Table 1a)."""
SOFTENED = 1e-3
"""c of the adaptive weight ``1 / (error + c)`` (Geng et al., Equation 22 with p = 1, and Appendix A)."""


@dataclass(frozen=True)
class MeanFlow:
    """A ``Task``: see the module.

    Per sample ``loss = e / (e + SOFTENED)``, with the weight ``1 / (e + SOFTENED)`` held constant, and e the squared
    error of the velocity, summed over the values of the sample. The plain loss is the mean squared error of D.

    Args:
        task: draws samples, noise and classes; its frame is a flow's.
        law: of the levels t; r is drawn from it too, between the lower end of the band and t.
        lowers: by block (None: the trunk) the lowest level at which a step may end.
        share: of the samples with r below t.
    """

    task: ImageGeneration
    law: NoiseLaw
    lowers: Mapping[int | None, float]
    share: float = JUMPS

    def check(self, samples: Samples) -> None:
        self.task.check(samples)

    def to(self, device: torch.device) -> MeanFlow:
        return replace(self, task=self.task.to(device))

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        batch = self.task.draw(samples, sigma, block, generator)
        return replace(batch, condition=Until(batch.condition, self.ends(batch.noised, generator)))

    def ends(self, noised: Noised, generator: torch.Generator) -> Tensor:
        """Levels (n,) at which the steps from the levels of ``noised`` end: the law below them, or for all but
        ``share`` of the samples the levels themselves."""
        sigma, where = noised.sigma, generator.device
        lower = torch.tensor(self.lowers[noised.block], dtype=torch.float64, device=sigma.device)
        low, high = self.law.cdf(lower), self.law.cdf(sigma)
        part = torch.rand(sigma.shape, generator=generator, dtype=torch.float64, device=where).to(sigma.device)
        below = self.law.quantile(low + part * (high - low).clamp(min=0)).to(sigma)
        jumps = torch.rand(sigma.shape, generator=generator, device=where).to(sigma.device) < self.share
        return torch.where(jumps, torch.minimum(below, sigma), sigma)

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """Per-sample loss of ``denoiser``, which is told by ``Until`` where its step ends."""
        target = self.target(denoiser, noised, targets, condition)
        squares = (denoiser(noised.z, noised.sigma, condition) - target).square().flatten(1)
        error = self.task.frame.weight(noised.sigma) * squares.sum(1)
        return Loss(error / (error.detach() + SOFTENED), squares.mean(1))

    @torch.no_grad()
    def target(self, denoiser: DenoiserLike, noised: Noised, y: Tensor, condition: Condition) -> Tensor:
        """What D should answer (n, ...)."""
        assert isinstance(condition, Until), "draw says where steps end"
        z, sigma = noised.z, noised.sigma
        t, r = sigma / (1 + sigma), condition.level / (1 + condition.level)
        along = (t - r) * (1 + sigma) ** 2
        eps = (z - y) / aligned(sigma, z)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward derivative
            answer, slope = _derivative(lambda at, level: denoiser(at, level, condition), z, sigma, eps, along)
        moved: Tensor = y + aligned(1 - r / t, z) * (answer - y) - slope
        return moved


def _derivative(
    asked: Callable[[Tensor, Tensor], Tensor], z: Tensor, sigma: Tensor, eps: Tensor, along: Tensor
) -> tuple[Tensor, Tensor]:
    """The answer at (z, sigma), and ``along`` (n,) times its derivative by sigma on the path ``dz = eps dsigma``."""
    moved = aligned(along, z) * eps, along
    answer, slope = torch.func.jvp(asked, (z, sigma), moved)[:2]
    return answer, slope
