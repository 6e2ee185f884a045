"""Masked text over the border of a band: what the block of the noisier band hands to the first call of the next one.

In sampling the last call of the block before saw a text with more masks than the first call of this block sees.
Training makes such a text up from z, which a slot of ``tasks.relay`` begins with: each place that z shows is masked
with the probability

    p = (s - m) / (1 - m)    (0 where s < m),

m the masked share of z and ``s = min(share + e, 1)``, e uniform in [0, ``SPREAD``) for each text. The block before is
called once on it, without gradients, and what it leaves is the state of the slot.

z1, the text with more masks, depends on the text through z alone: text -> z -> z1 is a Markov chain. Given z, the state
tells nothing more of the symbols that z hides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oneblock.condition import Nothing
from oneblock.noise import NoiseLaw
from oneblock.sample.relay import masked_levels
from oneblock.state import START, Hidden, State, StatefulDenoiser
from oneblock.tasks.relay import RelayText, Rollout

SPREAD = 0.1
"""Of the masked share that the block before has seen, above the highest of the band."""


@dataclass(frozen=True, kw_only=True)
class Border:
    """The border above a band.

    Args:
        mask: the token of a masked place.
        law: the mask schedule, by which the block before is told the masked share.
        share: the highest masked share of the band below, in [0, 1].
        times: between which (lower, upper) the block before is told the share.
    """

    mask: int
    law: NoiseLaw
    share: float
    times: tuple[float, float]

    def crossed(
        self,
        before: StatefulDenoiser,
        rollout: Rollout,
        generator: torch.Generator,
        *,
        first: int = 0,
        of: int | None = None,
    ) -> Rollout:
        """The same slots, of which those that were just filled (of age 0) have the state that ``before`` leaves.

        Args:
            before: the block of the band above, in evaluation mode; it is asked for these slots alone.
            generator: of the places that are masked.
            first, of: as in ``RolloutBuffer.filled``.
        """
        z = self.noisier(rollout, generator, first=first, of=of)
        if rollout.state is START:  # all of them are new
            return replace(rollout, state=self.left(before, z, rollout.free))
        new = (rollout.age == 0).nonzero()[:, 0]
        if not len(new):
            return rollout
        return replace(rollout, state=_placed(rollout.state, new, self.left(before, z[new], rollout.free[new])))

    def noisier(self, rollout: Rollout, generator: torch.Generator, *, first: int = 0, of: int | None = None) -> Tensor:
        """The texts with more masks, int64 (n, t); arguments of ``crossed``."""
        z, free, where = rollout.z, rollout.free, generator.device
        count, own = len(z) if of is None else of, slice(first, first + len(z))
        more = torch.rand(count, 1, generator=generator, device=where)
        drawn = torch.rand(count, *z.shape[1:], generator=generator, device=where)[own].to(z.device)
        share = (self.share + SPREAD * more[own].to(z.device)).clamp_max(1.0)
        hidden = z == self.mask
        masked = hidden.sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp_min(1)
        added = (share - masked) / (1 - masked).clamp_min(torch.finfo(masked.dtype).tiny)
        return torch.where((drawn < added) & free, self.mask, z)

    @torch.no_grad()
    def left(self, before: StatefulDenoiser, z: Tensor, free: Tensor) -> State:
        """The states that ``before`` leaves for texts ``z`` (n, t), of which the places ``free`` (n, t) can be masked;
        hidden tokens in float32."""
        times = masked_levels(self.law, z == self.mask, free).clamp(*self.times)
        _, state = before(z, times, Nothing(len(z)), START)
        return replace(state, tokens=state.tokens.float()) if isinstance(state, Hidden) else state


def border_above(task: RelayText, block: int) -> Border:
    """The border above the band of ``block``, which is not the first one."""
    return Border(mask=task.relay.mask, law=task.task.law, share=task.slots(block).high, times=task.bands[block - 1])


def _placed(state: State, new: Tensor, left: State) -> State:
    """The states of slots, of which those numbered ``new`` are ``left``."""
    if not (isinstance(state, Hidden) and isinstance(left, Hidden)):
        return state
    tokens, owner = (
        old.index_copy(0, new, made.to(old.dtype))
        for old, made in ((state.tokens, left.tokens), (state.owner, left.owner))
    )
    return Hidden(tokens, owner)
