"""Generation whose hidden tokens are aligned with what a frozen network sees in the clean image.

    loss_i = task's loss_i + weight (1 - mean_t cos(p_t, f_t))

p_t is the projection of token t (``projection``), f_t the feature of the frozen network at the same place of the clean
image (Yu et al., "Representation Alignment for Generation", Equation 8, https://arxiv.org/abs/2410.06940; theirs
without the 1, which has no gradient). Every block has a projection of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.data import Samples
from oneblock.state import START, Hidden, StatefulDenoiser
from oneblock.tasks.base import Batch, Loss, Noised
from oneblock.tasks.image import ImageGeneration

Maps = Callable[[Tensor], Tensor]
"""Features of images at places: (n, c, h, w), about [-1, 1] -> (n, f, a, b)."""


@dataclass(frozen=True)
class Aligned:
    """A ``Task``: generation with the auxiliary loss; see the module. The plain loss is the task's.

    Args:
        task: of images of bytes, behind its codec.
        maps: the frozen network. Its weights and what it computes are not in a plan's count of bytes.
        side: tokens along a side of the image, s; t = s s.
        weight: of the auxiliary loss.
    """

    task: ImageGeneration
    maps: Maps
    side: int
    weight: float

    def check(self, samples: Samples) -> None:
        self.task.check(samples)

    def to(self, device: torch.device) -> Aligned:
        return replace(self, task=self.task.to(device))

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        return self.task.draw(samples, sigma, block, generator)

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """Per-sample loss of a denoiser whose backbone is ``Projecting``, on noisy ``targets`` (n, ...)."""
        features = self.features(targets)
        asked = _Asked(cast(StatefulDenoiser, denoiser))
        loss = self.task.loss(asked, noised, targets, condition)
        left = asked.left
        assert isinstance(left, Hidden), "blocks that are aligned in training have a projection"
        with torch.autocast(features.device.type, enabled=False):
            tokens = left.tokens[:, : features.shape[1]].float()  # behind them stand those of a caption
            apart = 1.0 - F.cosine_similarity(tokens, features, dim=-1).mean(1)
        return Loss(loss.weighted + self.weight * apart, loss.plain)

    @torch.no_grad()
    def features(self, targets: Tensor) -> Tensor:
        """What the frozen network sees at the places of the tokens (n, t, f)."""
        maps = self.maps(self.task.codec.decode(targets)).float()
        at_tokens = F.interpolate(maps, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return at_tokens.flatten(2).mT


class _Asked:
    """A denoiser that keeps what its latest call has left."""

    def __init__(self, denoiser: StatefulDenoiser) -> None:
        self.denoiser = denoiser
        self.left: object = START

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        answer, self.left = self.denoiser(z, sigma, condition, START)
        return answer
