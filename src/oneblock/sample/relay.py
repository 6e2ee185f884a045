"""From masks to text with a policy of revealing: every sequence in as many calls as it needs, states carried along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import MANY, check_count
from oneblock.condition import Nothing
from oneblock.noise import NoiseLaw
from oneblock.sample.masked import pick
from oneblock.sample.policy import Policy
from oneblock.state import START, State, StatefulDenoiser

MOST_CALLS = 64
"""After so many calls whatever is left is revealed in one more."""


@dataclass(frozen=True)
class Revealed:
    """Sequences (n, t) without masks, and the calls of the denoiser that each took, int64 (n,)."""

    tokens: Tensor
    calls: Tensor


def masked_levels(law: NoiseLaw, hidden: Tensor, free: Tensor | None = None) -> Tensor:
    """The times (n,), float32, at which as large a share of the places is masked as in ``hidden`` (n, t).

    Args:
        free: bool (n, t), places that can be masked at all (None: all).
    """
    count = hidden.shape[1] if free is None else free.sum(1).clamp_min(1)
    return law.quantile(hidden.sum(1).double() / count).float()


@torch.no_grad()
def reveal_by(
    denoiser: DenoiserLike,
    law: NoiseLaw,
    tokens: Tensor,
    mask: int,
    policy: Policy,
    *,
    carry: bool = True,
    free: Tensor | None = None,
    most: int = MOST_CALLS,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Revealed:
    """Fill the places of ``tokens`` (n, t) that hold ``mask``; the others stay as they are.

    A sequence that is done is asked about no more, and its state goes with it.

    Args:
        denoiser: masked tokens (n, t), times (n,), ``Nothing`` -> logits (n, t, v).
        policy: as in training; it is ``settled`` here.
        carry: each call is given the state that the call before has left; the denoiser must know states.
        free: bool (n, t), places that could be masked in training (None: all); the time is the masked share of them.
        most: calls after which one more reveals all that is left.
        temperature, top_p: see ``sample.masked.pick``.
        seed: of everything random.
    """
    check_count("most", most, least=0, most=MANY)
    generator, settled = torch.Generator().manual_seed(seed), policy.settled()
    z, calls = tokens.clone(), torch.zeros(len(tokens), dtype=torch.int64)
    rows = (z == mask).any(1).nonzero()[:, 0]
    state: State = START
    for call in range(most + 1):
        if not len(rows):
            break
        now, left = z[rows], None if free is None else free[rows]
        hidden = now == mask
        inputs = now, masked_levels(law, hidden, left), Nothing(len(now))
        if carry:
            logits, state = cast(StatefulDenoiser, denoiser)(*inputs, state)
        else:
            logits = denoiser(*inputs)
        symbols, sure = pick(logits, temperature, top_p, generator)
        chosen = hidden if call == most else settled(sure, hidden, generator)
        z[rows] = now = torch.where(chosen, symbols, now)
        calls[rows.cpu()] += 1
        going_on = (now == mask).any(1)
        rows, state = rows[going_on], state.take(going_on)
    return Revealed(z, calls)


@torch.no_grad()
def nats_in_calls(
    denoiser: DenoiserLike,
    law: NoiseLaw,
    tokens: Tensor,
    mask: int,
    calls: int,
    *,
    carry: bool = True,
    seed: int = 0,
) -> Tensor:
    """What ``tokens`` (n, t) cost, in nats for each place (n, t), if they are revealed in ``calls`` calls at places in
    an order drawn at random, as many in every call as can be.

    The sum over the places of a row is a bound on ``-ln p`` of a sampler that draws the symbols of a call independently
    (Sahoo et al., "Simple and Effective Masked Diffusion Language Models", Equation 8,
    https://arxiv.org/abs/2406.07524): ``-ln p(x) <= E_order sum_k sum_(i in U_k) -ln p(x_i | x in U_1 .. U_(k-1))``. A
    state depends on what was revealed before alone, so the bound holds with it as well.

    Args:
        denoiser, law, mask, carry, seed: see ``reveal_by``; the order depends on ``seed`` and shape alone.
        calls: 1 to t.
    """
    check_count("calls", calls, most=tokens.shape[1])
    generator = torch.Generator().manual_seed(seed)
    rank = torch.rand(tokens.shape, generator=generator).argsort(1).argsort(1).to(tokens.device)
    turn = rank * calls // tokens.shape[1]
    nats, state = torch.zeros(tokens.shape, device=tokens.device), cast(State, START)
    for call in range(calls):
        hidden = turn >= call
        z = torch.where(hidden, mask, tokens)
        inputs = z, masked_levels(law, hidden), Nothing(len(z))
        if carry:
            logits, state = cast(StatefulDenoiser, denoiser)(*inputs, state)
        else:
            logits = denoiser(*inputs)
        costs = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
        nats = torch.where(turn == call, costs.view_as(nats), nats)
    return nats
