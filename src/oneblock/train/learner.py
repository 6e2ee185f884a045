"""The engine of all training: weights, their average, AdamW's moments, and an update that finds gradients.

One step, for a block of ours and for a rival alike: the update leaves gradients, which are clipped; if the loss and the
gradients' norm are finite, AdamW moves the weights and the average follows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from oneblock.optim.adamw import make_adamw, make_state, move_state, set_learning_rate, state_tensors
from oneblock.optim.ema import ema_beta, ema_update
from oneblock.tasks.base import Loss
from oneblock.train.layout import checkpoint_misfit, not_finite, trained_parameters
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.step import Course, OptimizerSettings

Module = TypeVar("Module", bound=nn.Module)
Losses = Callable[[], Loss]
"""The losses of one micro-batch, computed with the weights as they are at the call."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; the message names the learner, its step, and the noise band if it has one."""


class Update(Protocol):
    """How gradients are found; ``Backpropagation`` is one way."""

    def __call__(self, networks: Sequence[nn.Module], losses: Sequence[Losses], samples: int, step: int) -> Loss:
        """Leave in ``p.grad`` of every trained parameter the gradient of the sum of all losses divided by ``samples``.

        Args:
            networks: those whose weights the losses depend on and that are trained.
            losses: of each micro-batch, in order; each may be asked for more than once.
            samples: in the batch of all processes.
            step: 0-based; what is random must follow from it, so that a resumed run repeats it.

        Returns:
            The losses of each sample (n,), without a graph.
        """


@dataclass(frozen=True)
class Backpropagation:
    """An ``Update``: one backward pass for each micro-batch, whose gradients add up.

    Args:
        ranks: the processes that share the batch.
    """

    ranks: Ranks = ALONE

    def __call__(self, networks: Sequence[nn.Module], losses: Sequence[Losses], samples: int, step: int) -> Loss:
        found: list[Loss] = []
        for i, part in enumerate(losses, 1):
            with ExitStack() as contexts:
                for network in networks:
                    contexts.enter_context(self.ranks.micro_batch(network, last=i == len(losses)))
                loss = part()
                # the processes' gradients are averaged, and the loss is a mean over the batch of all of them
                (loss.weighted.sum() * self.ranks.size / samples).backward()
            found.append(Loss(loss.weighted.detach(), loss.plain.detach()))
        return Loss(torch.cat([one.weighted for one in found]), torch.cat([one.plain for one in found]))


class Learner(Generic[Module]):
    """One network in training: its weights, their average, AdamW's moments, and nothing of any other network.

    Args:
        course: its steps and schedule.
        module: the network. Its parameters that need no gradient are frozen: they have no moments and no average, and
            no file holds them.
        trained: the part of it whose parameters are trained and named; all of it if None.
        network: what runs its forward pass, ``module`` as several processes share it; ``module`` itself if None.
        update: how its gradients are found; backpropagation if None.
        ranks: the processes that train it together.
        compile: pass the optimizer's step through ``torch.compile``, where that makes a difference (``optim.adamw``).
    """

    def __init__(
        self,
        course: Course,
        module: Module,
        settings: OptimizerSettings,
        *,
        trained: nn.Module | None = None,
        network: nn.Module | None = None,
        update: Update | None = None,
        ranks: Ranks = ALONE,
        compile: bool = False,
    ) -> None:
        self.course = course
        self.module = module
        self.settings = settings
        self.network: nn.Module = module if network is None else network
        self.update: Update = Backpropagation(ranks) if update is None else update
        self.ranks = ranks
        self.step = course.first_step
        self.weights: dict[str, Tensor] = {**trained_parameters(module if trained is None else trained)}
        if not self.weights:
            raise ValueError(
                f"{course.name}: all parameters of {type(module).__name__} are frozen, and nothing is left to train; "
                "set requires_grad of some"
            )
        self.averages = {name: p.detach().clone() for name, p in self.weights.items()}
        self.optimizer = make_adamw(
            self.weights.values(),
            settings.optimizer,
            learning_rate=settings.learning_rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            weight_decay=settings.weight_decay,
            compile=compile,
        )

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.settings.learning_rate * self.course.rate_factor(self.step)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass in the precision of the settings."""
        return self.settings.autocast(next(iter(self.weights.values())).device)

    def clip(self) -> Tensor:
        """Clip the gradients at hand; their norm before."""
        return self.ranks.whole(torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.settings.clip))

    def apply(self) -> None:
        """One AdamW step with the gradients at hand, then the weight average."""
        set_learning_rate(self.optimizer, self.learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        averages, weights = (
            {name: self.ranks.local(t) for name, t in tensors.items()} for tensors in (self.averages, self.weights)
        )
        ema_update(averages, weights, ema_beta(self.step, self.settings.ema_gamma))

    @torch.no_grad()
    def freeze(self) -> Module:
        """Training is over: the averages become the weights, without gradients from here on."""
        for name, p in self.weights.items():
            p.copy_(self.averages[name])
        self.module.requires_grad_(False).eval()
        return self.module

    @torch.no_grad()
    def to(self, device: torch.device) -> None:
        """Move weights, averages and moments to ``device``, between two steps (there are no gradients then)."""
        self.module.to(device)
        self.averages = {name: t.to(device) for name, t in self.averages.items()}
        move_state(self.optimizer, device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that resuming needs, by name; the step is kept apart. Shards are put together, so all processes
        must ask."""
        found = {f"weights/{n}": p.detach() for n, p in self.weights.items()}
        found |= {f"ema/{n}": t for n, t in self.averages.items()}
        for name, p in self.weights.items():
            moments = state_tensors(self.optimizer, p)
            found |= {f"{kind}/{name}": t for kind, t in moments.items() if kind != "step"}
        return {name: self.ranks.whole(t) for name, t in found.items()}

    def misfit(self, tensors: Mapping[str, Tensor]) -> str:
        """Why ``tensors`` are not those of this learner; empty if they are."""
        return checkpoint_misfit(tensors, self.weights, self.settings.optimizer)

    def check_finite(self) -> None:
        """Refuse to go on, or to be saved, with weights or moments that are not finite (``NonFiniteError``)."""
        named = {**self.weights, **{f"ema/{name}": t for name, t in self.averages.items()}}
        bad = not_finite((name, self.ranks.local(t.detach())) for name, t in named.items())
        if bad:
            raise NonFiniteError(
                f"{self.course.name}: weights {', '.join(bad[:3])} are not finite after step {self.step}, which is not "
                f"saved; what was saved before is intact: lower the learning rate ({self.settings.learning_rate})"
            )

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Inverse of ``tensors``: bit for bit the state after ``step`` steps. Asks for one tensor after the other."""
        self.optimizer.state.clear()
        if any(name.startswith("exp_avg") for name in tensors):
            make_state(self.optimizer)  # comes first, as it changes weights
        for name, p in self.weights.items():
            self.ranks.assign(p, tensors[f"weights/{name}"])
            self.ranks.assign(self.averages[name], tensors[f"ema/{name}"])
            state = state_tensors(self.optimizer, p)
            moments = {f"{kind}/{name}": t for kind, t in state.items() if kind != "step"}
            if moments.keys() - tensors.keys():  # it has never had a gradient, and so no moments
                del self.optimizer.state[p]
                continue
            if "step" in state:
                state["step"].fill_(step)
            for key, t in moments.items():
                self.ranks.assign(t, tensors[key])
        self.step = step


@dataclass(frozen=True)
class Learned:
    """What a step did: the steps done after it; mean losses of its batch, with weights and without; the norm of each
    learner's gradients before clipping; and the learning rate of the first."""

    step: int
    loss: float
    plain: float
    norms: tuple[float, ...]
    learning_rate: float


def learn(learners: Sequence[Learner[Any]], losses: Sequence[Losses], samples: int) -> Learned:
    """One step of ``learners`` on one batch.

    Args:
        learners: those that ``losses`` train; the first one's update finds the gradients of all.
        losses, samples: see ``Update``.

    Raises:
        NonFiniteError: before anything moves, so all are still in the last good state.
    """
    first = learners[0]
    rate = first.learning_rate
    found, norms = gradients(learners, losses, samples)
    loss, plain = mean_losses(first, found, samples).tolist()
    learned = Learned(first.step + 1, loss, plain, tuple(norms.tolist()), rate)
    check_learned(learners, learned)
    for learner in learners:
        learner.apply()
    return learned


def check_learned(learners: Sequence[Learner[Any]], learned: Learned) -> None:
    """Refuse a step whose loss or gradients are not finite (``NonFiniteError``)."""
    if not all(map(math.isfinite, (learned.loss, *learned.norms))):
        first = learners[0]
        raise NonFiniteError(
            f"{', '.join(one.course.name for one in learners)}: loss {learned.loss}, gradient norm "
            f"{', '.join(map(str, learned.norms))} at step {learned.step - 1}{first.course.where}; what was saved "
            f"before is intact: lower the learning rate ({first.settings.learning_rate}) or look at the data"
        )


def rehearse(learners: Sequence[Learner[Any]], losses: Sequence[Losses], samples: int) -> None:
    """The same step whatever the numbers are: for tensors without content (``memory.DryRun``)."""
    held = gradients(learners, losses, samples)
    mean_losses(learners[0], held[0], samples)
    for learner in learners:
        learner.apply()
    del held  # as ``learn`` holds it, to the end


def mean_losses(learner: Learner[Any], found: Loss, samples: int) -> Tensor:
    """The mean losses (2,) of the batch of all processes, with weights and without."""
    return learner.ranks.sum(torch.stack([found.weighted.sum(), found.plain.sum()])) / samples


def gradients(learners: Sequence[Learner[Any]], losses: Sequence[Losses], samples: int) -> tuple[Loss, Tensor]:
    """Gradients of the mean of ``losses``, clipped for each learner apart; also the losses of each sample, and the
    norms (learners,) before clipping."""
    networks = [learner.network.train() for learner in learners]
    found = learners[0].update(networks, losses, samples, learners[0].step)
    return found, torch.stack([learner.clip() for learner in learners])
