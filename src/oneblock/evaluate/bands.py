"""Held-out denoising loss per band: how well a denoiser serves each range of noise levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.partition import Partition
from oneblock.tasks.base import Loss, Noised
from oneblock.tasks.carry import loss_with_state, noisier


class Scored(Protocol):
    """A task whose loss is taken on held-out samples (``tasks.base.Task``)."""

    def noised(self, y: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised: ...

    def condition(self, labels: Tensor) -> Condition: ...

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss: ...


@torch.no_grad()
def band_losses(
    denoiser: DenoiserLike,
    task: Scored,
    bands: Partition,
    images: Tensor,
    labels: Tensor,
    seed: int = 0,
    batch_size: int = 500,
    owners: Partition | None = None,
) -> list[float]:
    """Weighted loss on each band of ``bands`` (without overlap), noisiest first.

    The same levels and the same noise for every denoiser that is asked with the same ``seed``, so that arms compare.

    Args:
        bands: the bands to report on; they need not be those the denoiser was trained with.
        images, labels: held-out samples (n, c, h, w) in [-1, 1] and (n,).
        owners: the bands of a denoiser that hands states on: its losses with the state of a noisier version within the
            band of the block (``tasks.carry``). None: without a state.
    """
    losses = []
    for band in range(bands.num_blocks):
        generator = torch.Generator().manual_seed(seed * 1000 + band)
        sigma = bands.levels(*bands.band(band), len(images), generator)
        sigma = sigma[torch.randperm(len(sigma), generator=generator)]
        total = 0.0
        for part in torch.arange(len(images)).split(batch_size):
            noised = task.noised(images[part], sigma[part].to(images.device), band, generator)
            if owners is not None:
                upper = torch.tensor(owners.edges)[owners.block_at(sigma[part])]
                noised = replace(noised, earlier=noisier(noised, upper, 1.0, generator))
            condition = task.condition(labels[part])
            total += float(loss_with_state(task, denoiser, noised, images[part], condition).weighted.sum())
        losses.append(total / len(images))
    return losses
