"""Evolution of 8-bit weights without a floating-point number: pairs vote on the sign of every weight's next step.

The update of EGG (Sarkar et al., Appendix G, https://arxiv.org/abs/2511.16652; nano-egg). Member 2 p adds the noise of
pair p and member 2 p + 1 takes it away; ``w_p = sign(f_2p - f_2p+1)`` is the pair's vote, and

    Z = sum_p w_p A_p B_p^T        moves a weight by sign(Z) where |Z| >= int(16 Phi^-1(1 - share / 2)) 16 sqrt(P)

for P pairs. A and B are normal with standard deviation 16, so that Z has 256 sqrt(P) where votes mean nothing: about
``share`` of such weights would move. A vector's noise is the product of two numbers for each of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import torch
from torch import Tensor

from oneblock.checks import check_number, check_seed
from oneblock.ops.integers import MOST, ONE, products
from oneblock.seeds import derive_seed

QUANTILES = 2**15
"""Equally likely values that a normal number is drawn from."""
Factors = dict[str, tuple[Tensor, Tensor]]
"""A (pairs, m) and B (pairs, n) of every matrix, both (pairs, d) of a vector; 8 bits."""


class IntegerNoise:
    """Factors of the noise of pairs, which follow from (seed, step, pair) and the layout of the weights alone.

    Args:
        shapes: of the weights by name, (m, n) or (d,).
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int, device: torch.device | None = None) -> None:
        check_seed("seed", seed)
        self.shapes, self.seed = dict(shapes), seed
        self._device = device or torch.device("cpu")
        law = NormalDist(sigma=ONE)
        values = [round(law.inv_cdf((i + 0.5) / QUANTILES)) for i in range(QUANTILES)]
        self._quantiles = torch.tensor(values, dtype=torch.int8, device=device)
        self._generator = torch.Generator(self._device if self._device.type == "cuda" else "cpu")

    def draw(self, step: int, pairs: range) -> Factors:
        """Of ``pairs`` at ``step``."""
        sizes = [(shape[0], shape[-1]) for shape in self.shapes.values()]
        places = torch.empty(len(pairs), sum(map(sum, sizes)), dtype=torch.int16, device=self._device)
        for row, pair in enumerate(pairs):
            seed = derive_seed(self.seed, "integer noise", step, pair)
            places[row].random_(0, QUANTILES, generator=self._generator.manual_seed(seed))
        numbers = self._quantiles.index_select(0, places.flatten().to(torch.int32)).view(places.shape)
        parts = iter(numbers.split([size for both in sizes for size in both], dim=1))
        return {name: (next(parts), next(parts)) for name in self.shapes}


def threshold(share: float, pairs: int) -> int:
    """The least |Z| that moves a weight.

    Args:
        share: of the weights that would move if votes meant nothing, above 0 and up to 1: with 1 all move.
    """
    check_number("share", share, above=0, most=1)
    deviations = int(ONE * NormalDist().inv_cdf(1 - share / 2)) if share < 1 else 0
    return math.ceil(deviations * ONE * math.sqrt(pairs))


def votes(factors: tuple[Tensor, Tensor], signs: Tensor, vector: bool) -> Tensor:
    """Z of a weight, (m, n) or (d,) in 32 bits.

    Args:
        signs: w (pairs,), of 8 bits.
    """
    a, b = factors
    if vector:
        return (a.to(torch.int32) * b * signs[:, None]).sum(0, dtype=torch.int32)
    return products((a * signs[:, None]).T.contiguous(), b.T)


def move(weight: Tensor, z: Tensor, least: int) -> int:
    """Move an 8-bit ``weight`` by a unit where votes are many enough; how many of its numbers changed."""
    step = torch.where(z.abs() >= least, z.sign(), 0)
    moved = (weight + step).clamp_(-MOST, MOST).to(torch.int8)
    changed = int((moved != weight).sum())
    weight.copy_(moved)
    return changed
