"""Classification: y is the row of a frozen table that stands for the class, x the image, the loss the cross-entropy.

``z = T_y + sigma eps``, and a denoiser gives logits of ``p(y | x, z, sigma)``. Shing et al., "DiffusionBlocks",
Appendices B and E.1, https://arxiv.org/abs/2506.14202, where the cross-entropy is weighted as EDM weighs the squared
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition, Frames
from oneblock.data import Samples
from oneblock.partition import Partition
from oneblock.precondition import Precondition
from oneblock.tasks.base import Batch, Loss, Noised, add_noise, check_known

LabelLoss = Literal["cross-entropy", "squared"]
Weighting = Literal["none", "edm", "clipped", "normalised"]
CLIP = 20.0
"""Largest weight of ``"clipped"``."""


@dataclass(frozen=True)
class Classification:
    """Image classification.

    Args:
        table: (k, d), the rows that stand for the classes.
        precondition: gives EDM's weight; the plan's.
        weighting: of a sample's loss: ``"none"``; EDM's weight; EDM's weight up to ``CLIP``; or EDM's weight divided by
            its mean over the band that a block trains on (``mean_weights``, by block, None for the trunk).
        kind: cross-entropy of the logits, or squared distance of the expected row to the target.
        label_smoothing: of the cross-entropy, in [0, 1).
    """

    table: Tensor
    precondition: Precondition
    weighting: Weighting = "none"
    kind: LabelLoss = "cross-entropy"
    label_smoothing: float = 0.0
    mean_weights: Mapping[int | None, float] | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={self.label_smoothing} is not a fraction; use 0 up to (not including) 1")

    @property
    def num_classes(self) -> int:
        return len(self.table)

    def check(self, samples: Samples) -> None:
        if samples.labels is None:
            raise ValueError("classification needs labels, and the data have none; use data with labels")
        check_known(samples.labels, self.num_classes, "label", "classes")

    def to(self, device: torch.device) -> Classification:
        return replace(self, table=self.table.to(device))

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        """A training batch: images (n, c, h, w) as condition, labels (n,) as targets, their rows with noise at levels
        ``sigma`` (n,). Samples without labels are a ``ValueError``."""
        if not samples.values.is_cuda:
            self.check(samples)
        images, labels = samples.values, cast(Tensor, samples.labels)
        return Batch(add_noise(self._rows(labels), sigma, block, generator), labels, Frames(images))

    def noised(self, labels: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        """Rows of ``labels`` (n,) with noise at levels ``sigma`` (n,); an unknown label is a ``ValueError``."""
        check_known(labels, self.num_classes, "label", "classes")
        return add_noise(self._rows(labels), sigma, block, generator)

    def _rows(self, labels: Tensor) -> Tensor:
        return self.table.to(labels.device)[labels]

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """Per-sample loss of ``denoiser`` on noisy rows of the labels ``targets`` (n,) of the images it is told."""
        logits = denoiser(noised.z, noised.sigma, condition).float()
        if self.kind == "squared":
            table = self.table.to(logits)
            with torch.autocast(logits.device.type, enabled=False):
                plain = (logits.softmax(-1) @ table - table[targets]).square().sum(-1)
        else:
            plain = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)
        return Loss(self._weight(noised) * plain, plain)

    def _weight(self, noised: Noised) -> Tensor:
        if self.weighting == "none":
            return torch.ones_like(noised.sigma)
        weight = self.precondition.weight(noised.sigma)
        if self.weighting == "clipped":
            return weight.clamp(max=CLIP)
        if self.weighting == "normalised":
            assert self.mean_weights is not None, "normalised weights need their means"
            return weight / self.mean_weights[noised.block]
        return weight


def mean_weight(
    partition: Partition, band: tuple[float, float], precondition: Precondition, points: int = 4096
) -> float:
    """Mean of EDM's weight under the noise law on ``band`` (lower, upper), by the midpoint rule over its mass."""
    q_low, q_high = partition.law.cdf(torch.tensor(band, dtype=torch.float64)).tolist()
    mass = q_low + (torch.arange(points, dtype=torch.float64) + 0.5) / points * (q_high - q_low)
    return float(precondition.weight(partition.law.quantile(mass)).mean())
