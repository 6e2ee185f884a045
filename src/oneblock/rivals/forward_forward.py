"""Contrastive Forward-Forward: every layer learns to bring images of one class together, by a loss of its own.

Aghagolzadeh and Ezoji, "Contrastive Forward-Forward: A Training Algorithm of Vision Transformer",
https://arxiv.org/abs/2502.00571. In the first stage each layer makes its update as soon as a batch has passed through
it, and no gradient goes from a layer to the one before; its loss is the supervised contrastive one of Khosla et al.
(Equation 2, https://arxiv.org/abs/2004.11362), with a margin added to the similarity of positives, on the mean of its
output tokens. In the second stage a linear classifier is trained on the frozen features.

As there: two augmented views of each image, temperature 0.15, margins from 0.4 at the first layer to 0.1 at the last,
the stem trained with the first layer, a layer norm before the classifier. Adapted: the layers of this library's ViT,
whose class token is averaged with the patches; the optimizer, learning rates and averages are those of all rivals;
the second stage has a share of the budget instead of 50 epochs after 600; and each layer's features get a classifier,
all trained from the same forward passes, of which the last is the method's answer and the others show the way to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.data import Source
from oneblock.memory import DryRun
from oneblock.models.vit import ViT, ViTConfig
from oneblock.rivals.base import (
    Lesson,
    RivalSettings,
    Sampled,
    Stage,
    affordable_steps,
    check_source,
    check_trained,
    seeded,
)
from oneblock.rivals.blocks import check_plain, hidden, vit_block
from oneblock.rivals.peak import dry_run, empty_batch
from oneblock.train.learner import Learner


def contrastive_losses(features: Tensor, labels: Tensor, temperature: float, margin: float = 0.0) -> Tensor:
    """The loss of each anchor (n,): minus the mean, over its positives p, of
    ``log(exp(s_p / temperature) / sum_a exp(s_a / temperature))``, a over all but the anchor (Khosla et al.,
    Equation 2).

    ``s`` is the cosine similarity to the anchor, and ``min(s + margin, 1)`` for positives, samples of the same label.
    An anchor without positives has loss 0.

    Args:
        features: (n, d), of any length.
        labels: (n,).
        temperature: above 0.
        margin: 0 or more.
    """
    unit = F.normalize(features.float(), dim=-1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels) & ~itself
    similarity = unit @ unit.mT
    similarity = torch.where(positive, (similarity + margin).clamp(max=1.0), similarity) / temperature
    log_share = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(-1, keepdim=True)
    return -log_share.where(positive, 0.0).sum(-1) / positive.sum(-1).clamp(min=1)


class ContrastiveFF:
    """A ``Classifier``: contrastive Forward-Forward on the layers of an ordinary ViT, then linear classifiers.

    A step of the first stage costs ``batch_size`` times the depth for each view (two with ``augment``, else one), and
    of the second ``batch_size`` times the depth. All layers are on the device with their moments; activations and
    gradients are those of one layer. Stage l is the answer of the classifier on the features of layer l.

    Args:
        config: with ``noisy_token="none"``.
        temperature, margins: of ``contrastive_losses``; margins of the first and the last layer, even steps between.
        classifier_share: of the budget, for the second stage.
    """

    name = "contrastive-ff"

    def __init__(
        self,
        config: ViTConfig,
        temperature: float = 0.15,
        margins: tuple[float, float] = (0.4, 0.1),
        classifier_share: float = 0.1,
    ) -> None:
        check_plain(config)
        if not temperature > 0 or min(margins) < 0:
            raise ValueError(
                f"temperature={temperature}, margins={margins}: use a temperature above 0, and margins of 0 or more"
            )
        if not 0.0 < classifier_share < 1.0:
            raise ValueError(
                f"classifier_share={classifier_share} leaves a stage without budget; use a number between 0 and 1"
            )
        self.config = config
        self.temperature = temperature
        first, last = margins
        between = max(1, config.depth - 1)
        self.margins = [first + (last - first) * i / between for i in range(config.depth)]
        self.classifier_share = classifier_share
        self.layers: list[ViT] = []
        self.classifiers: list[nn.Sequential] = []

    @property
    def evaluation_layers(self) -> int:
        return self.config.depth

    def describe(self) -> Mapping[str, object]:
        return {
            "config": asdict(self.config),
            "temperature": self.temperature,
            "margins": self.margins,
            "classifier_share": self.classifier_share,
        }

    def stages(self, source: Source, settings: RivalSettings, augmented: bool = False) -> Sequence[Stage[Any]]:
        config = self.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        views = 2 if augmented else 1
        cost = settings.batch_size * config.depth
        last = affordable_steps(round(self.classifier_share * settings.budget), cost)
        first = affordable_steps(settings.budget - last * cost, views * cost)
        layers = Stage(
            part="layers",
            costs=(views * cost,) * first,
            learners=lambda: self._learners(settings, first),
            lessons=self._layer_lessons,
            end=self._take_layers,
            views=views,
        )
        classifiers = Stage(
            part="classifiers",
            costs=(cost,) * last,
            learners=lambda: self._classifiers(settings, last),
            lessons=self._classifier_lessons,
            end=self._take_classifiers,
        )
        return [layers, classifiers]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        check_trained(self.name, len(self.layers) + len(self.classifiers), 2 * self.config.depth)
        features = self._features(images.to(next(self.layers[0].parameters()).device))
        answers = [classify(f).softmax(-1) for classify, f in zip(self.classifiers, features, strict=True)]
        return torch.stack(answers)

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        """The step of all layers, on two views, and that of the classifiers."""
        return [partial(self._dry_layers, settings), partial(self._dry_classifiers, settings)]

    def _learners(self, settings: RivalSettings, num_steps: int) -> list[Learner[ViT]]:
        learners = []
        for i in range(self.config.depth):
            layer = vit_block(self.config, range(i, i + 1), settings.derive_seed("init", i))
            layer.add_module("head", nn.Identity())
            learners.append(settings.learner(f"layer-{i}", layer, num_steps))
        return learners

    def _layer_lessons(self, learners: Sequence[Learner[ViT]], batch: Sampled) -> Iterator[Lesson]:
        """The lesson of each layer, in order; the next one is given what this one made before its update."""
        inputs = {0: batch.images}

        def losses(i: int) -> Tensor:
            with learners[i].autocast():
                inputs[i + 1], _ = hidden(learners[i].module, inputs[i].detach())
            return contrastive_losses(inputs[i + 1].float().mean(1), batch.labels, self.temperature, self.margins[i])

        for i, learner in enumerate(learners):
            yield Lesson([learner], partial(losses, i))
            del inputs[i]  # activations are those of one layer

    def _take_layers(self, learners: Sequence[Learner[ViT]]) -> None:
        self.layers, self.classifiers = [learner.freeze() for learner in learners], []

    def _classifiers(self, settings: RivalSettings, num_steps: int) -> list[Learner[nn.Sequential]]:
        """For each layer a norm and a linear map."""
        d, k = self.config.width, self.config.num_classes
        learners = []
        for i in range(self.config.depth):
            seed = settings.derive_seed("init", "classifier", i)
            pair = seeded(lambda: nn.Sequential(nn.LayerNorm(d), nn.Linear(d, k)), seed)
            learners.append(settings.learner(f"classifier-{i}", pair, num_steps))
        return learners

    def _classifier_lessons(self, classifiers: Sequence[Learner[nn.Sequential]], batch: Sampled) -> Iterator[Lesson]:
        """Cross-entropies of each classifier."""
        with classifiers[0].autocast():
            features = self._features(batch.images)

        def losses(classifier: Learner[nn.Sequential], f: Tensor) -> Tensor:
            return F.cross_entropy(classifier.module(f), batch.labels, reduction="none")

        for classifier, f in zip(classifiers, features, strict=True):
            yield Lesson([classifier], partial(losses, classifier, f))

    def _take_classifiers(self, classifiers: Sequence[Learner[nn.Sequential]]) -> None:
        self.classifiers = [classifier.freeze() for classifier in classifiers]

    @torch.no_grad()
    def _features(self, images: Tensor) -> list[Tensor]:
        """Means of the output tokens (n, d) of every layer."""
        x, found = images, []
        for layer in self.layers:
            x, _ = hidden(layer, x)
            found.append(x.float().mean(1))
        return found

    def _dry_layers(self, settings: RivalSettings) -> DryRun:
        learners, one = self._learners(settings, 1), self._empty(settings)
        batch = replace(one, images=one.images.repeat(2, 1, 1, 1), labels=one.labels.repeat(2))
        return dry_run(learners, (batch.images, batch.labels), lambda: self._layer_lessons(learners, batch))

    def _dry_classifiers(self, settings: RivalSettings) -> DryRun:
        rival, batch = ContrastiveFF(self.config), self._empty(settings)
        rival._take_layers(self._learners(settings, 1))
        classifiers, held = self._classifiers(settings, 1), (batch.images, batch.labels)
        return dry_run(classifiers, held, lambda: rival._classifier_lessons(classifiers, batch), rival.layers)

    def _empty(self, settings: RivalSettings) -> Sampled:
        return Sampled(*empty_batch(settings, self.config.channels, self.config.image_size), torch.Generator())
