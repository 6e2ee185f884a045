"""Cyclic denoising: samples are noised and denoised again and again at one amplitude, and end where it is stable.

One cycle adds fresh noise of level sigma and goes back to 0. Large amplitudes draw new samples; small ones leave a
sample where it is; between them chains stay for long in deep basins, many of which are memorised training samples
(Sharma and Martiniani, "Cyclic Denoising Reveals Ultrastable Memories in Diffusion Models",
https://arxiv.org/abs/2606.24000). No gradients and no training data are needed.

A chain that keeps ``abar`` of the signal, ``x_t = sqrt(abar) x + sqrt(1 - abar) eps``, adds the same noise as
``z = x + sigma eps`` with ``sigma^2 = q = (1 - abar) / abar``. A share gamma of the time steps is another sigma under
every schedule: results are comparable in sigma or q alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import MANY, check_choice, check_count, check_number
from oneblock.condition import Condition, as_condition
from oneblock.noise import NoiseLaw
from oneblock.sample.grids import karras_grid
from oneblock.sample.masked import reveal
from oneblock.sample.ode import SAMPLERS, Sampler, ancestral
from oneblock.schedule import DiscreteBetas, FlowMatching, VariancePreserving

Reverse = Literal["ancestral", "churn", "euler", "heun", "dpm++2m"]
"""How a cycle goes back: ancestral and churn draw noise on the way, the others do not."""
Unit = Literal["sigma", "q", "gamma"]
"""Of amplitudes: the level of the added noise; its variance; a share of the time steps of a schedule."""

DDPM = DiscreteBetas()
"""The usual schedule of ``gamma``."""
REVERSES: dict[str, Sampler] = {"ancestral": Sampler(ancestral, 1, lambda steps: steps)} | {
    name: SAMPLERS[name] for name in get_args(Reverse) if name in SAMPLERS
}


def amplitude(value: float, unit: Unit = "sigma", schedule: DiscreteBetas | FlowMatching = DDPM) -> float:
    """The noise level of an amplitude.

    Args:
        value: above 0; of ``gamma`` at most 1.
        unit: of the value; ``q`` is ``sigma^2``. ``gamma`` is the time step ``round(gamma (T - 1))`` of a chain of T
            steps, the first of which is 0, or the time ``gamma`` of a flow.
        schedule: of ``gamma``.

    Raises:
        ValueError: not an amplitude.
    """
    check_choice("unit", unit, get_args(Unit))
    check_number("amplitude", value, above=0, most=1 if unit == "gamma" else None)
    if unit != "gamma":
        return math.sqrt(value) if unit == "q" else value
    if isinstance(schedule, DiscreteBetas):
        return float(VariancePreserving(schedule).sigmas[round(value * (schedule.num_train_timesteps - 1))])
    check_number("amplitude", value, above=0, below=1)  # a flow has no level at its end
    return float(schedule.level(torch.tensor(value * schedule.num_train_timesteps, dtype=torch.float64)))


def cycle_grid(law: NoiseLaw, sigma: float, steps: int) -> Tensor:
    """``steps + 1`` levels (float64) from sigma to 0, as EDM places them.

    Raises:
        ValueError: sigma is not a level of the law above its lowest, or fewer than two steps.
    """
    if not law.low < sigma <= law.high:
        raise ValueError(
            f"amplitude={sigma:g} is a noise level that the model was not trained on; use sigma above {law.low:g}, up "
            f"to {law.high:g}"
        )
    check_count("steps", steps, 2, MANY)
    return karras_grid(law.low, sigma, steps)


@torch.no_grad()
def cycle(
    denoiser: DenoiserLike,
    x: Tensor,
    grid: Tensor,
    cycles: int,
    generator: torch.Generator,
    condition: Condition | Tensor | None = None,
    reverse: Reverse = "ancestral",
) -> Iterator[Tensor]:
    """The states (n, ...) of n chains after every cycle; none is kept.

    Args:
        x: where chains start (n, ...), pixels or latents.
        grid: levels of one cycle, descending; the first is the amplitude (``cycle_grid``).
        generator: of all noise.
        condition: what the denoiser is told of every chain, as ``as_condition`` takes it. ``null()`` of a condition
            tells a network nothing that was trained with label dropout.
        reverse: how a cycle goes back.
    """
    check_count("cycles", cycles, 0, MANY)
    check_choice("reverse", reverse, get_args(Reverse))
    told = as_condition(condition, len(x)).to(x.device)

    def noise(like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
        return drawn.to(like.device)

    for _ in range(cycles):
        x = REVERSES[reverse].run(denoiser, x + float(grid[0]) * noise(x), grid, told, noise)
        yield x


@torch.no_grad()
def cycle_text(
    denoiser: DenoiserLike,
    law: NoiseLaw,
    tokens: Tensor,
    mask: int,
    share: float,
    cycles: int,
    steps: int,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """The same of masked text: every cycle masks each place with probability ``share`` and fills the masks in again.

    Args:
        denoiser: masked tokens (n, t), times (n,), ``Nothing`` -> logits (n, t, v).
        law: the mask schedule.
        tokens: where chains start (n, t).
        mask: the symbol of a masked place.
        share: above 0, up to 1; 1 writes new texts.
        steps: calls of the denoiser in a cycle.
    """
    check_count("cycles", cycles, 0, MANY)
    check_number("share", share, above=0, most=1)
    for _ in range(cycles):
        hidden = torch.rand(tokens.shape, generator=generator, device=generator.device) < share
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        masked = tokens.masked_fill(hidden.to(tokens.device), mask)
        *_, tokens = reveal(denoiser, law, masked, mask, steps, seed=seed, share=share)
        yield tokens
