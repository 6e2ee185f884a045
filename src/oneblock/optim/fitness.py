"""From the fitness of a population to the weights of its pairs.

Fitness (N,) is better when it is larger. Members 2 p and 2 p + 1 are pair p, and ``group_size`` consecutive members, if
not 0, have had the same task: only within a group can they be compared.

A fitness that is not finite counts as the worst finite one of its group, and in a group without any, as the worst of
the population: a member that breaks is a bad member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from oneblock.checks import check_choice, check_count

ShapingName = Literal["z-score", "centred-ranks", "sign", "none"]
Shaping = ShapingName | Callable[[Tensor], Tensor]
"""How fitness becomes weights.

- ``"z-score"``: the mean of the group is subtracted, and the standard deviation of the whole population divides
- ``"centred-ranks"``: the rank within the group, from -1/2 for the worst to 1/2 for the best; ties share their mean
- ``"sign"``: 1/2 for the better member of a pair and -1/2 for the other
- ``"none"``: fitness as it is
- a function of fitness (N,), whose values are finite
"""
SHAPINGS: tuple[ShapingName, ...] = ("z-score", "centred-ranks", "sign", "none")


def check_population(population: int, group_size: int) -> None:
    """Refuse a population that is not made of pairs, or that its groups do not make up."""
    check_count("population", population, 2)
    check_count("group_size", group_size, 0)
    if population % 2:
        raise ValueError(f"population={population} is odd, and members come in pairs; use {population + 1}")
    if group_size and (group_size % 2 or population % group_size):
        raise ValueError(
            f"group_size={group_size} must be even, as groups hold whole pairs, and divide population={population}; "
            "use another, or 0 for no groups"
        )


def check_shaping(shaping: Shaping) -> None:
    """Refuse what is neither a name nor a function."""
    if not callable(shaping):
        check_choice("shaping", shaping, SHAPINGS)


def without_breaks(fitness: Tensor, group_size: int = 0) -> Tensor:
    """``fitness`` with the worst finite one of a group in the place of what is not finite; NaN where nothing is."""
    grouped = _grouped(fitness, group_size)
    finite = grouped.isfinite()
    worst = torch.where(finite, grouped, torch.inf).amin(1, keepdim=True)
    worst = torch.where(worst.isinf(), worst.amin(), worst)
    worst = torch.where(worst.isinf(), torch.nan, worst)
    return torch.where(finite, grouped, worst).view(-1)


def pair_weights(fitness: Tensor, shaping: Shaping, group_size: int = 0) -> Tensor:
    """The weight (N / 2,) of each pair's noise: the shaped fitness of its even member less that of its odd one.

    Args:
        fitness: (N,), finite.

    Raises:
        ValueError: a function for ``shaping`` gives something else than N finite numbers.
    """
    grouped = _grouped(fitness, group_size)
    if callable(shaping):
        shaped = torch.as_tensor(shaping(fitness)).to(fitness)
        if shaped.shape != fitness.shape or not bool(shaped.isfinite().all()):
            raise ValueError(
                f"shaping gave values of shape {tuple(shaped.shape)}, or some that are not finite; it must give a "
                f"finite number for each of {len(fitness)} members"
            )
    elif shaping == "z-score":
        deviation = fitness.std(correction=0)
        shaped = (grouped - grouped.mean(1, keepdim=True)) / torch.where(deviation > 0, deviation, 1.0)
    elif shaping == "centred-ranks":
        shaped = _ranks(grouped) / (grouped.shape[1] - 1) - 0.5
    elif shaping == "sign":
        shaped = fitness.view(-1, 2)
        shaped = (shaped - shaped.flip(1)).sign() / 2
    else:
        shaped = fitness
    pairs = shaped.reshape(-1, 2)
    return pairs[:, 0] - pairs[:, 1]


def _ranks(grouped: Tensor) -> Tensor:
    """Of each value in its row, from 0; ties share their mean rank."""
    ordered = grouped.sort(dim=1).values.contiguous()
    below = torch.searchsorted(ordered, grouped.contiguous(), side="left")
    up_to = torch.searchsorted(ordered, grouped.contiguous(), side="right")
    return (below + up_to - 1).to(grouped.dtype) / 2


def _grouped(fitness: Tensor, group_size: int) -> Tensor:
    """(groups, members of a group)."""
    return fitness.view(-1, group_size or len(fitness))
