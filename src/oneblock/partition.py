"""Partition: which block owns which band of noise levels.

Edges descend: ``e_0 = law.high > e_1 > ... > e_B = law.low``. Block ``b`` owns the band ``(e_{b+1}, e_b]`` (the last
band also its lower end), so **block 0 is the noisiest** and acts first at inference, and a sampler that stands on an
edge asks the block below it. Bands of equal mass: DiffusionBlocks, Section 3.3, https://arxiv.org/abs/2506.14202.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from oneblock.checks import shown
from oneblock.noise import LogUniform, NoiseLaw

Bands = Literal["equal-mass", "log-uniform"]
"""Rules by which a law is cut."""


@dataclass(frozen=True)
class Partition:
    """Bands of a noise law.

    Args:
        law: the distribution that noise levels are drawn from, restricted to the band at hand.
        edges: B + 1 descending levels; the first is ``law.high``, the last ``law.low``.
        overlap: gamma in [0, 1]; training draws from the band widened by this fraction of its length on both sides
            (in log sigma: by the factor ``(e_b / e_{b+1})^gamma``), cut at the ends of the law.
    """

    law: NoiseLaw
    edges: tuple[float, ...]
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or any(a <= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(
                f"edges={shown(self.edges)} do not descend; give at least two strictly descending noise levels"
            )
        if self.edges[0] != self.law.high or self.edges[-1] != self.law.low:
            raise ValueError(
                f"edges run from {self.edges[0]} to {self.edges[-1]}; they must cover the noise law, "
                f"from {self.law.high} to {self.law.low}"
            )
        if not 0.0 <= self.overlap <= 1.0:
            raise ValueError(f"overlap={self.overlap} is outside [0, 1]; the paper uses 0 to 0.1")

    @property
    def num_blocks(self) -> int:
        return len(self.edges) - 1

    def band(self, block: int) -> tuple[float, float]:
        """``(lower, upper)`` of the band that ``block`` owns."""
        self._check(block)
        return self.edges[block + 1], self.edges[block]

    def training_band(self, block: int) -> tuple[float, float]:
        """``(lower, upper)`` of the widened band that ``block`` trains on."""
        lower, upper = self.band(block)
        return self.law.widen(lower, upper, self.overlap)

    def block_at(self, level: Tensor) -> Tensor:
        """Index (int64, same shape) of the block that owns each ``level`` in [law.low, law.high]."""
        values = level.double()
        # Samplers hand over float32 levels: an end of the law may come back off by one rounding.
        slack = 1e-6
        outside = (values < self.law.low * (1 - slack)) | (values > self.law.high * (1 + slack)) | values.isnan()
        if bool(outside.any()):
            worst = values[outside].flatten()[0].item()
            raise ValueError(f"noise level {worst} is outside the bands; use [{self.law.low}, {self.law.high}]")
        inner = torch.tensor(self.edges[1:-1], dtype=level.dtype if level.is_floating_point() else torch.float64)
        return (level.unsqueeze(-1) <= inner.to(level.device)).sum(-1)

    def draw(self, block: int, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """``num_samples`` levels (float32) from the law restricted to the training band, stratified.

        Sample i falls in the i-th of ``num_samples`` slices of equal mass, which lowers the variance of a batch's
        loss and leaves its mean alone. They are on the generator's device; without a ``generator`` torch's default
        one is used.
        """
        return self.levels(*self.training_band(block), num_samples, generator)

    def levels(self, lower: float, upper: float, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Stratified draw (float32, shape (num_samples,), on the generator's device) from the law restricted to
        ``[lower, upper]``."""
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} is not a number of draws; use 1 or more")
        q_low, q_high = self.law.cdf(torch.tensor([lower, upper], dtype=torch.float64)).tolist()
        device = torch.device("cpu") if generator is None else generator.device
        jitter = torch.rand(num_samples, generator=generator, dtype=torch.float64, device=device)
        u = (torch.arange(num_samples, dtype=torch.float64, device=device) + jitter) / num_samples
        return self.law.quantile(q_low + u * (q_high - q_low)).float().clamp(lower, upper)

    def _check(self, block: int) -> None:
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"block={block} does not exist; use 0 (noisiest) to {self.num_blocks - 1}")


def make_partition(
    law: NoiseLaw, num_blocks: int, overlap: float = 0.0, bands: Bands | Sequence[float] = "equal-mass"
) -> Partition:
    """Cut ``law`` into bands of equal mass, or of equal length in log sigma (the ablation's other arm).

    Args:
        bands: a rule, or the ``num_blocks - 1`` levels to cut at, descending from the noisiest.
    """
    if num_blocks < 1:
        raise ValueError(f"num_blocks={num_blocks} is not a number of blocks; use 1 or more")
    if bands == "equal-mass":
        return Partition(law, law.edges(num_blocks), overlap)
    if bands == "log-uniform":
        return Partition(law, LogUniform(law.low, law.high).edges(num_blocks), overlap)
    if isinstance(bands, str):
        raise ValueError(f"bands={bands!r} is not a rule; use {' or '.join(get_args(Bands))}, or levels to cut at")
    return Partition(law, (law.high, *_cuts(law, num_blocks, bands), law.low), overlap)


def _cuts(law: NoiseLaw, num_blocks: int, cuts: Sequence[float]) -> tuple[float, ...]:
    """Levels to cut ``law`` at, which must descend inside it."""
    given = shown(tuple(cuts))
    if len(cuts) != num_blocks - 1:
        raise ValueError(
            f"bands={given} cuts the noise into {len(cuts) + 1} bands; give {num_blocks - 1} "
            f"level{'' if num_blocks == 2 else 's'} for {num_blocks} blocks, or use {len(cuts) + 1} blocks"
        )
    outside = [cut for cut in cuts if not law.low < cut < law.high]
    if outside:
        raise ValueError(
            f"bands={given}: {outside[0]} is not inside the noise law; use levels between {law.low} and {law.high}"
        )
    if any(a <= b for a, b in pairwise(cuts)):
        raise ValueError(f"bands={given} do not descend; give each level once, the noisiest first")
    return tuple(map(float, cuts))


def split_layers(depth: int, num_blocks: int) -> tuple[int, ...]:
    """Layers per block, all equal. Uneven splits are written by hand, e.g. ``(3, 6, 3)``."""
    if depth < 1 or num_blocks < 1 or depth % num_blocks:
        divisors = [str(n) for n in range(1, max(depth, 1) + 1) if max(depth, 1) % n == 0]
        raise ValueError(f"num_blocks={num_blocks} does not divide depth={depth}; use {_either(divisors)}")
    return (depth // num_blocks,) * num_blocks


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
