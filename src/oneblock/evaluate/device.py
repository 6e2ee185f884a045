"""The device on which a denoiser works, and what makes it work faster there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from oneblock.blockwise import Denoiser, DenoiserLike
from oneblock.guidance import Averaged, ClassifierFree, Ensemble
from oneblock.sample.carry import AtBorders, Carry
from oneblock.sample.recorded import RecordedDenoiser


def device_of(denoiser: DenoiserLike) -> torch.device:
    """The device of a denoiser's weights, which may load its noisiest block; the CPU for one without weights."""
    weights = _weights(denoiser)
    return torch.device("cpu") if weights is None else weights.device


def dtype_of(denoiser: DenoiserLike) -> torch.dtype:
    """The same of their type; float32 for one without weights."""
    weights = _weights(denoiser)
    return torch.float32 if weights is None else weights.dtype


def _weights(denoiser: DenoiserLike) -> Tensor | None:
    """The first of a denoiser's weights."""
    if isinstance(denoiser, ClassifierFree):
        return _weights(denoiser.denoiser)
    if isinstance(denoiser, Averaged | Ensemble):
        return _weights(denoiser.members[0])
    module = denoiser.block(0) if isinstance(denoiser, Denoiser) else denoiser
    return next(module.parameters(), None) if isinstance(module, nn.Module) else None


def routers(denoiser: DenoiserLike) -> list[Denoiser]:
    """The denoisers of the whole noise range that a denoiser asks, itself or within its wrappers."""
    if isinstance(denoiser, ClassifierFree):
        return routers(denoiser.denoiser)
    if isinstance(denoiser, Averaged | Ensemble):
        return [router for member in denoiser.members for router in routers(member)]
    return [denoiser] if isinstance(denoiser, Denoiser) else []


def recorded(denoiser: DenoiserLike, tell: Callable[[str], None]) -> DenoiserLike:
    """The same denoiser, with calls of its ``routers`` recorded (``sample.recorded``)."""
    if isinstance(denoiser, ClassifierFree):
        return replace(denoiser, denoiser=recorded(denoiser.denoiser, tell))
    if isinstance(denoiser, Averaged | Ensemble):
        return replace(denoiser, members=[recorded(member, tell) for member in denoiser.members])
    return RecordedDenoiser(denoiser, tell) if isinstance(denoiser, Denoiser) else denoiser


def at_borders(denoiser: DenoiserLike, carry: Carry) -> DenoiserLike:
    """The same denoiser, where the states of its ``routers`` go at the borders of bands as ``carry`` says."""
    if isinstance(denoiser, ClassifierFree):
        return replace(denoiser, denoiser=at_borders(denoiser.denoiser, carry))
    if isinstance(denoiser, Averaged | Ensemble):
        return replace(denoiser, members=[at_borders(member, carry) for member in denoiser.members])
    return AtBorders(denoiser, carry) if isinstance(denoiser, Denoiser) else denoiser
