"""The control of NoProp's networks: one of them as an ordinary classifier, with the whole budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.condition import Frames
from oneblock.data import Augment, Source
from oneblock.memory import DryRun
from oneblock.models.cnn import CNNConfig, NoisyCNN
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
    seeded,
    train_on,
    update_on,
)


class PlainCNN:
    """A ``Rival``: the network u of NoProp with a noisy label of zeros, trained end-to-end by cross-entropy.

    A step costs ``batch_size``, one whole CNN on every image.

    Args:
        config: with one network.
    """

    name = "cnn"
    evaluation_layers = 1

    def __init__(self, config: CNNConfig) -> None:
        if config.depth != 1:
            raise ValueError(f"depth={config.depth}: the control is a single network; use depth=1")
        self.config = replace(config, levels=False)
        self.network: NoisyCNN | None = None

    def steps(self, source: Source, settings: RivalSettings, augment: Augment | None = None) -> Iterator[RivalReport]:
        config = self.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        num_steps = affordable_steps(settings.budget, settings.batch_size)
        learner = self._learner(settings, num_steps)
        for step in range(num_steps):
            batch = draw(source, settings, learner.part, step, augment)
            yield RivalReport(
                part=learner.part,
                step=step + 1,
                num_steps=num_steps,
                loss=train_on(self._losses(learner, batch.images, batch.labels), learner),
                layer_evaluations=settings.batch_size,
            )
        learner.freeze()
        self.network = learner.module

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        check_trained(self.name, int(self.network is not None), 1)
        assert self.network is not None, "checked"
        device = next(self.network.parameters()).device
        return self._logits(self.network, images.to(device)).float().softmax(-1)[None]

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        return [partial(self._dry_run, settings)]

    def _dry_run(self, settings: RivalSettings) -> DryRun:
        learner = self._learner(settings, 1)
        images, labels = empty_batch(settings, self.config.channels, self.config.image_size)

        def step() -> None:
            update_on(self._losses(learner, images, labels), learner)

        return dry_run([learner], (images, labels), step)

    def _learner(self, settings: RivalSettings, num_steps: int) -> Learner[NoisyCNN]:
        network = seeded(lambda: NoisyCNN(self.config), settings.derive_seed("init", 0))
        return Learner(self.name, network, settings, num_steps)

    def _logits(self, network: NoisyCNN, images: Tensor) -> Tensor:
        nothing = images.new_zeros(len(images), self.config.label_width)
        logits: Tensor = network(nothing, images[:, 0, 0, 0], Frames(images))
        return logits

    def _losses(self, learner: Learner[NoisyCNN], images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy (n,)."""
        with learner.settings.autocast():
            return F.cross_entropy(self._logits(learner.module, images), labels, reduction="none")
