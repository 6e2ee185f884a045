"""The control of NoProp's networks: one of them as an ordinary classifier, with the whole budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.condition import Frames
from oneblock.data import Source
from oneblock.memory import DryRun
from oneblock.models.cnn import CNNConfig, NoisyCNN
from oneblock.rivals.base import Lesson, RivalSettings, Stage, affordable_steps, check_source, check_trained, seeded
from oneblock.rivals.peak import dry_run, empty_batch
from oneblock.train.learner import Learner


class PlainCNN:
    """A ``Classifier``: the network u of NoProp with a noisy label of zeros, trained end-to-end by cross-entropy.

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

    def describe(self) -> Mapping[str, object]:
        return {"config": asdict(self.config)}

    def stages(self, source: Source, settings: RivalSettings, augmented: bool = False) -> Sequence[Stage[Any]]:
        config = self.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        num_steps = affordable_steps(settings.budget, settings.batch_size)

        def end(learners: tuple[Learner[NoisyCNN]]) -> None:
            self.network = learners[0].freeze()

        stage = Stage(
            part=self.name,
            costs=(settings.batch_size,) * num_steps,
            learners=lambda: (self._learner(settings, num_steps),),
            lessons=lambda learners, batch: self._lessons(*learners, batch.images, batch.labels),
            end=end,
        )
        return [stage]

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
        return dry_run([learner], (images, labels), lambda: self._lessons(learner, images, labels))

    def _learner(self, settings: RivalSettings, num_steps: int) -> Learner[NoisyCNN]:
        network = seeded(lambda: NoisyCNN(self.config), settings.derive_seed("init", 0))
        return settings.learner(self.name, network, num_steps)

    def _lessons(self, learner: Learner[NoisyCNN], images: Tensor, labels: Tensor) -> list[Lesson]:
        return [Lesson([learner], partial(self._losses, learner, images, labels))]

    def _logits(self, network: NoisyCNN, images: Tensor) -> Tensor:
        nothing = images.new_zeros(len(images), self.config.label_width)
        logits: Tensor = network(nothing, images[:, 0, 0, 0], Frames(images))
        return logits

    def _losses(self, learner: Learner[NoisyCNN], images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy (n,)."""
        with learner.autocast():
            return F.cross_entropy(self._logits(learner.module, images), labels, reduction="none")
