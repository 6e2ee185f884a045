"""What every rival gives to a comparison, and the update that all of them share.

A rival is another way to train: a classifier of images without a backward pass through the whole network, or a network
of recurrent depth by backpropagation through time. Work is counted as everywhere here, in layer evaluations: one layer
on one sample, forward. A pass through frozen layers that only makes the inputs of the trained ones counts too; heads
and stems do not.

Every random number follows from (settings.seed, its use, part, step), so that two runs of one seed are equal bit for
bit. The trained weights are the averages of ``optim.ema``: later parts are trained on them, and they are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from oneblock.data import Augment, Batches, Source
from oneblock.memory import DryRun, PeakBytes, peak_bytes
from oneblock.optim.adamw import make_adamw, make_state, set_learning_rate
from oneblock.optim.ema import ema_beta, ema_update
from oneblock.optim.schedule import learning_rate_factor
from oneblock.plan import derive_seed
from oneblock.train.learner import NonFiniteError
from oneblock.train.step import OptimizerSettings
from oneblock.train.strategy import Budget

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class RivalSettings:
    """What all rivals of a comparison have in common; see ``train.step.OptimizerSettings`` and
    ``train.strategy.Budget``.

    Args:
        budget: layer evaluations of the whole training.
        batch_size: samples per step.
        learning_rate, weight_decay, beta1, beta2, clip, ema_gamma, precision: of every part that is trained.
        warmup, hold: fractions of a part's steps.
        seed: of initial weights, order of the data, augmentation and noise.
        device: where everything is trained.
    """

    budget: int
    batch_size: int
    learning_rate: float = OptimizerSettings.learning_rate
    weight_decay: float = OptimizerSettings.weight_decay
    beta1: float = OptimizerSettings.beta1
    beta2: float = OptimizerSettings.beta2
    clip: float = OptimizerSettings.clip
    warmup: float = Budget.warmup
    hold: float = Budget.hold
    seed: int = 0
    ema_gamma: float = OptimizerSettings.ema_gamma
    precision: Literal["fp32", "bf16"] = OptimizerSettings.precision
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("warmup", "hold"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not a fraction; use 0 up to (not including) 1")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is no batch; use 1 or more")

    def derive_seed(self, *parts: int | str) -> int:
        """A 63-bit seed from ``seed`` and any names and numbers: an independent stream for each use, part and step."""
        return derive_seed(self.seed, *parts)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass in ``precision``."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True, kw_only=True)
class RivalReport:
    """What one step did: ``step`` (1-based) of ``num_steps`` of the whole training, the mean ``loss`` of its batch, and
    this step's layer evaluations."""

    part: str
    step: int
    num_steps: int
    loss: float
    layer_evaluations: int


class Countable(Protocol):
    """What has training steps whose memory can be counted."""

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        """One training step of each kind on empty samples, for ``memory.peak_bytes``."""


class Rival(Countable, Protocol):
    """A way to train a classifier of images."""

    @property
    def name(self) -> str:
        """Of the method, for tables."""

    @property
    def evaluation_layers(self) -> int:
        """Layer evaluations of one prediction, all stages together."""

    def steps(self, source: Source, settings: RivalSettings, augment: Augment | None = None) -> Iterator[RivalReport]:
        """Train from scratch; yields after every step.

        Raises:
            ValueError: the data do not fit the network, or the budget does not pay for a step of every part.
            NonFiniteError: before the update.
        """

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (stages, n, k) of ``images`` (n, c, h, w) after every stage (a block, a layer, a
        denoising step); the last is the answer. A rival that is not trained to its end is a ``ValueError``."""


def training_peak(rival: Countable, settings: RivalSettings, real: bool = False) -> PeakBytes:
    """Peak bytes of the costliest training step of ``rival``, counted without running it (``memory.peak_bytes``)."""
    here = replace(settings, device="cpu")
    return max((peak_bytes(setup, real) for setup in rival.dry_runs(here)), key=lambda peak: peak.total)


class Learner(Generic[Part]):
    """One part in training: its weights, their average, and AdamW's moments.

    Args:
        part: its name in reports and errors.
        module: trained as a whole; goes to ``settings.device``.
        num_steps: updates that the schedule of the learning rate is stretched over.
    """

    def __init__(self, part: str, module: Part, settings: RivalSettings, num_steps: int) -> None:
        self.part = part
        if any(p.device != torch.device(settings.device) for p in module.parameters()):
            module.to(settings.device)  # which fake tensors that are there already do not allow
        self.module = module.train()
        self.settings = settings
        self.num_steps = num_steps
        self.step = 0
        self.weights: dict[str, Tensor] = dict(module.named_parameters())
        self.averages = {name: p.detach().clone() for name, p in self.weights.items()}
        self.optimizer = make_adamw(
            self.weights.values(),
            learning_rate=settings.learning_rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            weight_decay=settings.weight_decay,
        )

    def clip(self) -> Tensor:
        """Clip the gradients at hand; their norm before."""
        return torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.settings.clip)

    def update(self) -> None:
        """One AdamW step with the gradients at hand, then the weight average."""
        settings, total = self.settings, self.num_steps
        warmup = max(1, round(settings.warmup * total))
        factor = learning_rate_factor(self.step, total, warmup, round(settings.hold * total))
        set_learning_rate(self.optimizer, settings.learning_rate * factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        ema_update(self.averages, self.weights, ema_beta(self.step, settings.ema_gamma))

    @torch.no_grad()
    def freeze(self) -> None:
        """Training is over: the averages become the weights, without gradients from here on."""
        for name, p in self.weights.items():
            p.copy_(self.averages[name])
        self.module.requires_grad_(False).eval()


def backward(losses: Tensor, *learners: Learner[Any]) -> Tensor:
    """Gradients of the mean of ``losses`` (n,), clipped for each learner apart; the norms before clipping."""
    (losses.sum() / len(losses)).backward()
    return torch.stack([learner.clip() for learner in learners])


def update_on(losses: Tensor, *learners: Learner[Any]) -> None:
    """Update ``learners`` on ``losses`` (n,), whatever the numbers are: for ``dry_run``."""
    backward(losses, *learners)
    for learner in learners:
        learner.update()


def train_on(losses: Tensor, *learners: Learner[Any]) -> float:
    """Update ``learners`` on ``losses`` (n,), one per sample; their mean.

    Raises:
        NonFiniteError: before the update.
    """
    norms = backward(losses, *learners)
    loss, sizes = float(losses.detach().sum() / len(losses)), norms.tolist()
    if not all(map(math.isfinite, (loss, *sizes))):
        first = learners[0]
        raise NonFiniteError(
            f"{first.part}: loss {loss}, gradient norms {sizes} at step {first.step}; lower the learning rate "
            f"({first.settings.learning_rate}) or look at the data"
        )
    for learner in learners:
        learner.update()
    return loss


@dataclass(frozen=True)
class Sampled:
    """A training batch on its device: images (n, c, h, w), labels (n,), and the generator of what else is random."""

    images: Tensor
    labels: Tensor
    generator: torch.Generator


def draw(
    source: Batches, settings: RivalSettings, part: str, step: int, augment: Augment | None, views: int = 1
) -> Sampled:
    """The batch of one step of ``part``, and the stream of its noise; depends on nothing else.

    With ``augment`` there may be several ``views`` of the batch, one after the other.
    """
    images, labels = source.batch(step, settings.batch_size, settings.derive_seed("data", part))
    generator = torch.Generator().manual_seed(settings.derive_seed("noise", part, step))
    if augment is not None:
        images = torch.cat([augment(images, generator) for _ in range(views)])
        labels = labels.repeat(views)
    return Sampled(images.to(settings.device), labels.to(settings.device), generator)


def empty_batch(settings: RivalSettings, channels: int, image_size: int) -> tuple[Tensor, Tensor]:
    """Images and labels of one step, without content."""
    images = torch.empty(settings.batch_size, channels, image_size, image_size, device=settings.device)
    return images, torch.zeros(settings.batch_size, dtype=torch.long, device=settings.device)


def dry_run(
    learners: Sequence[Learner[Any]], held: Iterable[Tensor], step: Callable[[], None], frozen: Iterable[nn.Module] = ()
) -> DryRun:
    """What ``memory.peak_bytes`` counts of a ``step`` of ``learners``, with ``frozen`` modules and other tensors at
    hand. Moments of all but the first learner count as other tensors."""
    others = [*held, *(t for learner in learners for t in learner.averages.values())]
    for learner in learners[1:]:
        make_state(learner.optimizer)
        others += [t for state in learner.optimizer.state.values() for t in state.values()]
    modules = nn.ModuleList([*frozen, *(learner.module for learner in learners)])
    return DryRun(modules, learners[0].optimizer, tuple(others), step)


def affordable_steps(budget: int, cost: int) -> int:
    """How many steps of ``cost`` layer evaluations ``budget`` pays for, to the nearest; none is a ``ValueError``."""
    steps = round(budget / cost)
    if steps < 1:
        raise ValueError(f"budget={budget} does not pay for one step of every part; use {cost} or more, or less batch")
    return steps


def check_source(source: Source, channels: int, image_size: int, num_classes: int) -> None:
    """Refuse data that the network does not fit."""
    if source.shape != (channels, image_size, image_size):
        raise ValueError(
            f"images of {source.name} have shape {source.shape}; the network takes {(channels, image_size, image_size)}"
        )
    if len(source.classes) > num_classes:
        raise ValueError(
            f"num_classes={num_classes} is too small; {source.name} has {len(source.classes)} classes, use that number"
        )


def check_trained(name: str, done: int, parts: int) -> None:
    """Refuse to predict before training has ended."""
    if done < parts:
        raise ValueError(f"{name} has trained {done} of {parts} parts; go through steps() to its end first")


def seeded(build: Callable[[], Part], seed: int) -> Part:
    """What ``build`` makes when the default generator starts from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
