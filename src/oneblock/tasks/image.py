"""Generation: y is a clean image, latent or any other array, x its class or caption, the loss EDM's squared error.

``loss_i = w(sigma_i) mean((D(z_i, sigma_i; x_i) - y_i)^2)`` with ``w = 1 / c_out^2`` (EDM, Equation 2 and Table 1,
https://arxiv.org/abs/2206.00364), per sample; the mean is over all axes but the first. So every frame of scalings
trains its network on the plain squared error of what it predicts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, DenoiserLike
from oneblock.condition import ClassIds, Condition, Nothing, Tokens, as_condition
from oneblock.data import Codec, Pixels, Samples
from oneblock.data.pca import PatchPCA
from oneblock.precondition import Weighted
from oneblock.tasks.base import Batch, Loss, Noised, add_noise, check_known


@dataclass(frozen=True)
class ImageGeneration:
    """Generation of images, or of anything else with numbers for targets, that is told classes or captions.

    Args:
        frame: gives the loss weight; the plan's.
        num_classes: labels are 0 .. num_classes - 1, and ``num_classes`` is the null class; with 0 the denoiser is told
            nothing.
        label_dropout: probability with which a label becomes the null class in training (guidance needs it).
        captions: what the denoiser is told of each label, in the place of the label: ``num_classes`` texts, and behind
            them that of the null class, of which no token counts.
        codec: what is denoised of the samples.
    """

    frame: Weighted
    num_classes: int
    label_dropout: float = 0.1
    captions: Tokens | None = None
    codec: Codec = field(default_factory=Pixels)

    def __post_init__(self) -> None:
        if self.captions is not None and len(self.captions) != self.num_classes + 1:
            raise ValueError(
                f"there are {len(self.captions)} captions for {self.num_classes} labels; give one for each label, and "
                "a last one of which no token counts"
            )

    @property
    def null_label(self) -> int:
        return self.num_classes

    def check(self, samples: Samples) -> None:
        if not self.num_classes:
            return
        if samples.labels is None:
            raise ValueError("this task tells the denoiser labels, and the data have none; use data with labels")
        check_known(samples.labels, self.num_classes, "label", "classes")

    def to(self, device: torch.device) -> ImageGeneration:
        codec = self.codec.to(device) if isinstance(self.codec, PatchPCA) else self.codec
        return replace(self, codec=codec, captions=None if self.captions is None else self.captions.to(device))

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        """A training batch: values (n, ...), images in [-1, 1], with noise at levels ``sigma`` (n,), and their labels
        of which some become the null class. Samples without labels are a ``ValueError``."""
        y = self.codec.encode(samples.values)
        noised = self.noised(y, sigma, block, generator)
        if not self.num_classes:
            return Batch(noised, y, Nothing(len(y)))
        if not samples.values.is_cuda:
            self.check(samples)
        labels = cast(Tensor, samples.labels)
        return Batch(noised, y, self.condition(self.drop_labels(labels, generator)))

    def noised(self, y: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        """Add noise to ``y`` (n, ...) at levels ``sigma`` (n,)."""
        return add_noise(y, sigma, block, generator)

    def condition(self, labels: Tensor) -> Condition:
        """What a denoiser is told of ``labels`` (n,)."""
        if not self.num_classes:
            return Nothing(len(labels))
        if self.captions is not None:
            return self.captions.take(labels)
        return ClassIds(labels, self.null_label)

    def drop_labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Each label (n,) becomes the null class with probability ``label_dropout``."""
        dropped = torch.rand(labels.shape, generator=generator, device=generator.device) < self.label_dropout
        return torch.where(dropped.to(labels.device), self.null_label, labels)

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """Per-sample loss of ``denoiser`` on noisy ``targets`` (n, ...)."""
        return weighted_error(denoiser, noised, targets, condition, self.frame)


def weighted_error(denoiser: DenoiserLike, noised: Noised, y: Tensor, condition: Condition, frame: Weighted) -> Loss:
    """EDM's loss (n,) of noisy targets ``y`` (n, ...); see the module."""
    error = denoiser(noised.z, noised.sigma, condition) - y
    plain = error.square().reshape(len(error), -1).mean(1)
    return Loss(frame.weight(noised.sigma) * plain, plain)


def denoising_loss(
    denoiser: BlockDenoiser,
    y: Tensor,
    x: Condition | Tensor | None,
    sigma: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """EDM's loss of a block, a scalar, for a training loop of your own (EDM, Equation 2).

        loss = denoising_loss(denoiser, y, x, sigma=partition.draw(block, len(y)))

    Args:
        denoiser: its frame has the weight that is used: EDM's ``Precondition``, or that of ``schedule``.
        y: clean targets (n, ...), floating point.
        x: what the denoiser is told: labels (n,), a ``Condition``, or None; other tensors (n, ...) are ``Frames``.
        sigma: noise levels (n,).
        generator: of the noise; torch's default one if None.

    Raises:
        ValueError: the denoiser's frame has no weight, or y, x and sigma do not fit together.
    """
    frame = getattr(denoiser, "frame", None)
    if not isinstance(frame, Weighted):
        raise ValueError(
            f"the denoiser's frame is {type(frame).__name__}; the loss needs one with a weight, as Precondition: "
            "give BlockDenoiser(backbone, Precondition(sigma_data))"
        )
    if not y.is_floating_point():
        raise ValueError(f"y is {y.dtype}; floating point is allowed, because noise is added: convert y first")
    if sigma.shape != y.shape[:1]:
        raise ValueError(
            f"sigma has shape {tuple(sigma.shape)}, y {tuple(y.shape)}; give one level for each target, ({len(y)},)"
        )
    condition = as_condition(x, len(y)).to(y.device)
    return weighted_error(denoiser, add_noise(y, sigma, None, generator), y, condition, frame).weighted.mean()
