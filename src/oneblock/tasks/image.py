"""Image generation: y is the clean image (or latent), x its class, the loss EDM's weighted squared error.

``loss_i = w(sigma_i) mean((D(z_i, sigma_i; x_i) - y_i)^2)`` with ``w = 1 / c_out^2`` (EDM, Equation 2 and Table 1,
https://arxiv.org/abs/2206.00364), per sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.precondition import Precondition
from oneblock.tasks.base import Batch, Loss, Noised


@dataclass(frozen=True)
class ImageGeneration:
    """Class-conditional image generation.

    Args:
        precondition: gives the loss weight; the plan's.
        num_classes: labels are 0 .. num_classes - 1, and ``num_classes`` is the null class.
        label_dropout: probability with which a label becomes the null class in training (guidance needs it).
    """

    precondition: Precondition
    num_classes: int
    label_dropout: float = 0.1

    @property
    def null_label(self) -> int:
        return self.num_classes

    def draw(
        self, images: Tensor, labels: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator
    ) -> Batch:
        """A training batch: ``images`` (n, c, h, w) in [-1, 1] with noise at levels ``sigma`` (n,), and ``labels`` (n,)
        of which some become the null class."""
        noised = self.noised(images, sigma, block, generator)
        return Batch(noised, images, self.drop_labels(labels, generator))

    def noised(self, images: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        """Add noise to ``images`` (n, c, h, w) at levels ``sigma`` (n,)."""
        noise = torch.randn(images.shape, generator=generator).to(images)
        sigma = sigma.to(images)
        return Noised(images + sigma.view(-1, 1, 1, 1) * noise, sigma, block)

    def drop_labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Each label (n,) becomes the null class with probability ``label_dropout``."""
        dropped = torch.rand(labels.shape, generator=generator) < self.label_dropout
        return torch.where(dropped.to(labels.device), self.null_label, labels)

    def loss(self, denoiser: DenoiserLike, noised: Noised, images: Tensor, labels: Tensor) -> Loss:
        """Per-sample loss of ``denoiser`` on noisy ``images`` (n, c, h, w) of classes ``labels`` (n,)."""
        error = denoiser(noised.z, noised.sigma, labels) - images
        plain = error.square().flatten(1).mean(1)
        return Loss(self.precondition.weight(noised.sigma) * plain, plain)
