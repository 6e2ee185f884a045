"""The noise of an evolution strategy: what every member of a population adds to the parameters.

Member i of N belongs to pair i // 2. The even one of a pair adds ``sigma E``, the odd one ``-sigma E``. For a matrix
(m, n), ``E = A B^T / sqrt(r)`` with A (m, r) and B (n, r) standard normal, so that every number of E has mean 0 and
variance 1 for any rank r (Sarkar et al., https://arxiv.org/abs/2511.16652). Where A and B would have as many
numbers as the parameter or more, as for vectors, E is standard normal itself.

A and B follow from (seed, step, pair, layout of the parameters) alone. So nothing is kept: they are drawn for the
forward passes, and once more for the sum of their weighted products, which is all of an update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.checks import check_count, check_number, check_seed
from oneblock.ops.low_rank import rows_and_columns
from oneblock.ops.members import Full, LowRank, Offset
from oneblock.seeds import derive_seed

TOGETHER = 64
"""Pairs whose products are added up at once. A sum of floats depends on it, and on nothing else that could vary."""


@dataclass(frozen=True)
class Slot:
    """The numbers of one parameter in what a pair draws: ``rank (m + n)``, or all of its own where ``rank`` is 0."""

    shape: tuple[int, ...]
    rows: int
    columns: int
    rank: int

    @property
    def numbers(self) -> int:
        return self.rank * (self.rows + self.columns) if self.rank else math.prod(self.shape)

    def factors(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """A (..., m, r) and B (..., n, r) of what was drawn (..., numbers)."""
        b, a = drawn.split([self.rank * self.columns, self.rank * self.rows], dim=-1)
        return a.unflatten(-1, (self.rows, self.rank)), b.unflatten(-1, (self.columns, self.rank))


def slot_of(parameter: Tensor, rank: int) -> Slot:
    """Of a parameter in perturbations of ``rank``; 0 is full rank."""
    shape = tuple(parameter.shape)
    rows, columns = rows_and_columns(shape) if len(shape) > 1 else (1, parameter.numel())
    smaller = rank * (rows + columns) < rows * columns
    return Slot(shape, rows, columns, rank if smaller else 0)


class Noise:
    """The perturbations of a population.

    Args:
        parameters: by name, on one device; their shapes, types and order matter.
        sigma: standard deviation of every number that a member adds.
        rank: of the perturbation of a matrix; 0 is full rank, as in ordinary evolution strategies.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, sigma: float, rank: int, seed: int) -> None:
        check_number("sigma", sigma, above=0)
        check_count("rank", rank, 0)
        check_seed("seed", seed)
        self.sigma, self.rank, self.seed = sigma, rank, seed
        self.slots = {name: slot_of(p, rank) for name, p in parameters.items()}
        first = next(iter(parameters.values()))
        self._device = first.device
        self._types = {name: p.dtype for name, p in parameters.items()}
        self._generator = torch.Generator(self._device if first.is_cuda else "cpu")

    def offsets(self, step: int, members: range) -> dict[str, Offset]:
        """What ``members`` add to each parameter, one after the other along a first axis."""
        pairs = range(members.start // 2, (members.stop + 1) // 2)
        drawn = self._draw(step, pairs)
        place = torch.tensor([member // 2 - pairs.start for member in members], device=self._device)
        sign = torch.tensor([-1.0 if member % 2 else 1.0 for member in members], device=self._device)
        found: dict[str, Offset] = {}
        for (name, slot), numbers in zip(self.slots.items(), self._split(drawn), strict=True):
            dtype = self._types[name]
            if slot.rank:
                a, b = slot.factors(numbers)
                scale = sign * self.sigma / math.sqrt(slot.rank)
                found[name] = LowRank((a[place] * scale[:, None, None]).to(dtype), b[place].to(dtype))
            else:
                values = numbers[place] * (sign * self.sigma)[:, None]
                found[name] = Full(values.view(-1, *slot.shape).to(dtype))
        return found

    def sum(self, step: int, weights: Tensor) -> dict[str, Tensor]:
        """``sum_p w_p E_p`` for each parameter, in 32 bits.

        Args:
            weights: of the pairs (population / 2,).
        """
        found = {name: torch.zeros(slot.shape, device=self._device) for name, slot in self.slots.items()}
        weights = weights.to(self._device, torch.float32)
        for start in range(0, len(weights), TOGETHER):
            pairs = range(start, min(start + TOGETHER, len(weights)))
            w = weights[start : pairs.stop]
            for (name, slot), numbers in zip(self.slots.items(), self._split(self._draw(step, pairs)), strict=True):
                if slot.rank:
                    a, b = slot.factors(numbers)
                    left = (a * (w / math.sqrt(slot.rank))[:, None, None]).transpose(0, 1).flatten(1)
                    total = found[name].view(slot.rows, slot.columns)
                    found[name] = torch.addmm(total, left, b.transpose(1, 2).flatten(0, 1)).view(slot.shape)
                else:
                    found[name].view(-1).addmv_(numbers.T, w)
        return found

    def _draw(self, step: int, pairs: range) -> Tensor:
        """Standard normal numbers (pairs, all numbers of a pair)."""
        size = sum(slot.numbers for slot in self.slots.values())
        drawn = torch.empty(len(pairs), size, device=self._device)
        for row, pair in enumerate(pairs):
            drawn[row].normal_(generator=self._generator.manual_seed(derive_seed(self.seed, "noise", step, pair)))
        return drawn

    def _split(self, drawn: Tensor) -> tuple[Tensor, ...]:
        return drawn.split([slot.numbers for slot in self.slots.values()], dim=-1)
