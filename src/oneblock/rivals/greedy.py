"""Greedy training, block after block: each learns to classify from the frozen output of those before.

Belilovsky, Eickenberg and Oyallon, "Greedy Layerwise Learning Can Scale to ImageNet", Section 3.2 and Algorithm 1 with
a linear auxiliary classifier (k = 1), https://arxiv.org/abs/1812.11446. Adapted: layers of a ViT instead of
convolutions, ``depth / blocks`` of them at a time, and the head of the ViT (norm of the class token, a linear map) for
the classifier; learning rates follow one schedule per block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.data import Augment, Source
from oneblock.memory import DryRun
from oneblock.models.vit import ViT, ViTConfig
from oneblock.partition import split_layers
from oneblock.rivals.base import (
    Learner,
    RivalReport,
    RivalSettings,
    affordable_steps,
    check_source,
    check_trained,
    draw,
    dry_run,
    empty_batch,
    train_on,
    update_on,
)
from oneblock.rivals.blocks import check_plain, hidden, logits, through, vit_block


class Greedy:
    """A ``Rival``: ``blocks`` equal blocks of an ordinary ViT, trained in order with the same number of steps each.

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

    def steps(self, source: Source, settings: RivalSettings, augment: Augment | None = None) -> Iterator[RivalReport]:
        config = self.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        num_steps = affordable_steps(settings.budget, settings.batch_size * sum(part.stop for part in self.layers))
        self.blocks = []
        for b, layers in enumerate(self.layers):
            learner = self._learner(b, settings, num_steps)
            for step in range(num_steps):
                batch = draw(source, settings, learner.part, step, augment)
                yield RivalReport(
                    part=learner.part,
                    step=b * num_steps + step + 1,
                    num_steps=len(self.layers) * num_steps,
                    loss=train_on(self._losses(learner, batch.images, batch.labels), learner),
                    layer_evaluations=settings.batch_size * layers.stop,
                )
            learner.freeze()
            self.blocks.append(learner.module)

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

    def _dry_run(self, settings: RivalSettings, b: int) -> DryRun:
        config = self.config
        rival = Greedy(config, len(self.layers))
        for i in range(b):
            before = rival._learner(i, settings, 1)
            before.freeze()
            rival.blocks.append(before.module)
        learner = rival._learner(b, settings, 1)
        images, labels = empty_batch(settings, config.channels, config.image_size)

        def step() -> None:
            update_on(rival._losses(learner, images, labels), learner)

        return dry_run([learner], (images, labels), step, rival.blocks)

    def _learner(self, b: int, settings: RivalSettings, num_steps: int) -> Learner[ViT]:
        block = vit_block(self.config, self.layers[b], settings.derive_seed("init", b))
        return Learner(f"block-{b}", block, settings, num_steps)

    def _losses(self, learner: Learner[ViT], images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy (n,) of the block's own head."""
        with learner.settings.autocast():
            tokens = through(self.blocks, images)
            return F.cross_entropy(logits(learner.module, tokens), labels, reduction="none")
