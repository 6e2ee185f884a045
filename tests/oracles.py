"""Denoisers in closed form."""

import torch
from torch import Tensor

from oneblock.condition import Condition


def gaussian(spread: float) -> object:
    """E[y | z] for y ~ N(0, spread^2)."""

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        v = sigma.view(-1, *[1] * (z.ndim - 1)) ** 2
        return spread**2 * z / (spread**2 + v)

    return denoiser


def with_canary(spread: float, canary: Tensor, weight: float) -> object:
    """E[y | z] where y is ``canary`` (...) with probability ``weight``, else drawn from N(0, spread^2): a model that
    generalises, but for one sample."""
    size = canary.numel()

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        v = sigma[:, None].double() ** 2
        flat, point = z.flatten(1).double(), canary.flatten().double()
        smooth = spread**2 * flat / (spread**2 + v)
        log_smooth = -0.5 * (flat.square().sum(1, keepdim=True) / (spread**2 + v) + size * (spread**2 + v).log())
        log_point = -0.5 * ((flat - point).square().sum(1, keepdim=True) / v + size * v.log())
        odds = log_point - log_smooth + torch.tensor(weight / (1 - weight)).log()
        p = torch.sigmoid(odds)
        return (p * point + (1 - p) * smooth).view_as(z).to(z)

    return denoiser
