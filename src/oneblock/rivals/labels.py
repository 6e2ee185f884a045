"""Labels with noise, as NoProp has them: the schedule, the loss, and what both kinds of NoProp are built from.

Li, Teh and Pascanu, "NoProp: Training Neural Networks without Back-propagation or Forward-propagation",
https://arxiv.org/abs/2503.24322. Time runs from noise to label: ``z_0`` is noise, ``z_T`` almost the class vector
``u_y``, and with alpha_bar rising from 0 towards 1

    q(z_t | y) = N(sqrt(alpha_bar_t) u_y, 1 - alpha_bar_t)                                             (Equation 6)
    q(z_(t-1) | z_t) = N(sqrt(alpha_(t-1)) z_t, 1 - alpha_(t-1)),  alpha_(t-1) = alpha_bar_(t-1) / alpha_bar_t
                                                                                                       (Equation 5)

A network answers with logits; its prediction is the row that they expect, ``softmax(logits) @ table``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.condition import Frames
from oneblock.memory import DryRun
from oneblock.models.cnn import CNNConfig, NoisyCNN
from oneblock.rivals.base import Lesson, RivalSettings, seeded
from oneblock.rivals.peak import dry_run, empty_batch
from oneblock.train.learner import Learner

OFFSET = 0.008
"""The ``s`` of the cosine, Nichol and Dhariwal's; larger is noisier at the end."""


def cosine_alpha_bar(time: Tensor, offset: float = OFFSET) -> Tensor:
    """``cos^2(pi/2 (1 - t + s) / (1 + s))`` of ``time`` t in [0, 1]: rises from 0, and ends below 1.

    Nichol and Dhariwal, Equation 17, https://arxiv.org/abs/2102.09672, with time turned round, and without the division
    that would make the last signal-to-noise ratio infinite.
    """
    return torch.cos(0.5 * math.pi * (1.0 - time + offset) / (1.0 + offset)) ** 2


def cosine_snr_slope(time: Tensor, offset: float = OFFSET) -> Tensor:
    """``SNR'(t)`` of the cosine schedule, where ``SNR = cot^2(angle)``: ``pi / (1 + s) cot(angle) / sin^2(angle)``."""
    angle = 0.5 * math.pi * (1.0 - time + offset) / (1.0 + offset)
    return math.pi / (1.0 + offset) / (torch.tan(angle) * torch.sin(angle) ** 2)


def snr(alpha_bar: Tensor) -> Tensor:
    """``alpha_bar / (1 - alpha_bar)``, the signal-to-noise ratio (after Equation 8)."""
    return alpha_bar / (1.0 - alpha_bar)


class Coefficients(NamedTuple):
    """Of the steps t = 1 .. T, each (T,), step t at index t - 1."""

    a: Tensor
    b: Tensor
    c: Tensor


def coefficients(alpha_bar: Tensor) -> Coefficients:
    """``q(z_t | z_(t-1), y) = N(a_t u_y + b_t z_(t-1), c_t)`` (before Equation 7), from ``alpha_bar`` (T + 1,) of the
    times 0 .. T.

    ``a_t = sqrt(alpha_bar_t) (1 - alpha_(t-1)) / (1 - alpha_bar_(t-1))``,
    ``b_t = sqrt(alpha_(t-1)) (1 - alpha_bar_t) / (1 - alpha_bar_(t-1))``,
    ``c_t = (1 - alpha_bar_t) (1 - alpha_(t-1)) / (1 - alpha_bar_(t-1))``.
    """
    before, after = alpha_bar[:-1], alpha_bar[1:]
    alpha = before / after
    rest = 1.0 - before
    return Coefficients(
        after.sqrt() * (1.0 - alpha) / rest, alpha.sqrt() * (1.0 - after) / rest, (1.0 - after) * (1.0 - alpha) / rest
    )


def prior_divergence(rows: Tensor, alpha_bar: Tensor) -> Tensor:
    """``KL(q(z_0 | y) || N(0, 1))`` (n,) for class vectors ``rows`` (n, d) and a scalar alpha_bar_0:
    ``(alpha_bar (|u|^2 - d) - d ln(1 - alpha_bar)) / 2``."""
    d = rows.shape[-1]
    return 0.5 * (alpha_bar * (rows.square().sum(-1) - d) - d * torch.log1p(-alpha_bar))


def noprop_loss(
    answer: Tensor, labels: Tensor, prediction: Tensor, rows: Tensor, weight: Tensor, first_alpha_bar: Tensor
) -> Tensor:
    """The three terms of Equation 8 for each sample (n,): cross-entropy of the classifier's ``answer`` (n, k) at z_T,
    ``prior_divergence``, and ``weight |prediction - u_y|^2`` of ``prediction`` and ``rows`` (n, d).

    Args:
        weight: (n,): ``T eta (SNR(t) - SNR(t - 1)) / 2``, or in continuous time ``eta SNR'(t) / 2``.
        first_alpha_bar: of time 0, a scalar.
    """
    error = (prediction - rows).square().sum(-1)
    return F.cross_entropy(answer, labels, reduction="none") + prior_divergence(rows, first_alpha_bar) + weight * error


def noised(rows: Tensor, alpha_bar: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of ``q(z_t | y)`` (Equation 6) for class vectors ``rows`` (n, d); ``alpha_bar`` is a scalar or (n, 1)."""
    noise = torch.randn(rows.shape, generator=generator).to(rows)
    return alpha_bar.sqrt().to(rows) * rows + (1.0 - alpha_bar).sqrt().to(rows) * noise


@dataclass(frozen=True)
class NoPropParts:
    """What both kinds of NoProp are built from.

    Args:
        config: of the networks; its ``levels`` are set as the kind needs them.
        table: (k, label_width), class vectors; NoProp-DT and NoProp-CT take one-hot ones unless given others.
        eta: weight of the squared error.
        offset: ``s`` of the noise schedule.
        noise_seed: of the noise in predictions, the same in every call.
    """

    config: CNNConfig
    table: Tensor
    eta: float
    offset: float
    noise_seed: int

    def __post_init__(self) -> None:
        k, d = self.config.num_classes, self.config.label_width
        if self.table.shape != (k, d):
            raise ValueError(
                f"table has shape {tuple(self.table.shape)}; give ({k}, {d}), label_width={d} numbers for each class"
            )
        if not (self.eta > 0 and self.offset > 0):
            raise ValueError(f"eta={self.eta}, offset={self.offset}: both must be above 0; the paper's eta is 0.1 or 1")

    def times(self, num_steps: int) -> Tensor:
        """(num_steps + 1,): 0 .. 1 in equal steps, in float64."""
        return torch.linspace(0.0, 1.0, num_steps + 1, dtype=torch.float64)

    def alpha_bar(self, time: Tensor) -> Tensor:
        return cosine_alpha_bar(time, self.offset)

    def network(self, layers: range, seed: int) -> NoisyCNN:
        return seeded(lambda: NoisyCNN(self.config, layers), seed)

    def classifier(self, settings: RivalSettings, num_steps: int) -> Learner[nn.Linear]:
        """The linear map from z_T to logits."""
        k, d = self.table.shape
        linear = seeded(lambda: nn.Linear(d, k), settings.derive_seed("init", "classifier"))
        return settings.learner("classifier", linear, num_steps)

    def describe(self) -> dict[str, object]:
        """All that training depends on."""
        return {
            "config": asdict(self.config),
            "table": self.table.tolist(),
            "eta": self.eta,
            "offset": self.offset,
        }

    def lesson(self, learner: Learner[NoisyCNN], classifier: Learner[nn.Linear], labels: Tensor, x: Inputs) -> Lesson:
        """One loss for a network and the classifier."""
        return Lesson((learner, classifier), partial(self.losses, learner, classifier, labels, x))

    def losses(self, learner: Learner[NoisyCNN], classifier: Learner[nn.Linear], labels: Tensor, x: Inputs) -> Tensor:
        """``noprop_loss`` (n,) of a network and the classifier."""
        table = self.table.to(x.images.device)
        with learner.autocast():
            prediction = predict(learner.module, x.z, x.time, x.images) @ table
            answer = classifier.module(x.end).float()
        return noprop_loss(answer, labels, prediction, table[labels], x.weight, self.alpha_bar(self.times(1))[0])

    def end(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of z_T for ``labels`` (n,)."""
        return noised(self.table.to(labels.device)[labels], self.alpha_bar(self.times(1))[-1], generator)

    def start(self, images: Tensor) -> tuple[Tensor, torch.Generator]:
        """z_0 for ``images`` (n, ...), and the generator of further noise."""
        generator = torch.Generator().manual_seed(self.noise_seed)
        return torch.randn(len(images), self.table.shape[1], generator=generator).to(images), generator

    def dry_run(self, settings: RivalSettings, layers: range) -> DryRun:
        """One step of the network ``layers`` and of the classifier."""
        parts = replace(self, table=torch.zeros(self.table.shape, device=settings.device))
        learner = settings.learner("network", parts.network(layers, 0), 1)
        classifier = parts.classifier(settings, 1)
        images, labels = empty_batch(settings, self.config.channels, self.config.image_size)
        z, end = (images.new_empty(len(images), self.table.shape[1]) for _ in range(2))
        x = Inputs(images, z, images.new_ones(len(images)), end, images.new_ones(len(images)))
        held = (*x, labels, parts.table)
        return dry_run([learner, classifier], held, lambda: [parts.lesson(learner, classifier, labels, x)])


class Inputs(NamedTuple):
    """Images (n, c, h, w), noisy labels z (n, d), their times (n,), draws of z_T (n, d), and the weights of the squared
    error (n,)."""

    images: Tensor
    z: Tensor
    time: Tensor
    end: Tensor
    weight: Tensor


def predict(network: NoisyCNN, z: Tensor, time: Tensor, images: Tensor) -> Tensor:
    """Class probabilities (n, k) that a network gives for noisy labels (n, d) at times (n,) of ``images``."""
    return network(z, time, Frames(images)).float().softmax(-1)
