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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from oneblock.data import Source
from oneblock.memory import DryRun
from oneblock.models.cnn import CNNConfig, NoisyCNN
from oneblock.rivals.base import RivalSettings, Sampled, Stage, affordable_steps, check_source, check_trained
from oneblock.rivals.labels import OFFSET, Inputs, NoPropParts, coefficients, cosine_snr_slope, noised, predict, snr
from oneblock.train.learner import Learner

Solver = Literal["euler", "heun"]
Pair = tuple[Learner[NoisyCNN], Learner[nn.Linear]]
"""A network and the classifier."""


class NoPropDT:
    """A ``Classifier``: NoProp-DT, with ``config.depth`` networks u_1 .. u_T (10 in the paper).

    Each is trained in its turn, for the same number of steps, on Equation 8 at its own t; the classifier at z_T goes on
    training with all of them. One step costs ``batch_size`` layer evaluations, as a layer of the CNN is a whole network
    (``models.cnn``), and a prediction T: ``z_t = a_t u_t(z_(t-1), x) + b_t z_(t-1) + sqrt(c_t) noise`` (Equations 3 and
    4). Stage t is what network t answers, and the last stage what the classifier says of z_T.

    Args: see ``NoPropParts``.
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
        self.parts = NoPropParts(replace(config, levels=False), rows, eta, offset, noise_seed)
        self.networks: list[NoisyCNN] = []
        self.classifier: nn.Linear | None = None

    @property
    def num_steps(self) -> int:
        """T."""
        return self.parts.config.depth

    @property
    def evaluation_layers(self) -> int:
        return self.num_steps

    @property
    def weights(self) -> Tensor:
        """(T,): ``T eta (SNR(t) - SNR(t - 1)) / 2`` (Equation 8)."""
        ratio = snr(self.parts.alpha_bar(self.parts.times(self.num_steps)))
        return 0.5 * self.num_steps * self.parts.eta * ratio.diff()

    def describe(self) -> Mapping[str, object]:
        return self.parts.describe()

    def stages(self, source: Source, settings: RivalSettings, augmented: bool = False) -> Sequence[Stage[Any]]:
        config = self.parts.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        num_steps = affordable_steps(settings.budget, settings.batch_size * self.num_steps)
        classifier = cache(lambda: self.parts.classifier(settings, self.num_steps * num_steps))
        return [self._stage(t, settings, num_steps, classifier) for t in range(1, self.num_steps + 1)]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        check_trained(self.name, len(self.networks) + (self.classifier is not None), self.num_steps + 1)
        assert self.classifier is not None
        images = images.to(self.classifier.weight.device)
        table, nothing = self.parts.table.to(images), images.new_zeros(len(images))
        alpha_bar = self.parts.alpha_bar(self.parts.times(self.num_steps))
        z, generator = self.parts.start(images)
        stages = []
        for network, a, b, c in zip(self.networks, *coefficients(alpha_bar), strict=True):
            stages.append(predict(network, z, nothing, images))
            noise = torch.randn(z.shape, generator=generator).to(z)
            z = a.to(z) * (stages[-1] @ table) + b.to(z) * z + c.sqrt().to(z) * noise
        return torch.stack([*stages[:-1], self.classifier(z).softmax(-1)])

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        """The step of a network, the others being elsewhere; all are alike."""
        return [partial(self.parts.dry_run, settings, range(1))]

    def _stage(
        self, t: int, settings: RivalSettings, num_steps: int, classifier: Callable[[], Learner[nn.Linear]]
    ) -> Stage[Pair]:
        def learners() -> Pair:
            network = self.parts.network(range(t - 1, t), settings.derive_seed("init", t))
            return settings.learner(f"step-{t}", network, num_steps), classifier()

        def end(pair: Pair) -> None:
            network = pair[0].freeze()
            self.networks[t - 1 :] = [network.cpu()]  # no other network needs it
            self.classifier = None
            if t == self.num_steps:
                self.classifier = pair[1].freeze()
                for one in self.networks:
                    one.to(settings.device)

        return Stage(
            part=f"step-{t}",
            costs=(settings.batch_size,) * num_steps,
            learners=learners,
            lessons=lambda pair, batch: [self.parts.lesson(*pair, batch.labels, self._inputs(t, batch))],
            end=end,
        )

    def _inputs(self, t: int, batch: Sampled) -> Inputs:
        """Of step ``t``, 1 .. T: z_(t-1) and z_T are drawn apart."""
        parts, n = self.parts, len(batch.labels)
        rows = parts.table.to(batch.labels.device)[batch.labels]
        alpha_bar = parts.alpha_bar(parts.times(self.num_steps))
        z = noised(rows, alpha_bar[t - 1], batch.generator)
        weight = rows.new_full((n,), float(self.weights[t - 1]))
        return Inputs(batch.images, z, rows.new_zeros(n), parts.end(batch.labels, batch.generator), weight)


class NoPropCT:
    """A ``Classifier``: NoProp-CT, one network that is told the time.

    Its squared error is weighted by ``eta SNR'(t) / 2`` at times t drawn from [0, 1], as Equation 8 is in the limit of
    many steps. One step costs ``batch_size`` layer evaluations, and a prediction ``num_steps`` with ``"euler"``,
    twice as many with ``"heun"``. Stage i is what the network answers at time ``i / num_steps``, and the last stage
    what the classifier says of z_1.

    Args:
        config: of the network; its ``depth`` is 1.
        num_steps, solver: of ``follow``; 1000 steps in the paper.
        table, eta, offset, noise_seed: see ``NoPropParts``.
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
            raise ValueError(f"num_steps={num_steps} is too small; use 1 or more")
        if solver not in get_args(Solver):
            raise ValueError(f"solver={solver!r} is unknown; use one of {', '.join(get_args(Solver))}")
        rows = torch.eye(config.num_classes) if table is None else table
        self.parts = NoPropParts(replace(config, levels=True), rows, eta, offset, noise_seed)
        self.num_steps = num_steps
        self.solver = solver
        self.network: NoisyCNN | None = None
        self.classifier: nn.Linear | None = None

    @property
    def evaluation_layers(self) -> int:
        return self.num_steps * (2 if self.solver == "heun" else 1)

    def describe(self) -> Mapping[str, object]:
        return self.parts.describe()

    def stages(self, source: Source, settings: RivalSettings, augmented: bool = False) -> Sequence[Stage[Any]]:
        parts, config = self.parts, self.parts.config
        check_source(source, config.channels, config.image_size, config.num_classes)
        num_steps = affordable_steps(settings.budget, settings.batch_size)

        def learners() -> Pair:
            network = parts.network(range(1), settings.derive_seed("init", 0))
            return settings.learner("network", network, num_steps), parts.classifier(settings, num_steps)

        def end(pair: Pair) -> None:
            self.network, self.classifier = pair[0].freeze(), pair[1].freeze()

        stage = Stage(
            part="network",
            costs=(settings.batch_size,) * num_steps,
            learners=learners,
            lessons=lambda pair, batch: [parts.lesson(*pair, batch.labels, self._inputs(batch))],
            end=end,
        )
        return [stage]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        check_trained(self.name, int(self.network is not None), 1)
        network, classifier = self.network, self.classifier
        assert network is not None and classifier is not None
        images = images.to(classifier.weight.device)
        table = self.parts.table.to(images)

        def answer(z: Tensor, time: Tensor) -> Tensor:
            return predict(network, z, time.to(z).expand(len(z)), images)

        z, _ = self.parts.start(images)
        stages, z = follow(answer, z, table, self.parts, self.num_steps, self.solver)
        return torch.stack([*stages[:-1], classifier(z).softmax(-1)])

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        return [partial(self.parts.dry_run, settings, range(1))]

    def _inputs(self, batch: Sampled) -> Inputs:
        """Times, and z at each."""
        parts, n = self.parts, len(batch.labels)
        rows = parts.table.to(batch.labels.device)[batch.labels]
        time = torch.rand(n, generator=batch.generator, dtype=torch.float64)
        z = noised(rows, parts.alpha_bar(time)[:, None], batch.generator)
        weight = 0.5 * parts.eta * cosine_snr_slope(time, parts.offset)
        return Inputs(batch.images, z, time.to(rows), parts.end(batch.labels, batch.generator), weight.to(rows))


def follow(
    answer: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    table: Tensor,
    parts: NoPropParts,
    num_steps: int,
    solver: Solver,
) -> tuple[list[Tensor], Tensor]:
    """From z_0 (n, d) to z_1 (n, d); also what was answered at the start of every step, class probabilities (n, k).

    The flow that keeps Equation 6, derived from it: with the prediction u, ``dz/dt = alpha_bar' / (2 (1 - alpha_bar))
    (u / sqrt(alpha_bar) - z)``. In ``y = z / sqrt(1 - alpha_bar)`` and ``r = sqrt(SNR)`` it reads ``dy/dr = u``, which
    is integrated, in equal steps of t, as it is regular at both ends.

    Args:
        answer: z (n, d) and a time, a scalar -> class probabilities (n, k).
        solver: ``"euler"`` (order 1, also known as DDIM) or ``"heun"`` (order 2, two answers a step).
    """
    times = parts.times(num_steps)
    alpha_bar = parts.alpha_bar(times)
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
