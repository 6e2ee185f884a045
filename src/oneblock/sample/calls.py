"""Several calls of a denoiser for one answer: at which levels, what goes from call to call, what the answer is made of.

A denoiser of rows of a table answers a call at level s with ``p(row | z, x)``. One call for each block, at the upper
edge of its band, costs as much as one pass through the whole network. The noisy target then goes to the next level s'
on one of four paths:

- ``"none"``: it stays at the mean of all rows, so that calls hand nothing over;
- ``"mean"``: to the expected row D of the table;
- ``"euler"``: from pure noise by Euler's step of ``dz/dsigma = (z - D) / sigma``, that is ``z' = (s'/s) z + (1 - s'/s)
  D`` (Shing et al., "DiffusionBlocks", Equation 5 with its sign mended, https://arxiv.org/abs/2506.14202);
- ``"redraw"``: from pure noise to a row that is drawn from the answer, with new noise at s'. If every block answered
  exactly, the mean over the noise of the last answer would be ``p(row | x)``, whatever the levels are.

The answer is made of one of three pools: the last call; the mean probabilities of all calls; or ``"evidence"``, where
what each call was told by z (``z . T_k / sigma^2``, Bayes' rule) is taken out of its logits and the rest, logits of
``p(row | x)``, is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from oneblock.checks import MANY, check_count, check_fields, check_seed
from oneblock.plan import Plan

Path = Literal["none", "mean", "euler", "redraw"]
Pool = Literal["last", "mean", "evidence"]
AskedPool = Literal["auto", "last", "mean", "evidence"]
"""A pool by name, or the one that fits the network."""

NOISY = ("euler", "redraw")
"""Paths that start from noise."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How blocks are asked for a class or a token."""

    path: Path = "mean"
    """between two calls the noisy target stays uninformed (none); goes to the expected vector; from noise by Euler's
    steps; or to a vector drawn from the answer, with new noise"""
    pool: AskedPool = "auto"
    """what the answer is made of: the last call, the mean of all calls' probabilities, or the mean of what all calls
    saw in the image or text (evidence; auto where blocks look at the noisy target, else mean)"""
    calls: int = 0
    """calls of the denoiser, at levels of equal mass (0: one for each block, at the upper edge of its band)"""

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.calls <= MANY:
            raise ValueError(
                f"calls={self.calls} is not a number of calls; use 1 or more, up to {MANY} (0: one for each block)"
            )

    def levels(self, plan: Plan) -> tuple[float, ...]:
        """The noise levels of the calls, noisiest first."""
        if self.calls in (0, plan.num_blocks):
            return plan.partition.edges[:-1]
        return plan.partition.law.edges(self.calls)[:-1]


@dataclass(frozen=True, kw_only=True)
class Answers(Asking):
    """How blocks are asked for scores."""

    draws: int = 1
    """paths from other noise whose answers are averaged; classifiers need --path euler or redraw for it"""
    noise_seed: int = 0
    """seed of their noise"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"draws={self.draws} is too small; use 1 or more")
        check_count("draws", self.draws, most=MANY)
        check_seed("noise_seed", self.noise_seed)


ANSWERS = Answers()
"""The usual way."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """How a denoiser is called.

    Args:
        levels: descending noise levels, one call each.
        path, pool: see the module.
    """

    levels: tuple[float, ...]
    path: Path = "mean"
    pool: Pool = "last"

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.levels or any(a <= b for a, b in pairwise(self.levels)):
            raise ValueError(f"levels={self.levels} do not descend; give at least one level, the noisiest first")

    @property
    def noisy(self) -> bool:
        """Whether the path starts from noise."""
        return self.path in NOISY

    def start(self, table: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Noisy targets (``shape``, d) before the first call; ``table`` (k, d)."""
        if not self.noisy:
            return table.mean(0).expand(*shape, -1)
        return self.levels[0] * noise((*shape, table.shape[1]), generator, table)

    def onward(self, i: int, z: Tensor, p: Tensor, table: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy targets before call i + 1, from those of call i (..., d) and its answer p (..., k)."""
        if self.path == "none":
            return z
        level, after = self.levels[i], self.levels[i + 1]
        if self.path == "redraw":
            flat = p.flatten(0, -2).cpu()
            drawn = torch.multinomial(flat, 1, generator=generator).view(p.shape[:-1]).to(z.device)
            return table[drawn] + after * noise(z.shape, generator, z)
        expected = p @ table
        if self.path == "mean":
            return expected
        a = after / level
        return a * z + (1 - a) * expected

    def probabilities(
        self, i: int, total: Tensor | float, z: Tensor, logits: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum over calls with that of call i, whose answer to z (..., d) was ``logits`` (..., k), and the
        probabilities that are the answer so far; ``total`` is 0 before the first call."""
        if self.pool == "last":
            return logits, logits.softmax(-1)
        if self.pool == "mean":
            total = total + logits.softmax(-1)
            return total, total / (i + 1)
        total = total + (logits.log_softmax(-1) - self._evidence(i, z, table))
        return total, (total / (i + 1)).softmax(-1)

    def log_probabilities(
        self, i: int, total: Tensor | float, z: Tensor, log_p: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same in logarithms, where a probability may be too small for a number: log-probabilities ``log_p``
        (..., k) in the place of logits, and for the answer."""
        if self.pool == "last":
            return log_p, log_p
        if self.pool == "mean":
            total = total + log_p.exp()
            return total, (total / (i + 1)).log()
        total = total + log_p - self._evidence(i, z, table)
        return total, (total / (i + 1)).log_softmax(-1)

    def _evidence(self, i: int, z: Tensor, table: Tensor) -> Tensor:
        """What z told call i of each row (..., k)."""
        return z @ table.mT / self.levels[i] ** 2


def noise(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal noise, drawn on the CPU, of ``like``'s type and device."""
    return torch.randn(shape, generator=generator).to(like)
