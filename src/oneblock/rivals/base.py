"""What a rival is: its stages, in order, with the learners and the losses of each.

A rival is another way to train: a classifier of images without a backward pass through the whole network, or a network
of recurrent depth by backpropagation through time. It says what is trained and when; ``rivals.train`` does the rest, on
the engine of the library (``train.learner``). Work is counted as everywhere here, in layer evaluations: one layer on
one sample, forward. A pass through frozen layers that only makes the inputs of the trained ones counts too; heads and
stems do not.

Every random number follows from (settings.seed, its use, part, step), so that two runs of one seed are equal bit for
bit. The trained weights are the averages of ``optim.ema``: later parts are trained on them, and they are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from oneblock.data import Augment, Batches, Source
from oneblock.memory import DryRun
from oneblock.plan import derive_seed
from oneblock.tasks.base import Loss
from oneblock.train.learner import Learner, Update
from oneblock.train.step import Course, OptimizerSettings
from oneblock.train.strategy import Budget

Module = TypeVar("Module", bound=nn.Module)
Trained = TypeVar("Trained", bound=Sequence[Learner[Any]])
Data = TypeVar("Data", bound=Batches, contravariant=True)


@dataclass(frozen=True, kw_only=True)
class RivalSettings:
    """What all rivals of a comparison have in common.

    Args:
        budget: layer evaluations of the whole training.
        batch_size: samples per step; they are taken whole, without micro-batches.
        optimizer: of every part that is trained.
        warmup, hold: fractions of a part's steps.
        seed: of initial weights, order of the data, augmentation and noise.
        device: where everything is trained.
    """

    budget: int
    batch_size: int
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    warmup: float = Budget.warmup
    hold: float = Budget.hold
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("warmup", "hold"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not a fraction; use 0 up to (not including) 1")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is not a batch size; use 1 or more")
        if self.optimizer.accumulate != 1:
            raise ValueError(f"accumulate={self.optimizer.accumulate}: rivals take their batches whole; use 1")

    def derive_seed(self, *parts: int | str) -> int:
        """A 63-bit seed from ``seed`` and any names and numbers: an independent stream for each use, part and step."""
        return derive_seed(self.seed, *parts)

    def learner(self, name: str, module: Module, num_steps: int, update: Update | None = None) -> Learner[Module]:
        """``module`` in training on the device, with a schedule that is stretched over ``num_steps``; its gradients are
        found by ``update``, by backpropagation if None."""
        if any(p.device != torch.device(self.device) for p in module.parameters()):
            module.to(self.device)  # which fake tensors that are there already do not allow
        course = Course(
            name=name,
            first_step=0,
            last_step=num_steps,
            warmup=max(1, round(self.warmup * num_steps)),
            hold=round(self.hold * num_steps),
        )
        return Learner(course, module, self.optimizer, update=update)


@dataclass(frozen=True)
class Sampled:
    """A training batch on its device: images (n, c, h, w), labels (n,), the generator of what else is random, and the
    step of its part."""

    images: Tensor
    labels: Tensor
    generator: torch.Generator
    step: int = 0


class Lesson(NamedTuple):
    """Losses (n,), one for each sample, with the weights as they are at the call; and the learners that they train."""

    learners: Sequence[Learner[Any]]
    losses: Callable[[], Tensor]

    def loss(self) -> Loss:
        losses = self.losses()
        return Loss(losses, losses)


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[Trained]):
    """One part of a rival's training.

    Args:
        part: its name in reports; also of its directory and of its random streams.
        costs: layer evaluations of each of its steps.
        learners: builds those that it trains; one that goes on from the stage before is the same object.
        lessons: the lessons of a step, in order; each has been learned when the next is asked for.
        end: takes over what was trained, and freezes what is not trained any further.
        views: of each image, where images are changed at random.
    """

    part: str
    costs: Sequence[int]
    learners: Callable[[], Trained]
    lessons: Callable[[Trained, Sampled], Iterable[Lesson]]
    end: Callable[[Trained], None]
    views: int = 1


class Rival(Protocol[Data]):
    """A way to train a network."""

    @property
    def name(self) -> str:
        """Of the method, for tables."""

    def describe(self) -> Mapping[str, object]:
        """All that its training depends on besides settings and data, as values for JSON."""

    def stages(self, source: Data, settings: RivalSettings, augmented: bool = False) -> Sequence[Stage[Any]]:
        """Its training from scratch, in order; nothing is built yet.

        Args:
            augmented: training images are changed at random.

        Raises:
            ValueError: the data do not fit the network, or the budget does not pay for a step of every part.
        """

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        """One training step of each kind on empty samples, for ``memory.peak_bytes``."""


class Classifier(Rival[Source], Protocol):
    """A way to train a classifier of images."""

    @property
    def evaluation_layers(self) -> int:
        """Layer evaluations of one prediction, all stages together."""

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (stages, n, k) of ``images`` (n, c, h, w) after every stage (a block, a layer, a
        denoising step); the last is the answer. A rival that is not trained to its end is a ``ValueError``."""


def draw(
    source: Batches, settings: RivalSettings, part: str, step: int, augment: Augment | None, views: int = 1
) -> Sampled:
    """The batch of one step of ``part``, and the stream of its noise; depends on nothing else.

    With ``augment`` there may be several ``views`` of the batch, one after the other.
    """
    images, labels = source.batch(step, settings.batch_size, settings.derive_seed("data", part))
    if labels is None:  # a text, of which nobody asks them
        labels = torch.zeros(len(images), dtype=torch.int64)
    generator = torch.Generator().manual_seed(settings.derive_seed("noise", part, step))
    if augment is not None:
        images = torch.cat([augment(images, generator) for _ in range(views)])
        labels = labels.repeat(views)
    return Sampled(images.to(settings.device), labels.to(settings.device), generator, step)


def affordable_steps(budget: int, cost: int) -> int:
    """How many steps of ``cost`` layer evaluations ``budget`` pays for, to the nearest; fewer than one is a
    ``ValueError``."""
    steps = round(budget / cost)
    if steps < 1:
        raise ValueError(
            f"budget={budget} does not pay for one step of every part; use {cost} or more, or a smaller batch"
        )
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
        raise ValueError(f"{name} has trained {done} of {parts} parts; go through train_rival() to its end first")


def seeded(build: Callable[[], Module], seed: int) -> Module:
    """What ``build`` makes when the default generator starts from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
