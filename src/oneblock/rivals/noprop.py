"""NoProp: networks that each denoise a label, trained apart, and followed one after another to classify.

Li, Teh and Pascanu, "NoProp: Training Neural Networks without Back-propagation or Forward-propagation",
https://arxiv.org/abs/2503.24322. NoProp-DT has T networks, and NoProp-CT one that is told the time t in [0, 1]; what
they share stands in ``rivals.labels``.

Adapted: both have a fixed cosine for a noise schedule (the paper has one for DT, whose constants may differ, and learns
that of CT). Class vectors are frozen (the paper has one-hot ones, the default here, and learned ones), so that the
Kullback-Leibler term of the loss is a constant. The optimizer, learning rates and averages are those of all rivals, and
``models.cnn`` says how its network differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from oneblock.data import Augment, Source
from oneblock.memory import DryRun
from oneblock.models.cnn import CNNConfig, NoisyCNN
from oneblock.rivals.base import (
    Learner,
    RivalReport,
    RivalSettings,
    Sampled,
    affordable_steps,
    check_source,
    check_trained,
    draw,
    train_on,
)
from oneblock.rivals.labels import OFFSET, Inputs, Recipe, coefficients, cosine_snr_slope, noised, predict, snr

Solver = Literal["euler", "heun"]


class NoPropDT:
    """A ``Rival``: NoProp-DT, with ``config.depth`` networks u_1 .. u_T (10 in the paper).

    Each is trained in its turn, for the same number of steps, on Equation 8 at its own t; the classifier at z_T goes on
    training with all of them. One step costs ``batch_size`` layer evaluations, as a layer of the CNN is a whole network
    (``models.cnn``), and a prediction T: ``z_t = a_t u_t(z_(t-1), x) + b_t z_(t-1) + sqrt(c_t) noise`` (Equations 3 and
    4). Stage t is what network t answers, and the last stage what the classifier says of z_T.

    Args: see ``Recipe``.
    """

    name = "noprop-dt"

    def __init__(
        self,
        config: CNNConfig,
        table: Tensor | None = None,
        eta: float = 0.1,
        offset: float = OFFSET,
        noise_seed: int = 0,
    ) -> None:
        rows = torch.eye(config.num_classes) if table is None else table
        self.recipe = Recipe(replace(config, levels=False), rows, eta, offset, noise_seed)
        self.networks: list[NoisyCNN] = []
        self.classifier: nn.Linear | None = None

    @property
    def num_steps(self) -> int:
        """T."""
        return self.recipe.config.depth

    @property
    def evaluation_layers(self) -> int:
        return self.num_steps

    @property
    def weights(self) -> Tensor:
        """(T,): ``T eta (SNR(t) - SNR(t - 1)) / 2`` (Equation 8)."""
        ratio = snr(self.recipe.alpha_bar(self.recipe.times(self.num_steps)))
        return 0.5 * self.num_steps * self.recipe.eta * ratio.diff()

    def steps(self, source: Source, settings: RivalSettings, augment: Augment | None = None) -> Iterator[RivalReport]:
        recipe, config, parts = self.recipe, self.recipe.config, self.num_steps
        check_source(source, config.channels, config.image_size, config.num_classes)
        num_steps = affordable_steps(settings.budget, settings.batch_size * parts)
        self.networks, self.classifier = [], None
        classifier = recipe.classifier(settings, parts * num_steps)
        for t in range(1, parts + 1):
            network = recipe.network(range(t - 1, t), settings.derive_seed("init", t))
            learner = Learner(f"step-{t}", network, settings, num_steps)
            for step in range(num_steps):
                batch = draw(source, settings, learner.part, step, augment)
                x = self._inputs(t, batch)
                yield RivalReport(
                    part=learner.part,
                    step=(t - 1) * num_steps + step + 1,
                    num_steps=parts * num_steps,
                    loss=train_on(recipe.losses(learner, classifier, batch.labels, x), learner, classifier),
                    layer_evaluations=settings.batch_size,
                )
            learner.freeze()
            self.networks.append(network.cpu())  # no other network needs it
        classifier.freeze()
        for network in self.networks:
            network.to(settings.device)
        self.classifier = classifier.module

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        check_trained(self.name, len(self.networks) + (self.classifier is not None), self.num_steps + 1)
        assert self.classifier is not None
        images = images.to(self.classifier.weight.device)
        table, nothing = self.recipe.table.to(images), images.new_zeros(len(images))
        alpha_bar = self.recipe.alpha_bar(self.recipe.times(self.num_steps))
        z, generator = self.recipe.start(images)
        stages = []
        for network, a, b, c in zip(self.networks, *coefficients(alpha_bar), strict=True):
            stages.append(predict(network, z, nothing, images))
            noise = torch.randn(z.shape, generator=generator).to(z)
            z = a.to(z) * (stages[-1] @ table) + b.to(z) * z + c.sqrt().to(z) * noise
        return torch.stack([*stages[:-1], self.classifier(z).softmax(-1)])

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        """The step of a network, the others being elsewhere; all are alike."""
        return [partial(self.recipe.dry_run, settings, range(1))]

    def _inputs(self, t: int, batch: Sampled) -> Inputs:
        """Of step ``t``, 1 .. T: z_(t-1) and z_T are drawn apart."""
        recipe, n = self.recipe, len(batch.labels)
        rows = recipe.table.to(batch.labels.device)[batch.labels]
        alpha_bar = recipe.alpha_bar(recipe.times(self.num_steps))
        z = noised(rows, alpha_bar[t - 1], batch.generator)
        weight = rows.new_full((n,), float(self.weights[t - 1]))
        return Inputs(batch.images, z, rows.new_zeros(n), recipe.end(batch.labels, batch.generator), weight)


class NoPropCT:
    """A ``Rival``: NoProp-CT, one network that is told the time.

    Its squared error is weighted by ``eta SNR'(t) / 2`` at times t drawn from [0, 1], as Equation 8 is in the limit of
    many steps. One step costs ``batch_size`` layer evaluations, and a prediction ``num_steps`` with ``"euler"``,
    twice as many with ``"heun"``. Stage i is what the network answers at time ``i / num_steps``, and the last stage
    what the classifier says of z_1.

    Args:
        config: of the network; its ``depth`` is 1.
        num_steps, solver: of ``follow``; 1000 steps in the paper.
        table, eta, offset, noise_seed: see ``Recipe``.
    """

    name = "noprop-ct"

    def __init__(
        self,
        config: CNNConfig,
        table: Tensor | None = None,
        eta: float = 1.0,
        offset: float = OFFSET,
        num_steps: int = 1000,
        solver: Solver = "heun",
        noise_seed: int = 0,
    ) -> None:
        if config.depth != 1:
            raise ValueError(f"depth={config.depth}: noprop-ct has a single network; use depth=1")
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps} leads nowhere; use 1 or more")
        if solver not in get_args(Solver):
            raise ValueError(f"solver={solver!r} is unknown; use one of {', '.join(get_args(Solver))}")
        rows = torch.eye(config.num_classes) if table is None else table
        self.recipe = Recipe(replace(config, levels=True), rows, eta, offset, noise_seed)
        self.num_steps = num_steps
        self.solver = solver
        self.network: NoisyCNN | None = None
        self.classifier: nn.Linear | None = None

    @property
    def evaluation_layers(self) -> int:
        return self.num_steps * (2 if self.solver == "heun" else 1)

    def steps(self, source: Source, settings: RivalSettings, augment: Augment | None = None) -> Iterator[RivalReport]:
        recipe, config = self.recipe, self.recipe.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        num_steps = affordable_steps(settings.budget, settings.batch_size)
        self.network = self.classifier = None
        classifier = recipe.classifier(settings, num_steps)
        learner = Learner("network", recipe.network(range(1), settings.derive_seed("init", 0)), settings, num_steps)
        for step in range(num_steps):
            batch = draw(source, settings, learner.part, step, augment)
            losses = recipe.losses(learner, classifier, batch.labels, self._inputs(batch))
            yield RivalReport(
                part=learner.part,
                step=step + 1,
                num_steps=num_steps,
                loss=train_on(losses, learner, classifier),
                layer_evaluations=settings.batch_size,
            )
        for one in (learner, classifier):
            one.freeze()
        self.network, self.classifier = learner.module, classifier.module

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        check_trained(self.name, int(self.network is not None), 1)
        network, classifier = self.network, self.classifier
        assert network is not None and classifier is not None
        images = images.to(classifier.weight.device)
        table = self.recipe.table.to(images)

        def answer(z: Tensor, time: Tensor) -> Tensor:
            return predict(network, z, time.to(z).expand(len(z)), images)

        z, _ = self.recipe.start(images)
        stages, z = follow(answer, z, table, self.recipe, self.num_steps, self.solver)
        return torch.stack([*stages[:-1], classifier(z).softmax(-1)])

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        return [partial(self.recipe.dry_run, settings, range(1))]

    def _inputs(self, batch: Sampled) -> Inputs:
        """Times, and z at each."""
        recipe, n = self.recipe, len(batch.labels)
        rows = recipe.table.to(batch.labels.device)[batch.labels]
        time = torch.rand(n, generator=batch.generator, dtype=torch.float64)
        z = noised(rows, recipe.alpha_bar(time)[:, None], batch.generator)
        weight = 0.5 * recipe.eta * cosine_snr_slope(time, recipe.offset)
        return Inputs(batch.images, z, time.to(rows), recipe.end(batch.labels, batch.generator), weight.to(rows))


def follow(
    answer: Callable[[Tensor, Tensor], Tensor], z: Tensor, table: Tensor, recipe: Recipe, num_steps: int, solver: Solver
) -> tuple[list[Tensor], Tensor]:
    """From z_0 (n, d) to z_1 (n, d); also what was answered at the start of every step, class probabilities (n, k).

    The flow that keeps Equation 6, derived from it: with the prediction u, ``dz/dt = alpha_bar' / (2 (1 - alpha_bar))
    (u / sqrt(alpha_bar) - z)``. In ``y = z / sqrt(1 - alpha_bar)`` and ``r = sqrt(SNR)`` it reads ``dy/dr = u``, which
    is integrated, in equal steps of t, as it is regular at both ends.

    Args:
        answer: z (n, d) and a time, a scalar -> class probabilities (n, k).
        solver: ``"euler"`` (order 1, also known as DDIM) or ``"heun"`` (order 2, two answers a step).
    """
    times = recipe.times(num_steps)
    alpha_bar = recipe.alpha_bar(times)
    scale, r = (1.0 - alpha_bar).sqrt().to(z), snr(alpha_bar).sqrt().to(z)
    y, answers = z / scale[0], []
    for i in range(num_steps):
        answers.append(answer(y * scale[i], times[i]))
        slope = answers[-1] @ table
        if solver == "heun":
            ahead = y + (r[i + 1] - r[i]) * slope
            slope = 0.5 * (slope + answer(ahead * scale[i + 1], times[i + 1]) @ table)
        y = y + (r[i + 1] - r[i]) * slope
    return answers, y * scale[-1]
