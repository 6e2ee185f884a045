"""Generation of video: y is a clip, and each block of its frames may have a noise level of its own (``framewise``).

The loss is the weighted squared error of the frames whose level lies in the band of the block that trains, with the
anchor among them: a mean over their pixels, then over these frames. Of a flow the weight makes it the squared error of
the velocity; frames that are clean have no loss.

With the policy ``"clean"`` the denoiser is given every frame twice, clean and noisy (``models.video``, two streams).
Shapes: n samples, f frames, c channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser, DenoiserLike
from oneblock.checks import check_number
from oneblock.condition import ClassIds, Condition, Nothing
from oneblock.data import Samples
from oneblock.framewise import FrameLevels, LevelPolicy
from oneblock.models.video import Video
from oneblock.partition import Partition, make_partition
from oneblock.tasks.base import Batch, Loss, Noised, add_noise, check_known

SLACK = 1e-5
"""Relative: levels are float32, ends of bands are not."""


class Weight(Protocol):
    """Gives the weight of the squared error at a level: a ``Parametrisation``, or EDM's ``Precondition``."""

    def weight(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class VideoGeneration:
    """Generation of clips, told a class or nothing.

    Args:
        weight: of the squared error.
        partition: the bands, which say whose loss counts.
        levels: of the blocks of frames.
        blocks: frames of each block; as many blocks as ``levels`` has.
        num_classes: labels are 0 .. num_classes - 1, and ``num_classes`` is the null class; 0 tells nothing.
        label_dropout: probability with which a label becomes the null class.
        first_clean: probability with which the first frame of a clip is given (image to video).
        clean: the level that stands for clean frames: 0, or the lowest one of a network that cannot be told 0.
    """

    weight: Weight
    partition: Partition
    levels: FrameLevels
    blocks: Sequence[int]
    num_classes: int = 0
    label_dropout: float = 0.1
    first_clean: float = 0.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        check_number("first_clean", self.first_clean, least=0, below=1)
        if len(self.blocks) != self.levels.count:
            raise ValueError(f"blocks={tuple(self.blocks)}, but there are levels for {self.levels.count} blocks")

    @property
    def two_streams(self) -> bool:
        """Whether the denoiser is given every frame twice, clean and noisy."""
        return self.levels.policy == "clean"

    @property
    def null_label(self) -> int:
        return self.num_classes

    def check(self, samples: Samples) -> None:
        if not self.num_classes:
            return
        if samples.labels is None:
            raise ValueError("this task tells the denoiser labels, and the data have none; use data with labels")
        check_known(samples.labels, self.num_classes, "label", "classes")

    def to(self, device: torch.device) -> VideoGeneration:
        return replace(self, levels=self.levels.to(device))

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        """A training batch: clips (n, f, c, h, w) in [-1, 1], of which a block of frames has the level ``sigma`` (n,),
        and their labels, of which some become the null class."""
        y = samples.values
        levels, _ = self.levels.draw(sigma, generator)
        per_frame = self._per_frame(levels)
        if self.first_clean:
            given = torch.rand(len(y), generator=generator, device=generator.device) < self.first_clean
            per_frame[:, 0] = torch.where(given.to(per_frame.device), self.clean, per_frame[:, 0])
        noised = self._shown(y, add_noise(y, per_frame, block, generator))
        if not self.num_classes:
            return Batch(noised, y, Nothing(len(y)))
        if not y.is_cuda:
            self.check(samples)
        labels = cast(Tensor, samples.labels)
        return Batch(noised, y, self.condition(self.drop_labels(labels, generator)))

    def noised(self, y: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        """``y`` (n, f, c, h, w) with all frames at the levels ``sigma`` (n,), as the denoiser is shown them."""
        per_frame = sigma[:, None].repeat(1, y.shape[1])
        return self._shown(y, add_noise(y, per_frame, block, generator))

    def condition(self, labels: Tensor) -> Condition:
        """What a denoiser is told of ``labels`` (n,)."""
        return ClassIds(labels, self.null_label) if self.num_classes else Nothing(len(labels))

    def drop_labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Each label (n,) becomes the null class with probability ``label_dropout``."""
        dropped = torch.rand(labels.shape, generator=generator, device=generator.device) < self.label_dropout
        return torch.where(dropped.to(labels.device), self.null_label, labels)

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """Per-sample loss of ``denoiser`` on noisy ``targets`` (n, f, c, h, w); see the module."""
        frames = targets.shape[1]
        answer = denoiser(noised.z, noised.sigma, condition)[:, -frames:]
        sigma = noised.sigma[:, -frames:]
        error = (answer - targets).square().flatten(2).mean(2)
        counted = self._counted(sigma, noised.block)
        share = counted / counted.sum(1, keepdim=True).clamp(min=1)
        weight = self.weight.weight(torch.where(counted, sigma, 1.0))  # that of a clean frame is infinite
        return Loss((share * weight * error).sum(1), (share * error).sum(1))

    def _per_frame(self, levels: Tensor) -> Tensor:
        """Levels of blocks (n, b) -> of frames (n, f)."""
        columns = [levels[:, b : b + 1].expand(-1, size) for b, size in enumerate(self.blocks)]
        return torch.cat(columns, dim=1)

    def _shown(self, y: Tensor, noised: Noised) -> Noised:
        if not self.two_streams:
            return noised
        clean = torch.full_like(noised.sigma, self.clean)
        return Noised(torch.cat([y, noised.z], dim=1), torch.cat([clean, noised.sigma], dim=1), noised.block)

    def _counted(self, sigma: Tensor, block: int | None) -> Tensor:
        """Which frames (n, f) have a loss."""
        law = self.partition.law
        low, high = (law.low, law.high) if block is None else self.partition.training_band(block)
        return (sigma >= low * (1 - SLACK)) & (sigma <= high * (1 + SLACK)) & (sigma > self.clean)


def two_streams(denoiser: Denoiser) -> Denoiser:
    """The same denoiser, given every frame clean and noisy."""

    def load(b: int) -> BlockDenoiser:
        block = denoiser.block(b)
        assert isinstance(block.backbone, Video), "only our own network makes frames in blocks"
        return BlockDenoiser(block.backbone.in_two_streams(), block.frame)

    return Denoiser(denoiser.partition, load, resident=1)


def everywhere(task: VideoGeneration, policy: LevelPolicy = "clean") -> VideoGeneration:
    """The same task for all levels, with another ``policy``."""
    return replace(task, partition=make_partition(task.partition.law, 1), levels=replace(task.levels, policy=policy))
