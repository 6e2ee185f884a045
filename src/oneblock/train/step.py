"""One optimizer step of one block: denoise, weigh, accumulate, clip, update, average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser
from oneblock.optim.adamw import AdamWKind, make_adamw, make_state, move_state, set_learning_rate, state_tensors
from oneblock.optim.ema import ema_beta, ema_update
from oneblock.optim.schedule import learning_rate_factor
from oneblock.tasks.base import Batch, Loss, Task
from oneblock.train.parallel import ALONE, Ranks


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; the message names block, band and step."""


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


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did. Losses are batch means; ``layer_evaluations`` counts this step's (forward, batch x layers)."""

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


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A block's share of a plan: which layers, which noise levels, how many samples per step, which steps.

    ``block`` is None for the seed block of a branched run; ``sample_evaluations`` are the layer evaluations of one
    sample. Steps count from the start of the job's history: a block
    that starts as a copy of the seed block goes on from ``first_step``.
    """

    name: str
    block: int | None
    layers: range
    sample_evaluations: int
    band: tuple[float, float]
    batch_size: int
    first_step: int
    last_step: int
    warmup: int
    hold: int

    @property
    def step_evaluations(self) -> int:
        """Layer evaluations of a step."""
        return self.batch_size * self.sample_evaluations

    @property
    def evaluations(self) -> int:
        """Layer evaluations of all steps."""
        return (self.last_step - self.first_step) * self.step_evaluations


class TrainState:
    """The trained tensors of one job: weights, their average, and AdamW's moments. Nothing of any other block.

    Args:
        ranks: the processes that train the block together; with ``"fsdp"`` this one keeps its shards on ``device``
            (None: where ``denoiser`` is).
        fresh: the job starts; False leaves the averages to ``load``.
        compile: pass the optimizer's step through ``torch.compile``, where that makes a difference (``optim.adamw``).
    """

    def __init__(
        self,
        spec: JobSpec,
        denoiser: BlockDenoiser,
        settings: OptimizerSettings,
        ranks: Ranks = ALONE,
        device: torch.device | None = None,
        fresh: bool = True,
        compile: bool = False,
    ) -> None:
        pieces = ranks.size * settings.accumulate
        if spec.batch_size < pieces:
            raise ValueError(
                f"{spec.name}: a batch of {spec.batch_size} cannot be cut for {ranks.size} processes x "
                f"accumulate={settings.accumulate}; use a batch of {pieces} or more, or fewer parts"
            )
        if ranks.kind == "fsdp" and settings.optimizer == "adamw8bit":
            raise ValueError(
                f"{spec.name}: optimizer='adamw8bit' cannot be sharded (parallel='fsdp'): values that share a scale "
                "may lie in two shards; use parallel='ddp' or optimizer='adamw'"
            )
        self.spec = spec
        self.denoiser = denoiser
        self.settings = settings
        self.ranks = ranks
        self.network: nn.Module = ranks.wrap(denoiser, device or _device(denoiser), settings.precision)
        self.step = spec.first_step
        self.weights = dict(denoiser.backbone.named_parameters())
        self.averages = {name: p.detach().clone() for name, p in self.weights.items()} if fresh else {}
        self.optimizer = make_adamw(
            self.weights.values(),
            settings.optimizer,
            learning_rate=settings.learning_rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            weight_decay=settings.weight_decay,
            compile=compile,
        )

    @torch.no_grad()
    def to(self, device: torch.device) -> None:
        """Move weights, averages and moments to ``device``, between two steps (there are no gradients then)."""
        self.denoiser.to(device)
        self.averages = {name: t.to(device) for name, t in self.averages.items()}
        move_state(self.optimizer, device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that resuming needs, by name; the step is kept apart. Shards are put together, so all processes of
        the block must ask."""
        found = {f"weights/{n}": p.detach() for n, p in self.weights.items()}
        found |= {f"ema/{n}": t for n, t in self.averages.items()}
        for name, p in self.weights.items():
            moments = state_tensors(self.optimizer, p)
            found |= {f"{kind}/{name}": t for kind, t in moments.items() if kind != "step"}
        return {name: self.ranks.whole(t) for name, t in found.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Inverse of ``tensors``: bit for bit the state after ``step`` steps. Asks for one tensor after the other."""
        self.optimizer.state.clear()
        if any(name.startswith("exp_avg") for name in tensors):
            make_state(self.optimizer)  # comes first, as it changes weights
        for name, p in self.weights.items():
            self.ranks.assign(p, tensors[f"weights/{name}"])
            self.averages[name] = torch.empty_like(p)
            self.ranks.assign(self.averages[name], tensors[f"ema/{name}"])
            for kind, t in state_tensors(self.optimizer, p).items():
                if kind == "step":
                    t.fill_(step)
                else:
                    self.ranks.assign(t, tensors[f"{kind}/{name}"])
        self.step = step


def train_step(state: TrainState, task: Task, batch: Batch) -> StepReport:
    """Update ``state`` on one batch, or on this process's part of one.

    Raises:
        NonFiniteError: before the update, so the state is still the last good one.
    """
    settings, spec = state.settings, state.spec
    rate = settings.learning_rate * learning_rate_factor(state.step, spec.last_step, spec.warmup, spec.hold)
    loss, norm = backward(state, task, batch)
    sums = state.ranks.sum(torch.stack([loss.weighted.sum(), loss.plain.sum()]))
    weighted, plain = (sums / spec.batch_size).tolist()
    size = float(norm)
    if not (math.isfinite(size) and math.isfinite(weighted)):
        raise NonFiniteError(
            f"{spec.name}: loss {weighted}, gradient norm {size} at step {state.step}, noise band "
            f"[{spec.band[0]:.4g}, {spec.band[1]:.4g}]; the last checkpoint is intact: lower the learning rate "
            f"({settings.learning_rate}) or look at the data"
        )
    update(state, rate)
    return StepReport(
        job=spec.name,
        block=spec.block,
        first_step=spec.first_step,
        step=state.step,
        num_steps=spec.last_step,
        loss=weighted,
        plain=plain,
        grad_norm=size,
        learning_rate=rate,
        layer_evaluations=spec.step_evaluations,
    )


def backward(state: TrainState, task: Task, batch: Batch) -> tuple[Loss, Tensor]:
    """Accumulate and clip gradients; the per-sample loss (detached) and the gradient norm before clipping."""
    state.network.train()
    losses: list[Loss] = []
    parts = batch.split(state.settings.accumulate)
    for part in parts:
        with state.ranks.micro_batch(state.network, last=part is parts[-1]):
            loss = _loss(state, task, part)
            # the processes' gradients are averaged, and the loss is a mean over the batch of all of them
            (loss.weighted.sum() * state.ranks.size / state.spec.batch_size).backward()
        losses.append(Loss(loss.weighted.detach(), loss.plain.detach()))
    norm = state.ranks.whole(torch.nn.utils.clip_grad_norm_(list(state.weights.values()), state.settings.clip))
    return Loss(torch.cat([one.weighted for one in losses]), torch.cat([one.plain for one in losses])), norm


def update(state: TrainState, learning_rate: float) -> None:
    """One AdamW step with the gradients at hand, then the weight average."""
    set_learning_rate(state.optimizer, learning_rate)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    averages, weights = (
        {name: state.ranks.local(t) for name, t in tensors.items()} for tensors in (state.averages, state.weights)
    )
    ema_update(averages, weights, ema_beta(state.step, state.settings.ema_gamma))


def _loss(state: TrainState, task: Task, batch: Batch) -> Loss:
    with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=state.settings.precision == "bf16"):
        return task.loss(state.network, batch.noised, batch.targets, batch.condition)


def _device(denoiser: BlockDenoiser) -> torch.device:
    return next(denoiser.parameters()).device
