"""Evolution as the update of a block's learner: gradients without a backward pass (``optim.population``).

A population around the block's weights is scored on the batch; its fitness is minus the mean loss. All else is as with
backpropagation: clipping, AdamW, schedule, average, checkpoints. Noise follows from the job and the step, so that a
checkpoint needs nothing more to go on to the same bytes.

Several processes of one block each score some of the members, on the whole batch. They exchange fitness, a number for
each member, and nothing else: each draws the noise of all and finds the same gradients. Members are scored in the same
chunks however many processes there are, so the bytes of the weights do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oneblock.checks import check_choice, check_count, check_fields, check_number
from oneblock.optim.fitness import SHAPINGS, ShapingName, check_population, without_breaks
from oneblock.optim.population import Population, check_chunk, evaluated
from oneblock.plan import Plan
from oneblock.tasks.base import Loss
from oneblock.train.learner import Losses
from oneblock.train.parallel import ALONE, Ranks
from oneblock.train.step import JobSpec

UpdateName = Literal["backpropagation", "evolution"]
FITNESS = torch.float32


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """How gradients are found; a plan holds these only where it is by evolution.

    Args:
        population: members that are scored in every step; even.
        weight_noise: standard deviation of what a member adds to every weight.
        noise_rank: of what it adds to a matrix; 0 is full rank.
        shaping: how fitness becomes weights (``optim.fitness``).
        chunk: members that are scored at once: even, or 1. Memory grows with it, and the last bits of a loss may depend
            on it, so that it is part of the plan.
    """

    update: UpdateName = "backpropagation"
    population: int = 256
    weight_noise: float = 0.02
    noise_rank: int = 1
    shaping: ShapingName = "z-score"
    chunk: int = 16

    def __post_init__(self) -> None:
        check_fields(self)
        check_population(self.population, 0)
        check_number("weight_noise", self.weight_noise, above=0)
        check_count("noise_rank", self.noise_rank, 0)
        check_choice("shaping", self.shaping, SHAPINGS)
        check_count("chunk", self.chunk)
        check_chunk(self.chunk)


def plan_update(plan: Plan) -> UpdateSettings:
    """What a plan's recipe says of its update."""
    names = [field.name for field in fields(UpdateSettings) if field.name in plan.recipe]
    values: dict[str, Any] = {name: plan.recipe[name] for name in names}
    return UpdateSettings(**values)


class EvolutionUpdate:
    """An ``Update`` (``train.learner``) by a population around the trained weights of the networks.

    Args:
        seed: of the noise.
        ranks: the processes that score the members together.

    Raises:
        ValueError: there are fewer chunks than processes.
    """

    def __init__(self, settings: UpdateSettings, seed: int, ranks: Ranks = ALONE) -> None:
        chunks = -(-settings.population // settings.chunk)
        if chunks < ranks.size:
            raise ValueError(
                f"population={settings.population} in chunks of {settings.chunk} is too few for {ranks.size} "
                "processes; use a smaller chunk, a larger population or fewer processes"
            )
        self.settings, self.seed, self.ranks = settings, seed, ranks

    @property
    def exchanged(self) -> int:
        """Bytes that a process sends in a step, before the backend's own: the fitness of all members."""
        return self.settings.population * FITNESS.itemsize if self.ranks.size > 1 else 0

    @torch.no_grad()
    def __call__(self, networks: Sequence[nn.Module], losses: Sequence[Losses], samples: int, step: int) -> Loss:
        population = self._population(networks)
        with evaluated(networks):
            fitness = self._fitness(population, losses, samples, step)
            found = [part() for part in losses]
        population.leave_gradients(step, without_breaks(fitness))
        return Loss(torch.cat([one.weighted for one in found]), torch.cat([one.plain for one in found]))

    def _population(self, networks: Sequence[nn.Module]) -> Population:
        settings = self.settings
        named = [(f"{i}.{name}", p) for i, network in enumerate(networks) for name, p in network.named_parameters()]
        return Population(
            {name: p for name, p in named if p.requires_grad},
            size=settings.population,
            sigma=settings.weight_noise,
            rank=settings.noise_rank,
            chunk=settings.chunk,
            shaping=settings.shaping,
            seed=self.seed,
        )

    def _fitness(self, population: Population, losses: Sequence[Losses], samples: int, step: int) -> Tensor:
        """Of all members (N,); this process scores every ``size``-th chunk."""
        device = next(iter(population.parameters.values())).device
        fitness = torch.zeros(population.size, dtype=FITNESS, device=device)
        for members in population.chunks[self.ranks.rank :: self.ranks.size]:
            for part in losses:
                scores = population.each(partial(_weighted, part), step, members)
                fitness[members.start : members.stop] -= scores.to(FITNESS).sum(1) / samples
        return self.ranks.sum(fitness)


def _weighted(part: Losses, given: None) -> Tensor:
    return part().weighted


def job_update(plan: Plan, spec: JobSpec, ranks: Ranks = ALONE) -> EvolutionUpdate | None:
    """The update of a job of ``plan``; None is backpropagation.

    Raises:
        ValueError: the processes share out weights, or are too many.
    """
    settings = plan_update(plan)
    if settings.update == "backpropagation":
        return None
    if ranks.kind == "fsdp":
        raise ValueError(
            f"{spec.name}: update='evolution' shares out members, and not weights (parallel='fsdp'); use parallel='ddp'"
        )
    return EvolutionUpdate(settings, plan.derive_seed("evolution", spec.stream), ranks)
