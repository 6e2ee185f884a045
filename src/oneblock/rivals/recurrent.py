"""Truncated backpropagation through time: how a network of recurrent depth is usually trained.

The number of iterations is random, ``r ~ Poisson(exp(tau)) + 1`` with ``tau ~ N(ln m - 1/8, 1/2)``, and gradients go
through the last few of them (Geiping et al., "Scaling up Test-Time Compute with Latent Reasoning", Section 3.3,
https://arxiv.org/abs/2502.05171, with m = 32 and 8 steps back).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.data import Batches
from oneblock.memory import DryRun
from oneblock.models.cache import RecurrentCache
from oneblock.models.gpt import GPTConfig
from oneblock.models.recurrent import RecurrentDepth
from oneblock.rivals.base import Lesson, RivalSettings, Stage, affordable_steps, check_trained, seeded
from oneblock.rivals.peak import dry_run
from oneblock.sample.masked import pick
from oneblock.train.learner import Learner

SPREAD = 0.5
"""Standard deviation of ``tau``."""


def draw_iterations(mean: int, generator: torch.Generator) -> int:
    """Iterations of one step, 1 or more; their expectation is ``mean + 1``."""
    tau = math.log(mean) - SPREAD**2 / 2 + SPREAD * float(torch.randn((), generator=generator))
    return 1 + int(torch.poisson(torch.tensor(math.exp(tau)), generator=generator))


@dataclass
class TruncatedBPTT:
    """A ``Rival``: a language model of recurrent depth. A step costs the layers it goes through, forward.

    Args:
        config: with ``streams="none"``; its depth is that of the recurrence.
        iterations: m above.
        back: iterations that gradients go through.
    """

    config: GPTConfig
    iterations: int = 32
    back: int = 8
    model: RecurrentDepth | None = None

    name = "truncated-bptt"

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.back < 1:
            raise ValueError(f"iterations={self.iterations}, back={self.back}: nothing is trained; use 1 or more")

    def describe(self) -> Mapping[str, object]:
        return {"config": asdict(self.config), "iterations": self.iterations, "back": self.back}

    def stages(self, source: Batches, settings: RivalSettings, augmented: bool = False) -> Sequence[Stage[Any]]:
        counts = self.schedule(settings)

        def end(learners: tuple[Learner[RecurrentDepth]]) -> None:
            self.model = learners[0].freeze()

        stage = Stage(
            part=self.name,
            costs=[settings.batch_size * self._layers(count) for count in counts],
            learners=lambda: (self._learner(settings, len(counts)),),
            lessons=lambda learners, batch: self._lessons(*learners, batch.images, counts[batch.step], batch.generator),
            end=end,
        )
        return [stage]

    def schedule(self, settings: RivalSettings) -> list[int]:
        """Iterations of every step: as many steps as come closest to the budget.

        Raises:
            ValueError: the budget does not pay for an average step.
        """
        affordable_steps(settings.budget, settings.batch_size * self._layers(self.iterations + 1))
        generator = torch.Generator().manual_seed(settings.derive_seed("iterations"))
        counts: list[int] = []
        spent = 0.0
        while True:
            iterations = draw_iterations(self.iterations, generator)
            cost = settings.batch_size * self._layers(iterations)
            if counts and spent + cost / 2 > settings.budget:
                return counts
            counts.append(iterations)
            spent += cost

    @torch.no_grad()
    def log_probabilities(self, tokens: Tensor, iterations: int, seed: int = 0) -> Iterator[Tensor]:
        """After every iteration, log-probabilities (n, t, v) of the token at every place of ``tokens`` (n, t)."""
        check_trained(self.name, int(self.model is not None), 1)
        assert self.model is not None, "checked"
        for logits in self.model.answers(tokens, iterations, torch.Generator().manual_seed(seed)):
            yield logits.float().log_softmax(-1)

    @torch.no_grad()
    def write(
        self,
        prompt: Tensor,
        count: int,
        iterations: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[Tensor]:
        """Tokens (n,) that go on from ``prompt`` (n, t), ``count`` of them, as they are drawn after ``iterations``; the
        other arguments are those of ``sample.causal.write``."""
        check_trained(self.name, int(self.model is not None), 1)
        assert self.model is not None, "checked"
        generator = torch.Generator().manual_seed(seed)
        cache = RecurrentCache(self.model, iterations)
        tokens = self.model.gpt.stem.start(len(prompt), prompt.device)[:, 0]
        for given in (*prompt.unbind(1), *[None] * count):
            state = torch.randn(len(prompt), self.config.width, generator=generator).to(prompt.device)
            logits = cache.ask(tokens, state)
            if given is None:
                tokens = pick(logits[:, None].float(), temperature, top_p, generator)[0][:, 0]
                yield tokens
            else:
                tokens = given

    def dry_runs(self, settings: RivalSettings) -> Sequence[Callable[[], DryRun]]:
        """A step with as many iterations as gradients go through: only these keep activations."""
        return [partial(self._dry_run, settings)]

    def _dry_run(self, settings: RivalSettings) -> DryRun:
        learner = self._learner(settings, 1)
        tokens = torch.zeros(settings.batch_size, self.config.context, dtype=torch.long, device=settings.device)
        generator = torch.Generator()
        return dry_run([learner], (tokens,), lambda: self._lessons(learner, tokens, self.back, generator))

    def _layers(self, iterations: int) -> int:
        """Layer evaluations of one text."""
        return self.config.prelude + self.config.coda + iterations * self.config.depth

    def _learner(self, settings: RivalSettings, num_steps: int) -> Learner[RecurrentDepth]:
        model = seeded(lambda: RecurrentDepth(self.config), settings.derive_seed("init", 0))
        return settings.learner(self.name, model, num_steps)

    def _lessons(
        self, learner: Learner[RecurrentDepth], tokens: Tensor, iterations: int, generator: torch.Generator
    ) -> list[Lesson]:
        return [Lesson([learner], partial(self._losses, learner, tokens, iterations, generator))]

    def _losses(
        self, learner: Learner[RecurrentDepth], tokens: Tensor, iterations: int, generator: torch.Generator
    ) -> Tensor:
        """Mean cross-entropy (n,) of every text."""
        with learner.autocast():
            logits = learner.module(tokens, iterations, self.back, generator).float()
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens).mean(1)
