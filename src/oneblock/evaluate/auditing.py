"""How an image generator is audited, and what its samples are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from oneblock.audit.attractors import typical_spread
from oneblock.audit.copies import KAPPA, Known, gaps, kappa_at, known, nearest
from oneblock.audit.cyclic import Reverse, Unit, amplitude
from oneblock.checks import MANY, check_count, check_fields, check_number, check_seed
from oneblock.data import EncodedSource, ImageData, Samples
from oneblock.plan import Plan
from oneblock.presets.codec import fitted_in, plan_codec
from oneblock.presets.data import Data, check_images, plan_images
from oneblock.presets.image import source_captions, source_task
from oneblock.presets.places import located
from oneblock.presets.splits import fitted
from oneblock.tasks.image import ImageGeneration

Told = Literal["class", "nothing"]
"""What a network is told that was trained with classes."""
AMPLITUDES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Usual amplitudes, in units of the median distance of a training image from its nearest other one."""
MOST = 2000
"""Held-out images that samples are compared with, and training images whose distance from the nearest other one is
taken."""
FEWEST = 20
"""Held-out images and chains, without which a share says nothing."""


@dataclass(frozen=True, kw_only=True)
class Auditing:
    """How a model is audited."""

    amplitudes: tuple[float, ...] = ()
    """amplitudes of the cycles (default: four, from the distances between training images)"""
    unit: Unit = "sigma"
    """of --amplitudes: the noise level, its square, or a share of the time steps of DDPM's linear schedule"""
    chains: int = 100
    """chains for each amplitude"""
    cycles: int = 20
    """cycles of a chain"""
    cycle_steps: int = 10
    """steps of the way back in a cycle"""
    start_steps: int = 32
    """steps of the samples that chains start from, and of one-shot samples"""
    reverse: Reverse = "ancestral"
    """sampler of the way back; ancestral and churn draw noise on the way"""
    told: Told = "class"
    """what the network is told: each class in turn, or nothing"""
    kappa: float = KAPPA
    """nearest over next nearest training image below which a sample is a copy; lowered where more than
    --false-positives of the held-out images would pass"""
    false_positives: float = 0.01
    """share of held-out images that may pass as copies, or as members"""
    audit_seed: int = 0
    """seed of all noise"""

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("chains", FEWEST), ("cycles", 1), ("cycle_steps", 2), ("start_steps", 2)):
            check_count(name, getattr(self, name), least, MANY)
        check_number("kappa", self.kappa, above=0, most=1)
        check_number("false_positives", self.false_positives, least=0, below=1)
        check_seed("audit_seed", self.audit_seed, 2**32 - 1)  # it is multiplied before it reaches a generator
        self.sigmas(1.0)

    def sigmas(self, gap: float) -> list[float]:
        """The noise levels of the cycles, ascending; ``gap`` is the unit of the usual ones."""
        if not self.amplitudes:
            return [part * gap for part in AMPLITUDES]
        return sorted({amplitude(value, self.unit) for value in self.amplitudes})


AUDITING = Auditing()
"""The usual way."""


@dataclass(frozen=True)
class Audited:
    """The training images of a model, and images that were never trained."""

    train: EncodedSource
    held_out: EncodedSource


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What samples are compared with, as the network sees it: the different training images, and images that were never
    trained.

    Args:
        known: the training images.
        images: the same (m, ...), and their ``labels`` (m,) if they have any.
        held_out: at most ``MOST`` images that were never trained (k, ...), and ``held_out_labels`` (k,); ``fresh`` are
            the different ones.
        ratios: of the held-out images, nearest over next nearest training image (k,).
        copied: held-out images that are training images too and were left out.
        gap: median distance of a training image from its nearest other one.
        spread: see ``audit.attractors.degenerate``.
        task: what the network is told of labels; None is the plan's.
    """

    known: Known
    images: Tensor
    labels: Tensor | None
    held_out: Tensor
    held_out_labels: Tensor | None
    fresh: Known
    ratios: Tensor
    copied: int
    gap: float
    spread: float
    task: ImageGeneration | None = None

    def kappa(self, auditing: Auditing) -> float:
        """The threshold of copies that holds the share of false positives."""
        return kappa_at(self.ratios, auditing.false_positives, auditing.kappa)


def _encoded(plan: Plan, samples: Samples) -> Samples:
    """Samples as the network of a plan sees them."""
    if fitted_in(plan) is not None and plan.recipe.get("flip"):
        raise ValueError(
            "images were mirrored before a codec was applied, and their mirror images cannot be told from components; "
            "audit a run without flip, or one of pixels"
        )
    return samples._replace(values=plan_codec(plan).encode(samples.values))


def compared(plan: Plan, images: Audited) -> Compared:
    """What samples of a plan's model are compared with.

    Raises:
        ValueError: fewer than ``FEWEST`` held-out images that are not training images too.
    """
    trained, others = (_encoded(plan, source.samples()) for source in (images.train, images.held_out))
    among = known(trained.values, mirror=bool(plan.recipe.get("flip")))
    chosen = _some(len(others.values))
    held_out = others.values[chosen]
    seen = nearest(held_out, among)
    new = seen.distance > 0
    if int(new.sum()) < FEWEST:
        raise ValueError(
            f"{int(new.sum())} held-out images are left that are not training images too; give {FEWEST} or more that "
            "were never trained"
        )
    return Compared(
        known=among,
        images=trained.values[among.first],
        labels=None if trained.labels is None else trained.labels[among.first],
        held_out=held_out[new],
        held_out_labels=None if others.labels is None else others.labels[chosen][new],
        fresh=known(held_out[new]),
        ratios=seen.ratio[new],
        copied=int((~new).sum()),
        gap=float(gaps(among, _some(len(among))).median()),
        spread=typical_spread(trained.values) if trained.values.ndim == 4 else 1.0,
        task=_task(plan, images),
    )


def _task(plan: Plan, images: Audited) -> ImageGeneration:
    """The plan's task; if it is told captions, labels of both splits must count through the same."""
    if source_captions(plan, images.train) != source_captions(plan, images.held_out):
        raise ValueError(
            f"{images.held_out.name} has other captions than {images.train.name}, so that their labels do not agree; "
            "give both as one folder (captions:DIR)"
        )
    return source_task(plan, images.train)


def _some(count: int) -> Tensor:
    """``MOST`` of ``count`` places, drawn from all; all in order if there are no more."""
    if count <= MOST:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MOST]


def audit_splits(plan: Plan, data: Data | None, held_out: Data | None, directory: Path | None = None) -> Audited:
    """The training images of a model, and images that were never trained.

    Args:
        data: the training images, by name or as a Dataset; None is the plan's own.
        held_out: None is the test split of data that have a name.
        directory: of the run or model, which may say where its data lie.

    Raises:
        ValueError: the training images are not those of the plan, or nothing is held out.
    """
    check_held_out(data, held_out)
    place = located(plan, directory, data)
    train = plan_images(plan, "train", place)
    check_images(plan, train)
    test = fitted(plan, plan_images(plan, "test", place if held_out is None else held_out))
    if test.fingerprint() == train.fingerprint():
        raise ValueError(
            f"the held-out images are the training images ({train.name}); give images that were never trained as "
            "held_out=...: they say how many copies there are by chance"
        )
    return Audited(train, test)


def check_held_out(data: Data | None, held_out: Data | None) -> None:
    """Refuse data without a part that was never trained with a ``ValueError``."""
    if held_out is None and not (data is None or isinstance(data, str | ImageData)):
        raise ValueError(
            f"data is a {type(data).__name__}, which has no held-out part; give held_out=... too: images that were "
            "never trained say how many copies there are by chance"
        )
