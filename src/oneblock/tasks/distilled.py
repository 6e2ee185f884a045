"""Distillation: a denoiser learns what a teacher answers in the place of the data.

``loss_i = w(sigma_i) mean((D(z_i, sigma_i; x_i) - T(z_i, sigma_i; x_i))^2)``: the task's loss with the answer of the
teacher T for a target (Hinton et al., "Distilling the Knowledge in a Neural Network", Section 2,
https://arxiv.org/abs/1503.02531, for squared errors). The teacher's answer is the mean of the targets that fit z, where
the data give one of them at random: the same minimum, with less noise on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.data import Samples
from oneblock.tasks.base import Batch, Loss, Noised
from oneblock.tasks.image import ImageGeneration


@dataclass(frozen=True)
class Distilled:
    """Generation with a teacher; samples, noise and conditions are those of ``task``.

    Args:
        teacher: answers with clean targets, on the device that trains; it gets no gradients.
    """

    task: ImageGeneration
    teacher: DenoiserLike

    def check(self, samples: Samples) -> None:
        self.task.check(samples)

    def to(self, device: torch.device) -> Distilled:
        return replace(self, task=self.task.to(device))

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        return self.task.draw(samples, sigma, block, generator)

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """Per-sample loss against the teacher's answer; ``targets`` are not looked at."""
        with torch.no_grad():
            answer = self.teacher(noised.z, noised.sigma, condition)
        return self.task.loss(denoiser, noised, answer.to(targets.dtype), condition)
