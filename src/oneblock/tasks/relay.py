"""Masked diffusion on its own trajectories: slots of texts that are revealed step by step while they are learned from.

A training step makes K calls of the denoiser. Each has the mean cross-entropy at the masked places for a loss; after it
a policy says which places are revealed, and these get the true symbols. The hidden tokens that a call leaves enter the
next one (``oneblock.state``), with their graph or without it; from step to step slots keep their symbols and the hidden
tokens, without a graph. A slot that is done is filled anew.

Rozonoyer et al., "Learned Relay Representations for Forward-Thinking Discrete Diffusion Models", Section 3,
https://arxiv.org/abs/2605.22967.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import check_count
from oneblock.condition import Condition, Nothing
from oneblock.data import Samples
from oneblock.noise import NoiseLaw
from oneblock.sample.policy import Policy, Uncertainty
from oneblock.sample.relay import masked_levels
from oneblock.state import START, Hidden, State, StatefulDenoiser, joined
from oneblock.tasks.base import Batch, Loss, Noised
from oneblock.tasks.masked import MaskedText


@dataclass(frozen=True, eq=False)
class Rollout:
    """Texts on their way from masks to symbols.

    Args:
        tokens: the true symbols, int64 (n, t).
        z: the same with some places masked.
        free: bool (n, t), places that can be masked; the others are shown from the start.
        state: what the last call has left.
        age: int64 (n,), calls since the slot was filled.
    """

    tokens: Tensor
    z: Tensor
    free: Tensor
    state: State
    age: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, index: slice) -> Rollout:
        """Those of ``index``."""
        tokens, z, free, age = (tensor[index] for tensor in (self.tokens, self.z, self.free, self.age))
        return Rollout(tokens, z, free, self.state.take(index), age)

    def to(self, device: torch.device) -> Rollout:
        """The same on ``device``."""
        tokens, z, free, age = (tensor.to(device) for tensor in (self.tokens, self.z, self.free, self.age))
        state = self.state
        if isinstance(state, Hidden):
            state = Hidden(state.tokens.to(device), state.owner.to(device))
        return Rollout(tokens, z, free, state, age)

    def split(self, count: int) -> list[Rollout]:
        """``count`` parts in order, as equal as can be."""
        ends = [0, *(len(part) for part in self.age.tensor_split(count))]
        starts = list(accumulate(ends))
        return [self.take(slice(start, end)) for start, end in pairwise(starts)]


def joined_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Inverse of ``Rollout.split``."""
    tokens, z, free, age = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "z", "free", "age")
    )
    return Rollout(tokens, z, free, joined([part.state for part in parts]), age)


@dataclass(kw_only=True)
class RolloutBuffer:
    """Slots that persist from training step to training step. A slot starts with the share ``high`` of its free places
    masked and is done when no more than ``low`` are; the first filling is staggered, at shares between the two, so that
    slots are not all done together.

        rollout = buffer.filled(tokens, generator)
        loss, rollout = relay_loss(denoiser, rollout, generator)
        loss.weighted.mean().backward()
        buffer.keep(rollout)

    Args:
        mask: the token of a masked place.
        low, high: masked shares, ``0 <= low < high <= 1``.
    """

    mask: int
    low: float = 0.0
    high: float = 1.0
    rollout: Rollout | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high} are not masked shares; use 0 <= low < high <= 1")

    def filled(
        self,
        tokens: Tensor,
        generator: torch.Generator,
        free: Tensor | None = None,
        *,
        first: int = 0,
        of: int | None = None,
    ) -> Rollout:
        """What to learn from next. The first call makes n slots; after it a slot that is done is filled with the text
        of its number, and the other texts are left out.

        Args:
            tokens: int64 (n, t).
            generator: of the places that are masked.
            free: bool (n, t), places that can be masked (None: all); a text without any is never learned from.
            first, of: these are the texts from ``first`` on of a batch of ``of`` (None: all of it), for which all is
                drawn; several processes then learn what one does.
        """
        size = len(tokens) if of is None else of
        if self.rollout is not None and len(self.rollout) != len(tokens):
            raise ValueError(f"{len(tokens)} texts for {len(self.rollout)} slots; give one for each")
        free = torch.ones_like(tokens, dtype=torch.bool) if free is None else free
        where, own = generator.device, slice(first, first + len(tokens))
        share = torch.full((size, 1), self.high, device=where)
        if self.rollout is None:
            share = self.low + (self.high - self.low) * torch.rand(size, 1, generator=generator, device=where)
        drawn = torch.rand(size, *tokens.shape[1:], generator=generator, device=where)
        z = torch.where((drawn < share)[own].to(tokens.device) & free, self.mask, tokens)
        fresh = Rollout(tokens, z, free, START, torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device))
        self.rollout = fresh if self.rollout is None else self._refilled(self.rollout, fresh)
        return self.rollout

    def keep(self, rollout: Rollout) -> None:
        """Go on with ``rollout``, without its graph; hidden tokens in float32."""
        state = rollout.state.detach()
        if isinstance(state, Hidden):
            state = replace(state, tokens=state.tokens.float())
        self.rollout = replace(rollout, state=state)

    def to(self, device: torch.device) -> None:
        """Move the slots to ``device``."""
        if self.rollout is not None:
            self.rollout = self.rollout.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that going on needs, by name."""
        if self.rollout is None:
            return {}
        kept = self.rollout
        found = {"tokens": kept.tokens, "z": kept.z, "free": kept.free, "age": kept.age}
        if isinstance(kept.state, Hidden):
            found |= {"hidden": kept.state.tokens, "owner": kept.state.owner}
        return found

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Inverse of ``tensors``, on ``device``."""
        if not tensors:
            self.rollout = None
            return
        own = {name: tensor.clone().to(device) for name, tensor in tensors.items()}
        state = Hidden(own["hidden"], own["owner"]) if "hidden" in own else START
        self.rollout = Rollout(own["tokens"], own["z"], own["free"], state, own["age"])

    def done(self, rollout: Rollout) -> Tensor:
        """bool (n,): which slots are."""
        return (rollout.z == self.mask).sum(1) <= self.low * rollout.free.sum(1)

    def _refilled(self, old: Rollout, fresh: Rollout) -> Rollout:
        new = self.done(old)

        def mixed(fresh: Tensor, old: Tensor) -> Tensor:
            return torch.where(new.view(-1, *[1] * (old.ndim - 1)), fresh, old)

        state = old.state
        if isinstance(state, Hidden):  # who is filled anew has no state, and zeros in its place
            empty = state.tokens.masked_fill(new.view(-1, *[1] * (state.tokens.ndim - 1)), 0.0)
            state = replace(state.only(~new), tokens=empty)
        return Rollout(
            mixed(fresh.tokens, old.tokens),
            mixed(fresh.z, old.z),
            mixed(fresh.free, old.free),
            state,
            mixed(fresh.age, old.age),
        )


class GradientShare:
    """How much of what is learned at the hidden tokens of a call is learned for later calls: of the gradient that
    reaches them, the part that comes through the state, ``|s| / (|s| + |o|)`` with s that part and o the rest; a mean
    over the calls that hand something on. A step's backward pass fills it."""

    def __init__(self) -> None:
        self._shares: list[Tensor] = []

    def watched(self, state: State) -> State:
        """The same state, watched if it has a graph."""
        if not isinstance(state, Hidden) or not state.tokens.requires_grad:
            return state
        through: list[Tensor] = []
        handed = state.tokens.view_as(state.tokens)
        handed.register_hook(lambda gradient: through.append(gradient.detach()))
        state.tokens.register_hook(lambda gradient: self._seen(gradient.detach(), through))
        return replace(state, tokens=handed)

    def _seen(self, whole: Tensor, through: list[Tensor]) -> None:
        if through:  # the last call of a step hands on to none that is learned from
            later = through.pop()
            size, own = later.float().norm(), (whole - later).float().norm()
            self._shares.append(size / (size + own).clamp_min(torch.finfo(torch.float32).tiny))

    def take(self) -> float | None:
        """The mean since it was last asked for; None if nothing was watched. Waits for the device."""
        shares, self._shares = self._shares, []
        return float(torch.stack(shares).mean()) if shares else None


@dataclass(frozen=True, kw_only=True)
class RelayLoss:
    """The losses of the next calls for some rollouts, and where these stand then.

    Of each call it is the mean cross-entropy of all masked places, in nats, and the losses of all calls add up; there
    is no weight of a likelihood bound. Works in any training loop: every parameter gets a gradient whether or not any
    place is masked, as DistributedDataParallel wants it.

    Args:
        mask: the token of a masked place.
        law: the mask schedule, by which the denoiser is told the masked share.
        policy: what is revealed after a call.
        calls: K.
        carry: hidden tokens enter the next call; the denoiser must know states.
        detach: without gradients through them.
        band: times between which the denoiser is told the share (None: all).
        gradients: is shown every state that enters a later call.
    """

    mask: int
    law: NoiseLaw
    policy: Policy = field(default_factory=Uncertainty)
    calls: int = 2
    carry: bool = True
    detach: bool = False
    band: tuple[float, float] | None = None
    gradients: GradientShare | None = None

    def __post_init__(self) -> None:
        check_count("calls", self.calls)

    def __call__(self, denoiser: DenoiserLike, rollout: Rollout, generator: torch.Generator) -> tuple[Loss, Rollout]:
        """Losses (n,) in nats, whose mean over the slots is that over the masked places, and the rollouts afterwards,
        with their graph; ``RolloutBuffer.keep`` cuts it.

        Args:
            denoiser: masked tokens (n, t), times (n,), ``Nothing`` -> logits (n, t, v).
            generator: of the policy.
        """
        weighted, plain = torch.zeros(()), torch.zeros(())
        for _ in range(self.calls):
            hidden = rollout.z == self.mask
            logits, state = self._call(denoiser, rollout, hidden)
            flat = F.cross_entropy(logits.flatten(0, 1).float(), rollout.tokens.flatten(), reduction="none")
            nats = (flat.view_as(rollout.tokens) * hidden).sum(1)
            counts = hidden.sum(1)
            weighted = weighted.to(nats) + nats * len(nats) / counts.sum().clamp_min(1)
            plain = plain.to(nats) + (nats / counts.clamp_min(1)).detach() / self.calls
            sure = logits.detach().float().softmax(-1).amax(-1)
            revealed = self.policy(sure, hidden, generator)
            z = torch.where(revealed, rollout.tokens, rollout.z)
            rollout = replace(rollout, z=z, state=state, age=rollout.age + 1)
        return Loss(weighted, plain), rollout

    def _call(self, denoiser: DenoiserLike, rollout: Rollout, hidden: Tensor) -> tuple[Tensor, State]:
        times = masked_levels(self.law, hidden, rollout.free)
        if self.band is not None:
            times = times.clamp(*self.band)
        inputs = rollout.z, times, Nothing(len(rollout))
        if not self.carry:
            return denoiser(*inputs), START
        logits, state = cast(StatefulDenoiser, denoiser)(*inputs, rollout.state)
        if self.detach:
            return logits, state.detach()
        return logits, state if self.gradients is None else self.gradients.watched(state)


@dataclass(frozen=True)
class RelayText:
    """A ``Task``: masked text learned from rollouts. What a step learns from is kept by its job (``train.rollout``).

    Args:
        task: masked text, which draws the texts that slots are filled with.
        relay: the loss of a step.
        bands: by block (None: the trunk) the times (lower, upper) that it trains on. Its slots go from the masked share
            of the upper one to that of the lower one.
        at_once: slots of a job at least, of which each step takes as many as a batch has, in turn.
    """

    task: MaskedText
    relay: RelayLoss
    bands: Mapping[int | None, tuple[float, float]]
    at_once: int = 1

    def check(self, samples: Samples) -> None:
        self.task.check(samples)

    def to(self, device: torch.device) -> RelayText:
        return self

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        return self.task.draw(samples, sigma, block, generator)

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """That of slots which stand where ``noised`` stands and have no states, with one policy of revealing."""
        rollout = self.standing(noised, targets)
        return self.of(noised.block)(denoiser, rollout, torch.Generator(targets.device).manual_seed(0))[0]

    def standing(self, noised: Noised, targets: Tensor) -> Rollout:
        """Slots that stand where ``noised`` stands and have no states."""
        age = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
        return Rollout(targets, noised.z, torch.ones_like(targets, dtype=torch.bool), START, age)

    def of(self, block: int | None) -> RelayLoss:
        """The loss of a block's steps."""
        return replace(self.relay, band=self.bands[block])

    def slots(self, block: int | None) -> RolloutBuffer:
        """Empty slots for a block."""
        low, high = self.task.law.cdf(torch.tensor(self.bands[block], dtype=torch.float64)).tolist()
        return RolloutBuffer(mask=self.task.mask, low=low, high=high)
