"""Evolution: training without a backward pass, of any network, for anything that can be scored.

An evolution strategy with perturbations of low rank, EGGROLL (Sarkar et al., "Evolution Strategies at the Hyperscale",
https://arxiv.org/abs/2511.16652). Each step a population of N members, the network plus noise, is scored; the network
moves along the sum of the members' noise weighted by their fitness. Fitness need not be differentiable, nor computed by
torch. The estimated gradient goes through ``p.grad``, so optimizers, schedules, clipping and decay are torch's own.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from oneblock.optim.fitness import Shaping, without_breaks
from oneblock.optim.population import Population, Scaling, evaluated, random_modules

LEARNING_RATE = 5e-3
"""Of the Adam that moves the parameters where no optimizer is given."""
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Generation:
    """What a step of evolution did.

    Args:
        step: steps done.
        mean, best, spread: of the fitness of all members; the spread is its standard deviation.
        broken: members whose fitness was not finite.
        moved: share of the parameters' numbers that changed; None unless ``diagnose`` is on.
        cosine: of the angle between this step's gradient and the last one's; None at first, and without ``diagnose``.
    """

    step: int
    mean: float
    best: float
    spread: float
    broken: int
    moved: float | None = None
    cosine: float | None = None


class Evolution(Generic[Network]):
    """Trains ``network`` by evolution; see the module.

    Members are scored in evaluation mode, without gradients: dropout is off, and norms use the statistics that they
    have kept and do not change them.

    Args:
        network: as it is; it is not rewritten. Parameters that require no gradients do not evolve.
        population: N, even: members 2 i and 2 i + 1 have opposite noise.
        sigma: standard deviation of the noise of every number.
        rank: of the noise of a matrix; 0 is full rank.
        optimizer: over parameters of ``network``; None is Adam with ``LEARNING_RATE``.
        shaping: see ``optim.fitness.Shaping``; ``scaling``: ``optim.population.Scaling``.
        group_size: consecutive members that are given the same part of a batch; 0 gives all members all of it.
        chunk: members evaluated side by side, even; 0 is all, 1 one after the other. It decides about memory, and not
            about noise or update.
        freeze: patterns of names of parameters that do not evolve, ``"*.bias"``.
        seed: noise follows from it and from the number of the step alone.
        diagnose: find ``Generation.moved`` and ``cosine``, which takes a copy of parameters and of gradients.

    Raises:
        ValueError: a setting is not allowed, a pattern fits no parameter, or nothing is left to evolve.
    """

    def __init__(
        self,
        network: Network,
        population: int,
        sigma: float,
        rank: int = 1,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        shaping: Shaping = "z-score",
        scaling: Scaling = "gradient",
        group_size: int = 0,
        chunk: int = 0,
        freeze: Sequence[str] = (),
        seed: int = 0,
        diagnose: bool = False,
    ) -> None:
        self.network = network
        parameters = _evolving(network, freeze)
        self.population = Population(
            parameters,
            size=population,
            sigma=sigma,
            rank=rank,
            chunk=chunk,
            group_size=group_size,
            shaping=shaping,
            scaling=scaling,
            seed=seed,
        )
        self.optimizer = torch.optim.Adam(parameters.values(), LEARNING_RATE) if optimizer is None else optimizer
        self.steps = 0
        """Steps done. Noise follows from it, so that a run that goes on from a checkpoint must set it."""
        self._diagnose = diagnose
        self._last: Tensor | None = None
        self._warned: set[str] = set()
        random = random_modules(network)
        if random:
            self._warn(
                f"{', '.join(random[:3])}: members are evaluated without dropout and with the statistics that norms "
                "have kept, which evolution does not change"
            )

    def step(self, batch: Any, fitness: Callable[[Network, Any], Tensor]) -> Generation:
        """Score every member on ``batch``, and move the parameters.

        Args:
            batch: a tensor, or tuples and dictionaries of tensors. With groups, the first axis is that of the groups.
            fitness: of one member, whose parameters are those of the network while it runs: from the network and its
                batch to a number, or to one for each sample, whose mean counts. Larger is better. Unless ``chunk`` is
                1, it is run for many members at once, and so must consist of torch's functions.
        """
        self._check_batch(batch)
        return self.tell(self._scored(lambda own: self._tensor(fitness(self.network, own)), batch))

    def ask(self, *inputs: Any) -> Any:
        """What every member answers to ``inputs``: the network's output, with a first axis of N members. Score it in
        whatever way, and ``tell``."""
        self._check_batch(inputs)
        chunks = self.population.chunks
        return _joined([self._each(lambda own: self.network(*own), members, inputs) for members in chunks])

    @contextmanager
    def member(self, index: int) -> Iterator[Network]:
        """The network with the parameters of member ``index`` while entered, e.g. for a simulator."""
        with evaluated([self.network]), self.population.member(self.steps, index):
            yield self.network

    def tell(self, fitness: Tensor | Sequence[float]) -> Generation:
        """Move the parameters, given the fitness (N,) of all members.

        Fitness that is not finite counts as the worst finite one (``optim.fitness``). If all members are equally fit,
        nothing moves, with a warning.

        Raises:
            ValueError: it has another length, or no member's fitness is finite.
        """
        found, equal = self._gradients(fitness)
        before = [p.detach().clone() for p in self.population.parameters.values()] if self._diagnose else []
        if not equal:
            self.optimizer.step()
        generation = self._generation(found, before)
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return generation

    def estimate(self, fitness: Tensor | Sequence[float]) -> None:
        """Leave the estimated gradient of ``-fitness`` in ``p.grad`` and move nothing: for a loop of one's own, which
        clips, lets its optimizer step, and counts ``steps``."""
        self._gradients(fitness)

    def _gradients(self, fitness: Tensor | Sequence[float]) -> tuple[Tensor, bool]:
        """Leave them; the fitness as a tensor, and whether all members are equally fit."""
        found = torch.as_tensor(fitness).detach().to(torch.get_default_dtype())
        size = self.population.size
        if found.shape != (size,):
            raise ValueError(f"fitness has shape {tuple(found.shape)}; give one number for each of the {size} members")
        mended = without_breaks(found, self.population.group_size)
        if bool(mended.isnan().any()):
            raise ValueError(
                "the fitness of no member is finite, and nothing can be learned from it; see what the network gives"
            )
        equal = bool((mended == mended[0]).all())
        if equal:
            self._warn(
                f"all members have the fitness {float(mended[0]):g}, and nothing moves; use a finer fitness, or more "
                "noise"
            )
        self.population.leave_gradients(self.steps, mended)
        return found, equal

    def _tensor(self, scores: Any) -> Tensor:
        if isinstance(scores, Tensor) or self.population.chunk == 1:
            return torch.as_tensor(scores)
        raise ValueError(
            f"the fitness of a member is {type(scores).__name__}; return a tensor: a number, or one for each sample. "
            "For scores of other kinds use ask and tell, or chunk=1"
        )

    def _scored(self, work: Callable[[Any], Any], batch: Any) -> Tensor:
        chunks = self.population.chunks
        return torch.cat([_numbers(self._each(work, members, batch)) for members in chunks])

    def _each(self, work: Callable[[Any], Any], members: range, given: Any) -> Any:
        with evaluated([self.network]):
            found = self.population.each(work, self.steps, members, given)
        for name, user in self.population.made.items():
            self._warn(
                f"{name} is given to {user}, which has no form for noise of low rank: every member's whole matrix is "
                "made, which is correct and as slow as noise of full rank"
            )
        return found

    def _check_batch(self, batch: Any) -> None:
        size, group = self.population.size, self.population.group_size
        lengths: set[int] = set()
        tree_map(lambda t: lengths.add(len(t)) if isinstance(t, Tensor) and t.ndim else None, batch)
        if group and lengths != {size // group}:
            raise ValueError(
                f"the batch has first axes of {sorted(lengths)}, but there are {size // group} groups of {group} "
                f"members; give {size // group} parts, one for each group"
            )

    def _generation(self, fitness: Tensor, before: list[Tensor]) -> Generation:
        finite = fitness[fitness.isfinite()]
        moved, cosine = self._diagnosed(before) if self._diagnose else (None, None)
        return Generation(
            step=self.steps + 1,
            mean=float(finite.mean()),
            best=float(finite.max()),
            spread=float(finite.std(correction=0)),
            broken=len(fitness) - len(finite),
            moved=moved,
            cosine=cosine,
        )

    def _diagnosed(self, before: list[Tensor]) -> tuple[float, float | None]:
        parameters = list(self.population.parameters.values())
        changed = sum(int((p != old).sum()) for p, old in zip(parameters, before, strict=True))
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        last, self._last = self._last, gradient
        cosine = None if last is None else float(torch.cosine_similarity(gradient, last, dim=0))
        return changed / gradient.numel(), cosine

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=_callers() + 1)


def _callers() -> int:
    """Frames from the caller of this function out to the code that uses the package."""
    count, frame = 0, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("oneblock"):
        count, frame = count + 1, frame.f_back
    return count


def _evolving(network: nn.Module, freeze: Sequence[str]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError(
            f"{type(network).__name__} has no parameters that require gradients; there is nothing to evolve"
        )
    for pattern in freeze:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ValueError(
                f"freeze={pattern!r} fits none of {', '.join(list(named)[:4])}, ...; use a name, or * for part of one"
            )
    left = {name: p for name, p in named.items() if not any(fnmatchcase(name, pattern) for pattern in freeze)}
    if not left:
        raise ValueError(f"freeze={list(freeze)} leaves no parameter to evolve; freeze fewer")
    return left


def _numbers(scores: Tensor) -> Tensor:
    """One for each member of what a fitness function gave, (members,) or (members, samples)."""
    if scores.ndim > 2:
        raise ValueError(
            f"the fitness of a member has shape {tuple(scores.shape[1:])}; return a number, or one for each sample"
        )
    scores = scores.to(torch.get_default_dtype())
    return scores.mean(1) if scores.ndim == 2 else scores


def _joined(answers: list[Any]) -> Any:
    first, *_ = answers
    if isinstance(first, Tensor):
        return torch.cat(answers)
    if isinstance(first, dict):
        return {key: _joined([one[key] for one in answers]) for key in first}
    return tuple(_joined(list(parts)) for parts in zip(*answers, strict=True))
