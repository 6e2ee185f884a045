"""Greedy training, block after block: each learns to classify from the frozen output of those before.

Belilovsky, Eickenberg and Oyallon, "Greedy Layerwise Learning Can Scale to ImageNet", Section 3.2 and Algorithm 1 with
a linear auxiliary classifier (k = 1), https://arxiv.org/abs/1812.11446. Adapted: layers of a ViT instead of
convolutions, ``depth / blocks`` of them at a time, and the head of the ViT (norm of the class token, a linear map) for
the classifier; learning rates follow one schedule per block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.data import Source
from oneblock.memory import DryRun
from oneblock.models.vit import ViT, ViTConfig
from oneblock.partition import split_layers
from oneblock.rivals.base import Lesson, RivalSettings, Stage, affordable_steps, check_source, check_trained
from oneblock.rivals.blocks import check_plain, hidden, logits, through, vit_block
from oneblock.rivals.peak import dry_run, empty_batch
from oneblock.train.learner import Learner


class Greedy:
    """A ``Classifier``: ``blocks`` equal blocks of an ordinary ViT, trained in order, each for equally many steps.

    One block has gradients and moments at a time; the frozen ones before it stay on the device, for its inputs. A step
    of block b costs ``batch_size`` times all layers up to its last. Stage b is the answer of block b's own head.

    Args:
        config: with ``noisy_token="none"``.
        blocks: must divide the depth.
    """

    name = "greedy"

    def __init__(self, config: ViTConfig, blocks: int) -> None:
        check_plain(config)
        self.config = config
        stops = list(accumulate(split_layers(config.depth, blocks), initial=0))
        self.layers = [range(*ends) for ends in pairwise(stops)]
        self.blocks: list[ViT] = []

    @property
    def evaluation_layers(self) -> int:
        return self.config.depth

    def describe(self) -> Mapping[str, object]:
        return {"config": asdict(self.config), "blocks": len(self.layers)}

    def stages(self, source: Source, settings: RivalSettings, augmented: bool = False) -> Sequence[Stage[Any]]:
        config = self.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        num_steps = affordable_steps(settings.budget, settings.batch_size * sum(part.stop for part in self.layers))
        return [self._stage(b, settings, num_steps) for b in range(len(self.layers))]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        check_trained(self.name, len(self.blocks), len(self.layers))
        x = images.to(next(self.blocks[0].parameters()).device)
        stages = []
        for block in self.blocks:
            x, modulation = hidden(block, x)
            stages.append(block.head(x, modulation).float().softmax(-1))
        return torch.stack(stages)

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        """The steps of the first block, which trains the stem, and of the last, with all others before it."""
        return [partial(self._dry_run, settings, b) for b in sorted({0, len(self.layers) - 1})]

    def _stage(self, b: int, settings: RivalSettings, num_steps: int) -> Stage[tuple[Learner[ViT]]]:
        def end(learners: tuple[Learner[ViT]]) -> None:
            self.blocks[b:] = [learners[0].freeze()]

        return Stage(
            part=f"block-{b}",
            costs=(settings.batch_size * self.layers[b].stop,) * num_steps,
            learners=lambda: (self._learner(b, settings, num_steps),),
            lessons=lambda learners, batch: self._lessons(b, *learners, batch.images, batch.labels),
            end=end,
        )

    def _dry_run(self, settings: RivalSettings, b: int) -> DryRun:
        rival = Greedy(self.config, len(self.layers))
        rival.blocks = [self._learner(i, settings, 1).freeze() for i in range(b)]
        learner = self._learner(b, settings, 1)
        images, labels = empty_batch(settings, self.config.channels, self.config.image_size)
        return dry_run([learner], (images, labels), lambda: rival._lessons(b, learner, images, labels), rival.blocks)

    def _learner(self, b: int, settings: RivalSettings, num_steps: int) -> Learner[ViT]:
        block = vit_block(self.config, self.layers[b], settings.derive_seed("init", b))
        return settings.learner(f"block-{b}", block, num_steps)

    def _lessons(self, b: int, learner: Learner[ViT], images: Tensor, labels: Tensor) -> list[Lesson]:
        return [Lesson([learner], partial(self._losses, b, learner, images, labels))]

    def _losses(self, b: int, learner: Learner[ViT], images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy (n,) of the own head of block ``b``."""
        with learner.autocast():
            tokens = through(self.blocks[:b], images)
            return F.cross_entropy(logits(learner.module, tokens), labels, reduction="none")
