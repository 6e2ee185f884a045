"""Attractors: states to which chains from different starts come, by single-link clusters of their late states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.checks import check_count, check_number

MOST = 8192
"""States that are clustered at once: their links are held as bits of a square table."""
ROWS = 512
"""Rows of it that are worked on at once."""
CONSTANT = 0.1
"""Standard deviation of the pixels of an image, in units of the real images' median, below which it is constant."""
STRIPED = 0.98
"""Share of the variance of an image that the means of its rows, or of its columns, explain, from which on it is
striped."""


def clusters(points: Tensor, link: float) -> Tensor:
    """Single-link clusters of ``points`` (n, d): int64 (n,), 0 for the largest. Two points closer than ``link`` are in
    the same one, and so are two that are joined by a chain of such points.

    Raises:
        ValueError: more than ``MOST`` points.
    """
    check_count("points", len(points), 1, MOST)
    check_number("link", link, above=0)
    points = points.double()
    near = torch.cat([torch.cdist(part, points) < link for part in points.split(ROWS)])
    near.fill_diagonal_(True)
    labels, before = torch.arange(len(points), device=points.device), None
    while before is None or not labels.equal(before):
        before = labels
        far = labels.new_full((), len(points))
        labels = torch.cat([torch.where(part, labels, far).amin(1) for part in near.split(ROWS)])
        labels = labels[labels]
    _, found, counts = labels.unique(return_inverse=True, return_counts=True)
    return counts.argsort(descending=True, stable=True).argsort()[found]


@dataclass(frozen=True, eq=False)
class Attractor:
    """A cluster of late states.

    Args:
        center: the state of the cluster with the smallest mean distance from its others.
        states: how many states it has, of how many chains (``starts``).
        return_time: cycles between two visits of the same chain, 1 if it stays; None if none came twice.
    """

    center: Tensor
    states: int
    starts: int
    return_time: float | None


def attractors(late: Tensor, link: float, starts: int = 2) -> list[Attractor]:
    """The clusters, largest first, that chains from ``starts`` different starts or more have reached.

    Args:
        late: the last states of all chains (cycles, n, ...).
        link: see ``clusters``.
    """
    check_count("starts", starts)
    labels = clusters(late.flatten(0, 1).flatten(1), link).view(late.shape[:2])
    found = []
    for label in range(int(labels.max()) + 1):
        visits = labels == label
        came = int(visits.any(0).sum())
        if came >= starts:
            center = _center(late[visits])
            found.append(Attractor(center, int(visits.sum()), came, _return_time(visits)))
    return found


def _center(states: Tensor) -> Tensor:
    points = states.flatten(1).double()
    total = torch.cat([torch.cdist(part, points).sum(1) for part in points.split(ROWS)])
    return states[int(total.argmin())]


def _return_time(visits: Tensor) -> float | None:
    """Of chains, bool (cycles, n)."""
    gaps = [chain.nonzero()[:, 0].diff() for chain in visits.T]
    every = torch.cat(gaps)
    return float(every.double().mean()) if len(every) else None


def degenerate(images: Tensor, spread: float) -> Tensor:
    """Which ``images`` (n, c, h, w) are constant or striped, bool (n,); other shapes never are.

    Args:
        spread: median standard deviation of the pixels of a real image (``typical_spread``).
    """
    if images.ndim != 4:
        return torch.zeros(len(images), dtype=torch.bool, device=images.device)
    around = images.double() - images.double().mean((2, 3), keepdim=True)
    total = around.square().sum((1, 2, 3))
    height, width = images.shape[2:]
    rows = width * around.mean(3).square().sum((1, 2))
    columns = height * around.mean(2).square().sum((1, 2))
    constant = (total / images[0].numel()).sqrt() < CONSTANT * spread
    return constant | (torch.maximum(rows, columns) >= STRIPED * total)


def typical_spread(images: Tensor) -> float:
    """The median over images (n, c, h, w) of the standard deviation of their pixels around each channel's mean."""
    around = images.double() - images.double().mean((2, 3), keepdim=True)
    return float(around.square().mean((1, 2, 3)).sqrt().median())
