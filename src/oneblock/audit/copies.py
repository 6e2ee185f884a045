"""Whether a sample is a copy of a training sample: its nearest one against its next nearest.

A sample x is a copy if ``d_1 / d_2 < kappa``, where d_1 and d_2 are its distances from the two nearest different
training samples (Yoon et al., "Diffusion Probabilistic Models Generalize when They Fail to Memorize", 2023, with kappa
= 1/3). Copies among the training samples count as one: x would be as near to the second of them as to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.checks import check_count, check_number

KAPPA = 1 / 3
"""Nearest over next nearest distance below which a sample is a copy."""
CHUNK_ELEMENTS = 2**23
"""Distances held at once, 64 MiB in float64."""


@dataclass(frozen=True, eq=False)
class Known:
    """Different samples that copies are looked for among.

    Args:
        points: float64 (m, d), no two alike.
        copies: how often each stands in the data, int64 (m,).
        first: where it stands there for the first time, int64 (m,).
        mirrored: the same points mirrored (m, d), where training mirrors them; then a sample's distance is that of the
            nearer of the two.
    """

    points: Tensor
    copies: Tensor
    first: Tensor
    mirrored: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)


def known(samples: Tensor, mirror: bool = False) -> Known:
    """The different ones of ``samples`` (n, ...); with ``mirror`` images count as copies of their mirror images.

    Raises:
        ValueError: fewer than two are different.
    """
    flat = samples.flatten(1)
    _, owner, copies = flat.unique(dim=0, return_inverse=True, return_counts=True)
    if len(copies) < 2:
        raise ValueError(f"{len(samples)} samples hold {len(copies)} different ones; use data with 2 or more")
    order = torch.arange(len(flat))
    first = torch.full((len(copies),), len(flat)).scatter_reduce(0, owner.cpu(), order, "amin")
    first, by_place = first.sort()
    chosen = samples[first]
    mirrored = chosen.flip(-1).flatten(1).double() if mirror else None
    return Known(chosen.flatten(1).double(), copies.cpu()[by_place], first, mirrored)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest of ``Known`` samples of each of n: which, int64 (n,); its distance, and that of the next (n,)."""

    index: Tensor
    distance: Tensor
    second: Tensor

    @property
    def ratio(self) -> Tensor:
        """``d_1 / d_2`` (n,), in [0, 1]."""
        return self.distance / self.second


def nearest(x: Tensor, among: Known) -> Nearest:
    """Exact search for each of ``x`` (n, ...), a chunk of rows at a time, in float64."""
    distances, index = [], []
    for rows in _distances(x, among):
        found = rows.topk(2, dim=1, largest=False)
        distances.append(found.values)
        index.append(found.indices[:, 0])
    both = torch.cat(distances)
    return Nearest(torch.cat(index), both[:, 0], both[:, 1])


def is_memorised(x: Tensor, among: Known, kappa: float = KAPPA) -> Tensor:
    """Which of ``x`` (n, ...) are copies, bool (n,)."""
    check_number("kappa", kappa, above=0, most=1)
    return nearest(x, among).ratio < kappa


def kappa_at(held_out: Tensor, rate: float, most: float = KAPPA) -> float:
    """The largest threshold up to ``most`` below which no more than the share ``rate`` of the ratios ``held_out`` (n,)
    lie: those of samples that were never trained."""
    check_number("rate", rate, least=0, below=1)
    ratios = held_out.sort().values
    return min(most, float(ratios[int(rate * len(ratios))]))


def adaptive_ratio(x: Tensor, among: Known, neighbours: int = 50, alpha: float = 0.5) -> Tensor:
    """``|x - t_1| / (alpha mean_k |x - t_k|)`` (n,), over the ``neighbours`` training samples t nearest to x itself.

    Below 1, x lies much nearer to t_1 than to its surroundings (Carlini et al., "Extracting Training Data from
    Diffusion Models", Section 5.1, https://arxiv.org/abs/2301.13188). The neighbours are those of the generated x:
    those of t_1 would include t_1 itself, at distance 0.
    """
    check_count("neighbours", neighbours, 2, len(among))
    check_number("alpha", alpha, above=0)
    found = [rows.topk(neighbours, dim=1, largest=False).values for rows in _distances(x, among)]
    near = torch.cat(found)
    return near[:, 0] / (alpha * near.mean(1))


def gaps(among: Known, chosen: Tensor) -> Tensor:
    """The distance (k,) of each of the known samples ``chosen``, int64 (k,), from the nearest other one."""
    found, start = [], 0
    for rows in _distances(among.points[chosen], among):
        own = chosen[start : start + len(rows), None].to(rows.device)
        found.append(rows.scatter(1, own, torch.inf).amin(1))
        start += len(rows)
    return torch.cat(found)


def _distances(x: Tensor, among: Known) -> Iterator[Tensor]:
    """Rows of the distances (n, m), a chunk at a time."""
    points = among.points
    for part in x.flatten(1).to(points).split(max(1, CHUNK_ELEMENTS // len(points))):
        rows = torch.cdist(part, points)
        yield rows if among.mirrored is None else torch.minimum(rows, torch.cdist(part, among.mirrored))
