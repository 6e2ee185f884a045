"""What training steps take and what they report: settings, the steps of a job, a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from oneblock.checks import check_count, check_fields, check_number
from oneblock.optim.adamw import AdamWKind
from oneblock.optim.schedule import learning_rate_factor

TRUNK = "trunk"
"""The job of a branched run's trunk: the block that is trained first, on the whole noise range, and that all others
start as copies of."""
OLD_TRUNK = "seed"
"""Its name, and its directory's, in runs of earlier versions; still that of its random stream, so that a plan gives the
same tensors as ever."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW, clipping and averaging; the same for every block.

    Args:
        optimizer: how AdamW stores its moments (``optim.adamw``): in 32 bits, or with ``"adamw8bit"`` in 8.
        learning_rate, weight_decay, beta1, beta2: AdamW's; only matrices decay.
        clip: largest gradient norm.
        accumulate: micro-batches that one batch is cut into.
        ema_gamma: exponent of the weight average (``optim.ema``); 16.97 is a width of 5 % of the training.
        precision: ``"fp32"``, or ``"bf16"`` for autocast.

    Raises:
        ValueError: a value that an optimizer cannot work with.
    """

    optimizer: AdamWKind = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0
    accumulate: int = 1
    ema_gamma: float = 16.97
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("learning_rate", "clip"):
            check_number(name, getattr(self, name), above=0)
        for name in ("weight_decay", "ema_gamma"):
            check_number(name, getattr(self, name), least=0)
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), least=0, below=1)
        check_count("accumulate", self.accumulate)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass in ``precision``."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True, kw_only=True)
class Course:
    """The steps of a learner, from ``first_step`` to ``last_step``, and its schedule over them.

    Steps count from the start of its history: one that starts as a trained copy goes on from ``first_step``.

    Args:
        name: in reports and errors.
        warmup, hold: of ``optim.schedule``, in steps.
    """

    name: str
    first_step: int
    last_step: int
    warmup: int
    hold: int

    @property
    def where(self) -> str:
        """What an error says of it besides its name and step."""
        return ""

    def rate_factor(self, step: int) -> float:
        """Of the learning rate at ``step`` (0-based)."""
        return learning_rate_factor(step, self.last_step, self.warmup, self.hold)


@dataclass(frozen=True, kw_only=True)
class JobSpec(Course):
    """A block's share of a plan: which layers, which noise levels, how many samples per step, which steps.

    Args:
        block: None for the trunk of a branched run.
        sample_evaluations: layer evaluations of one sample.
        thirds: work of a step in thirds of a pass forward and backward (``Plan.step_thirds``).
        before: layers of the block whose states it learns to go on from (``Plan.in_order``); empty where there is none.
    """

    block: int | None
    layers: range
    sample_evaluations: int
    band: tuple[float, float]
    batch_size: int
    thirds: int = 3
    before: range = range(0)

    @property
    def where(self) -> str:
        return f", noise band [{self.band[0]:.4g}, {self.band[1]:.4g}]"

    @property
    def stream(self) -> str:
        """Names the random numbers of the job."""
        return OLD_TRUNK if self.name == TRUNK else self.name

    @property
    def step_evaluations(self) -> int:
        """Layer evaluations of a step, rounded down."""
        return self.work(1)

    @property
    def evaluations(self) -> int:
        """Layer evaluations of all steps."""
        return self.work(self.last_step - self.first_step)

    def work(self, steps: int) -> int:
        """Layer evaluations of so many steps, rounded down."""
        return steps * self.batch_size * self.sample_evaluations * self.thirds // 3


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did. Losses are batch means; ``layer_evaluations`` (forward, batch x layers) are this step's, and
    ``work`` those of the job from its first step on. ``latest`` says that no later step has been taken yet; such a
    report may have ``more`` numbers, of networks whose calls hand states on."""

    job: str
    block: int | None
    first_step: int
    step: int
    num_steps: int
    loss: float
    plain: float
    grad_norm: float
    learning_rate: float
    layer_evaluations: int
    work: int
    latest: bool = True
    more: Mapping[str, float] = field(default_factory=dict)
