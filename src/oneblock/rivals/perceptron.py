"""An ordinary classifier, by backpropagation or by evolution: what a gradient costs without a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.data import Source
from oneblock.memory import DryRun
from oneblock.models.perceptron import Perceptron, PerceptronConfig
from oneblock.rivals.base import Lesson, RivalSettings, Stage, affordable_steps, check_source, check_trained, seeded
from oneblock.rivals.peak import dry_run, empty_batch
from oneblock.train.evolve import EvolutionUpdate, UpdateSettings
from oneblock.train.learner import Learner, Update


class PlainPerceptron:
    """A ``Classifier``: a perceptron trained by cross-entropy. A step costs ``batch_size`` times its layers, however
    many members of a population look at the batch.

    Args:
        update: how its gradients are found.
    """

    name = "perceptron"

    def __init__(self, config: PerceptronConfig, update: UpdateSettings) -> None:
        self.config, self.update = config, update
        self.network: Perceptron | None = None

    @property
    def evaluation_layers(self) -> int:
        return self.config.depth

    def describe(self) -> Mapping[str, object]:
        return {"config": asdict(self.config), "update": asdict(self.update)}

    def stages(self, source: Source, settings: RivalSettings, augmented: bool = False) -> Sequence[Stage[Any]]:
        config = self.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        cost = settings.batch_size * config.depth
        num_steps = affordable_steps(settings.budget, cost)

        def end(learners: tuple[Learner[Perceptron]]) -> None:
            self.network = learners[0].freeze()

        stage = Stage(
            part=self.name,
            costs=(cost,) * num_steps,
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
        return self.network(images.to(device)).float().softmax(-1)[None]

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        return [partial(self._dry_run, settings)]

    def _dry_run(self, settings: RivalSettings) -> DryRun:
        learner = self._learner(settings, 1)
        images, labels = empty_batch(settings, self.config.channels, self.config.image_size)
        return dry_run([learner], (images, labels), lambda: self._lessons(learner, images, labels))

    def _learner(self, settings: RivalSettings, num_steps: int) -> Learner[Perceptron]:
        network = seeded(lambda: Perceptron(self.config), settings.derive_seed("init", 0))
        update: Update | None = None
        if self.update.update == "evolution":
            update = EvolutionUpdate(self.update, settings.derive_seed("evolution", self.name))
        return settings.learner(self.name, network, num_steps, update)

    def _lessons(self, learner: Learner[Perceptron], images: Tensor, labels: Tensor) -> list[Lesson]:
        return [Lesson([learner], partial(self._losses, learner, images, labels))]

    def _losses(self, learner: Learner[Perceptron], images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy (n,)."""
        with learner.autocast():
            return F.cross_entropy(learner.module(images), labels, reduction="none")
