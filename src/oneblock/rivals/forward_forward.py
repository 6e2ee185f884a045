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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.data import Augment, Source
from oneblock.memory import DryRun
from oneblock.models.vit import ViT, ViTConfig
from oneblock.rivals.base import (
    Learner,
    RivalReport,
    RivalSettings,
    Sampled,
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
from oneblock.rivals.blocks import check_plain, hidden, vit_block


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
    """A ``Rival``: contrastive Forward-Forward on the layers of an ordinary ViT, then linear classifiers.

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
            raise ValueError(f"temperature={temperature}, margins={margins}: use a number above 0, and 0 or more")
        if not 0.0 < classifier_share < 1.0:
            raise ValueError(f"classifier_share={classifier_share} leaves a stage without budget; use 0 to 1, neither")
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

    def steps(self, source: Source, settings: RivalSettings, augment: Augment | None = None) -> Iterator[RivalReport]:
        config = self.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        views = 1 if augment is None else 2
        cost = settings.batch_size * config.depth
        last = affordable_steps(round(self.classifier_share * settings.budget), cost)
        first = affordable_steps(settings.budget - last * cost, views * cost)
        self.layers, self.classifiers = [], []

        learners = self._learners(settings, first)
        for step in range(first):
            batch = draw(source, settings, "layers", step, augment, views)
            local = zip(self._local_losses(learners, batch), learners, strict=True)
            losses = [train_on(loss, learner) for loss, learner in local]
            yield _report("layers", step, first + last, losses, views * cost)
        for learner in learners:
            learner.freeze()
        self.layers = [learner.module for learner in learners]

        classifiers = self._classifiers(settings, last)
        for step in range(last):
            batch = draw(source, settings, "classifiers", step, augment)
            each = zip(self._classifier_losses(classifiers, batch), classifiers, strict=True)
            losses = [train_on(loss, classifier) for loss, classifier in each]
            yield _report("classifiers", first + step, first + last, losses, cost)
        for classifier in classifiers:
            classifier.freeze()
        self.classifiers = [classifier.module for classifier in classifiers]

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
            learners.append(Learner(f"layer-{i}", layer, settings, num_steps))
        return learners

    def _local_losses(self, learners: list[Learner[ViT]], batch: Sampled) -> Iterator[Tensor]:
        """The losses of each layer, (n,) for n images of the batch, in order; the layer may make its update before the
        next one is asked for, which is given what this one made before."""
        x = batch.images
        for learner, margin in zip(learners, self.margins, strict=True):
            with learner.settings.autocast():
                x, _ = hidden(learner.module, x.detach())
            yield contrastive_losses(x.float().mean(1), batch.labels, self.temperature, margin)

    def _classifiers(self, settings: RivalSettings, num_steps: int) -> list[Learner[nn.Sequential]]:
        """For each layer a norm and a linear map."""
        d, k = self.config.width, self.config.num_classes
        learners = []
        for i in range(self.config.depth):
            seed = settings.derive_seed("init", "classifier", i)
            pair = seeded(lambda: nn.Sequential(nn.LayerNorm(d), nn.Linear(d, k)), seed)
            learners.append(Learner(f"classifier-{i}", pair, settings, num_steps))
        return learners

    def _classifier_losses(self, classifiers: list[Learner[nn.Sequential]], batch: Sampled) -> Iterator[Tensor]:
        """Cross-entropies (n,) of each classifier."""
        with classifiers[0].settings.autocast():
            features = self._features(batch.images)
        for classifier, f in zip(classifiers, features, strict=True):
            yield F.cross_entropy(classifier.module(f), batch.labels, reduction="none")

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

        def step() -> None:
            for losses, learner in zip(self._local_losses(learners, batch), learners, strict=True):
                update_on(losses, learner)

        return dry_run(learners, (batch.images, batch.labels), step)

    def _dry_classifiers(self, settings: RivalSettings) -> DryRun:
        rival, batch = ContrastiveFF(self.config), self._empty(settings)
        for learner in self._learners(settings, 1):
            learner.freeze()
            rival.layers.append(learner.module)
        classifiers = self._classifiers(settings, 1)

        def step() -> None:
            for losses, classifier in zip(rival._classifier_losses(classifiers, batch), classifiers, strict=True):
                update_on(losses, classifier)

        return dry_run(classifiers, (batch.images, batch.labels), step, rival.layers)

    def _empty(self, settings: RivalSettings) -> Sampled:
        return Sampled(*empty_batch(settings, self.config.channels, self.config.image_size), torch.Generator())


def _report(part: str, step: int, num_steps: int, losses: list[float], cost: int) -> RivalReport:
    loss = sum(losses) / len(losses)
    return RivalReport(part=part, step=step + 1, num_steps=num_steps, loss=loss, layer_evaluations=cost)
