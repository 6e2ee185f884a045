"""Noise laws fitted to what there is to decide: each level gets as much mass as information is lost there.

With the law of EDM and unit vectors for classes, most bands lie where the noisy label gives the class away: their
blocks learn to copy. Here the mass below sigma is ``H(y | z_sigma)``, what a noisy label at that level still leaves
open. Bands of equal mass then take equal steps from knowing nothing to knowing the class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oneblock.noise import Tabulated
from oneblock.table import posterior_entropy

EVERYWHERE = 0.01
"""Share of the mass that is spread evenly in ln sigma, so that no level is left out."""


def entropy_law(table: Tensor, low: float = 0.05, high: float = 20.0, num_levels: int = 65) -> Tabulated:
    """The law whose cumulative distribution is the posterior entropy of ``table`` (k, d), from 0 at ``low`` to 1 at
    ``high``; rounded, so that it prints and reads back the same."""
    ends = torch.tensor([low, high], dtype=torch.float64).log()
    levels = torch.linspace(float(ends[0]), float(ends[1]), num_levels, dtype=torch.float64).exp()
    entropy = posterior_entropy(table, levels) / math.log(len(table))
    entropy = torch.cummax(entropy, dim=0).values
    known = (entropy - entropy[0]) / (entropy[-1] - entropy[0])
    mass = (1 - EVERYWHERE) * known + EVERYWHERE * torch.linspace(0.0, 1.0, num_levels, dtype=torch.float64)
    inner = [round(level, 8) for level in levels[1:-1].tolist()]
    return Tabulated((low, *inner, high), (0.0, *(round(m, 8) for m in mass[1:-1].tolist()), 1.0))
