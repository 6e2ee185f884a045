"""From masks to text: samplers of masked diffusion.

The masked share falls along a grid of times. Going from share m to m' < m, every masked place is revealed with
probability ``(m - m') / m`` (ancestral; Sahoo et al., "Simple and Effective Masked Diffusion Language Models", Equation
7, https://arxiv.org/abs/2406.07524), or the places whose symbol is surest are (Chang et al., "MaskGIT", Section 3.2,
https://arxiv.org/abs/2202.04200). A revealed symbol stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Nothing
from oneblock.noise import NoiseLaw

Reveal = Literal["ancestral", "confidence"]


def mask_grid(law: NoiseLaw, steps: int, share: float = 1.0) -> Tensor:
    """``steps + 1`` times (float64) from that of the masked ``share`` (1: ``law.high``) to ``law.low``, at equal steps
    of the share."""
    if steps < 1:
        raise ValueError(f"steps={steps} reveals nothing; use 1 or more")
    return law.quantile(torch.linspace(share, 0.0, steps + 1, dtype=torch.float64))


def reveal(
    denoiser: DenoiserLike,
    law: NoiseLaw,
    tokens: Tensor,
    mask: int,
    steps: int,
    order: Reveal = "ancestral",
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    share: float = 1.0,
) -> Iterator[Tensor]:
    """The sequences after every step; the last one holds no masks.

    Args:
        denoiser: masked tokens (n, t), times (n,), ``Nothing`` -> logits (n, t, v).
        tokens: (n, t); places that hold ``mask`` are filled, the others stay as they are.
        steps: calls of the denoiser.
        order: which places are revealed first.
        temperature, top_p: see ``pick``.
        seed: of everything random.
        share: of the places that hold masks at the start, as far as the denoiser is told.
    """
    generator = torch.Generator().manual_seed(seed)
    times = mask_grid(law, steps, share)
    shares = law.cdf(times)
    z = tokens.clone()
    for i in range(steps):
        hidden = z == mask
        logits = denoiser(z, times[i].to(torch.float32).to(z.device).expand(len(z)), Nothing(len(z)))
        symbols, sure = pick(logits, temperature, top_p, generator)
        part = float((shares[i] - shares[i + 1]) / shares[i])
        if order == "ancestral":
            chosen = hidden & (torch.rand(z.shape, generator=generator).to(z.device) < part)
        else:
            chosen = _surest(sure.masked_fill(~hidden, -1.0), (hidden.sum(1) * part).round().long())
        z = torch.where(chosen | (hidden & (i == steps - 1)), symbols, z)
        yield z


def check_pick(temperature: float, top_p: float) -> None:
    """Refuse what ``pick`` cannot draw with."""
    if not 0.0 <= temperature < math.inf or not 0.0 < top_p <= 1.0:
        raise ValueError(
            f"temperature={temperature}, top_p={top_p}: use a temperature of 0 or more, and a top_p above 0 up to 1"
        )


def pick(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Symbols (n, t) drawn from ``logits`` (n, t, v), and the probability that each had.

    Args:
        temperature: divides the logits; 0 takes the likeliest.
        top_p: draw among the likeliest symbols only, the fewest that have this probability together.
    """
    check_pick(temperature, top_p)
    if temperature == 0:
        sure, symbols = logits.softmax(-1).max(-1)
        return symbols, sure
    p = (logits.float() / temperature).softmax(-1)
    if top_p < 1.0:
        ordered, index = p.sort(-1, descending=True)
        kept = ordered.cumsum(-1) - ordered < top_p  # the likeliest is always among them
        p = torch.zeros_like(p).scatter(-1, index, ordered * kept)
        p = p / p.sum(-1, keepdim=True)
    drawn = torch.multinomial(p.flatten(0, 1).cpu(), 1, generator=generator).view(p.shape[:2]).to(p.device)
    return drawn, p.gather(-1, drawn[..., None])[..., 0]


def _surest(sure: Tensor, counts: Tensor) -> Tensor:
    """(n, t): the ``counts`` (n,) places with the largest values of ``sure`` (n, t) in each row."""
    rank = sure.argsort(-1, descending=True).argsort(-1)
    return rank < counts[:, None]
