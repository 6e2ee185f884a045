"""Where the bright part of a frame is, how far that is from where it should be, and features of frames in motion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DARK = 64
"""Bytes up to which a pixel is background: generated frames are not quite black."""
CELLS = 8
FRAME_PAIRS = f"frame-pairs-{CELLS}x{CELLS}"
"""Name of ``frame_pairs``, which scores on them must carry."""


def bright_centres(clips: Tensor) -> Tensor:
    """Row and column of the centre of mass of what is brighter than ``DARK``, float64 (n, f, 2), in pixels from the
    middle of the first; NaN where nothing is.

    Args:
        clips: uint8 (n, f, c, h, w).
    """
    weights = (clips.double().mean(2) - DARK).clamp(min=0)
    rows, columns = (torch.arange(side, dtype=torch.float64, device=clips.device) for side in clips.shape[-2:])
    total = weights.sum((2, 3))
    row, column = (weights.sum(3) * rows).sum(-1), (weights.sum(2) * columns).sum(-1)
    return torch.stack([row, column], dim=-1) / total[..., None]


def place_errors(clips: Tensor, true: Tensor) -> Tensor:
    """Distances in pixels, float64 (n, f), between the bright centres of ``clips`` and ``true`` clips, both uint8
    (n, f, c, h, w). A frame with nothing bright is off by half the diagonal of a frame."""
    found, wanted = bright_centres(clips), bright_centres(true)
    height, width = clips.shape[-2:]
    return (found - wanted).norm(dim=-1).nan_to_num((height**2 + width**2) ** 0.5 / 2)


def frame_pairs(clips: Tensor) -> Tensor:
    """Features float32 (n (f - 1), 128) of all pairs of neighbouring frames: the grey values of both, in [-1, 1],
    averaged in ``CELLS`` x ``CELLS`` cells. They show what is there and how it moves.

    Args:
        clips: uint8 (n, f, c, h, w) with f of 2 or more.

    Raises:
        ValueError: clips of one frame.
    """
    if clips.shape[1] < 2:
        raise ValueError(f"clips have {clips.shape[1]} frame, which makes no pair; use clips of 2 frames or more")
    grey = clips.float().mean(2) / 127.5 - 1
    cells = F.adaptive_avg_pool2d(grey, CELLS).flatten(2)
    return torch.cat([cells[:, :-1], cells[:, 1:]], dim=2).flatten(0, 1)
