"""One optimizer step of one block: denoise, weigh, accumulate, clip, update, average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser
from oneblock.optim.ema import ema_beta, ema_update
from oneblock.optim.schedule import learning_rate_factor
from oneblock.tasks.base import Batch, Loss
from oneblock.tasks.image import ImageGeneration
from oneblock.train.parallel import ALONE, Ranks


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; the message names block, band and step."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW, clipping and averaging; the same for every block.

    Args:
        learning_rate, weight_decay, beta1, beta2: AdamW's; only matrices decay.
        clip: largest gradient norm.
        accumulate: micro-batches that one batch is cut into.
        ema_gamma: exponent of the weight average (``optim.ema``); 16.97 is a width of 5 % of the training.
        precision: ``"fp32"``, or ``"bf16"`` for autocast.
    """

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

    ``block`` is None for the seed block of a branched run. Steps count from the start of the job's history: a block
    that starts as a copy of the seed block goes on from ``first_step``.
    """

    name: str
    block: int | None
    layers: range
    band: tuple[float, float]
    batch_size: int
    first_step: int
    last_step: int
    warmup: int
    hold: int


class TrainState:
    """The trained tensors of one job: weights, their average, and AdamW's moments. Nothing of any other block.

    Args:
        ranks: the processes that train the block together; with ``"fsdp"`` this one keeps its shards on ``device``
            (None: where ``denoiser`` is).
        fresh: the job starts; False leaves the averages to ``load``.
    """

    def __init__(
        self,
        spec: JobSpec,
        denoiser: BlockDenoiser,
        settings: OptimizerSettings,
        ranks: Ranks = ALONE,
        device: torch.device | None = None,
        fresh: bool = True,
    ) -> None:
        pieces = ranks.size * settings.accumulate
        if spec.batch_size < pieces:
            raise ValueError(
                f"{spec.name}: a batch of {spec.batch_size} cannot be cut for {ranks.size} processes x "
                f"accumulate={settings.accumulate}; use a batch of {pieces} or more, or fewer parts"
            )
        self.spec = spec
        self.denoiser = denoiser
        self.settings = settings
        self.ranks = ranks
        self.network: nn.Module = ranks.wrap(denoiser, device or _device(denoiser), settings.precision)
        self.step = spec.first_step
        self.weights = dict(denoiser.backbone.named_parameters())
        self.averages = {name: p.detach().clone() for name, p in self.weights.items()} if fresh else {}
        matrices: list[Tensor] = [p for p in self.weights.values() if p.ndim > 1]
        vectors: list[Tensor] = [p for p in self.weights.values() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def to(self, device: torch.device) -> None:
        """Move weights, averages and moments to ``device``, between two steps (there are no gradients then)."""
        self.denoiser.to(device)
        self.averages = {name: t.to(device) for name, t in self.averages.items()}
        for state in self.optimizer.state.values():
            state.update({key: t.to(device) for key, t in state.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Everything that resuming needs, by name; the step is kept apart. Shards are put together, so all processes of
        the block must ask."""
        found = {f"weights/{n}": p.detach() for n, p in self.weights.items()}
        found |= {f"ema/{n}": t for n, t in self.averages.items()}
        for name, p in self.weights.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                if p in self.optimizer.state:
                    found[f"{moment}/{name}"] = self.optimizer.state[p][moment]
        return {name: self.ranks.whole(t) for name, t in found.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Inverse of ``tensors``: bit for bit the state after ``step`` steps. Asks for one tensor after the other."""

        def take(kind: str, name: str, p: Tensor) -> Tensor:
            taken = torch.empty_like(p)
            self.ranks.assign(taken, tensors[f"{kind}/{name}"])
            return taken

        for name, p in self.weights.items():
            self.ranks.assign(p, tensors[f"weights/{name}"])
            self.averages[name] = take("ema", name, p)
            if f"exp_avg/{name}" in tensors:
                moments = {moment: take(moment, name, p) for moment in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = {"step": torch.tensor(float(step), device=p.device), **moments}
        self.step = step


def train_step(state: TrainState, task: ImageGeneration, batch: Batch) -> StepReport:
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
        layer_evaluations=spec.batch_size * len(spec.layers),
    )


def backward(state: TrainState, task: ImageGeneration, batch: Batch) -> tuple[Loss, Tensor]:
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
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    averages, weights = (
        {name: state.ranks.local(t) for name, t in tensors.items()} for tensors in (state.averages, state.weights)
    )
    ema_update(averages, weights, ema_beta(state.step, state.settings.ema_gamma))


def _loss(state: TrainState, task: ImageGeneration, batch: Batch) -> Loss:
    with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=state.settings.precision == "bf16"):
        return task.loss(state.network, batch.noised, batch.targets, batch.context)


def _device(denoiser: BlockDenoiser) -> torch.device:
    return next(denoiser.parameters()).device
