"""The device on which a denoiser works."""

from __future__ import annotations

import torch
from torch import nn

from oneblock.blockwise import Denoiser, DenoiserLike
from oneblock.guidance import Averaged, ClassifierFree, Ensemble


def device_of(denoiser: DenoiserLike) -> torch.device:
    """The device of a denoiser's weights, which may load its noisiest block; the CPU for one without weights."""
    if isinstance(denoiser, ClassifierFree):
        return device_of(denoiser.denoiser)
    if isinstance(denoiser, Averaged | Ensemble):
        return device_of(denoiser.members[0])
    module = denoiser.block(0) if isinstance(denoiser, Denoiser) else denoiser
    if isinstance(module, nn.Module):
        return next((weights.device for weights in module.parameters()), torch.device("cpu"))
    return torch.device("cpu")
