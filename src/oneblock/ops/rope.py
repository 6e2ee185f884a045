"""Rotary positions: pairs of channels are turned by angles that grow with the position.

Su et al., "RoFormer", Equation 34, https://arxiv.org/abs/2104.09864. Pairs are neighbours, ``(x_0, x_1)`` and
``(x_2, x_3)``. In a video the channels of a head are shared out between frame, row and column, as in Wan and SANA-Video
(Chen et al., https://arxiv.org/abs/2509.24695). Shapes: t places, e channels of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10_000.0
"""The slowest pair of e channels turns by one radian in about so many places."""


class Rope(NamedTuple):
    """Cosines and sines (t, e / 2) of the angles of t places."""

    cos: Tensor
    sin: Tensor


def rope_1d(positions: Tensor, size: int) -> Tensor:
    """Angles ``position / BASE^(2 i / size)`` (t, size / 2), float64, of ``positions`` (t,) in ``size`` channels."""
    exact = torch.float32 if positions.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    powers = torch.arange(0, size, 2, dtype=exact, device=positions.device) / size
    return positions[:, None].to(exact) * BASE**-powers


def shared_out(size: int) -> tuple[int, int, int]:
    """How many of the ``size`` channels of a head turn with the frame, the row and the column: a third each for row and
    column, rounded down to an even number, and the rest for the frame."""
    space = 2 * (size // 6)
    return size - 2 * space, space, space


def rope_3d(frames: Tensor, rows: int, columns: int, size: int) -> Rope:
    """Of all places of ``frames``, absolute positions (f,), row by row: t = f rows columns.

    The angles are float64, so that late frames are turned as exactly as early ones.
    """
    device = frames.device
    places = (frames, torch.arange(rows, device=device), torch.arange(columns, device=device))
    grid = torch.meshgrid(*places, indexing="ij")
    angles = torch.cat([rope_1d(p.flatten(), s) for p, s in zip(grid, shared_out(size), strict=True)], dim=-1)
    return Rope(angles.cos(), angles.sin())


def turned(x: Tensor, rope: Rope | None) -> Tensor:
    """``x`` (..., t, e) with each pair turned by its angle; None leaves it."""
    if rope is None:
        return x
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope.cos.to(x.dtype), rope.sin.to(x.dtype)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
