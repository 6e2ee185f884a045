"""Masked diffusion of text: y is a sequence of tokens, z the sequence with some of them masked, the level a time t.

At time t a token is still visible with probability alpha(t), so the masked share m = 1 - alpha(t) is the mass below t
of a mask schedule (``noise.LinearMask``, ``noise.CosineMask``). The negative evidence lower bound of a sequence is

``integral of -alpha'(t) / (1 - alpha(t)) E[sum over masked places of -ln p(token | z)] dt``

(Shi et al., "Simplified and Generalized Masked Diffusion for Discrete Data", Equation 5,
https://arxiv.org/abs/2406.04329; Sahoo et al., "Simple and Effective Masked Diffusion Language Models", Equation 10,
https://arxiv.org/abs/2406.07524). As ``-alpha'(t) dt = dm``, drawing t from the law, uniformly in m, leaves the weight
``1 / m``, and the bound of the whole range is the sum of those of its bands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition, Nothing
from oneblock.data import Samples
from oneblock.noise import NoiseLaw
from oneblock.partition import Partition
from oneblock.tasks.base import Batch, Loss, Noised, check_known


@dataclass(frozen=True)
class MaskedText:
    """Masked text.

    Args:
        law: the mask schedule.
        vocabulary: symbols are 0 .. vocabulary - 1, and ``vocabulary`` stands for a masked place.
        mean_shares: by block (None: the trunk) the mean masked share m of the band that it trains on. With them
            training weighs every masked token by ``1 / (mean m)``, whatever its sequence's share, instead of ``1 / m``.
    """

    law: NoiseLaw
    vocabulary: int
    mean_shares: Mapping[int | None, float] | None = None

    @property
    def mask(self) -> int:
        return self.vocabulary

    def check(self, samples: Samples) -> None:
        check_known(samples.values, self.vocabulary, "token", "symbols")

    def to(self, device: torch.device) -> MaskedText:
        return self

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        """A training batch: tokens (n, t), each masked with the probability of its sequence's time ``sigma`` (n,); the
        denoiser is told nothing else."""
        tokens = samples.values
        if not tokens.is_cuda:
            self.check(samples)
        return Batch(self._masked(tokens, sigma, block, generator), tokens, Nothing(len(tokens)))

    def noised(self, tokens: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        """Mask ``tokens`` (n, t) at times ``sigma`` (n,); an unknown token is a ``ValueError``."""
        check_known(tokens, self.vocabulary, "token", "symbols")
        return self._masked(tokens, sigma, block, generator)

    def _masked(self, tokens: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        share = self.law.cdf(sigma).float()
        where = generator.device
        hidden = torch.rand(tokens.shape, generator=generator, device=where) < share[:, None].to(where)
        z = torch.where(hidden.to(tokens.device), self.mask, tokens)
        return Noised(z, sigma.to(tokens.device), block)

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """The sum of the cross-entropies at masked places, divided by ``m t`` or by ``(mean m) t``, in nats per token,
        and their mean for the log."""
        total = self.total(denoiser, noised, targets, condition)
        plain = total / (noised.z == self.mask).sum(1).clamp_min(1)
        if self.mean_shares is None:
            return Loss(self.bound(total, noised), plain)
        return Loss(total / (self.mean_shares[noised.block] * targets.shape[1]), plain)

    def total(
        self,
        denoiser: DenoiserLike,
        noised: Noised,
        targets: Tensor,
        condition: Condition,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The sum (n,) of the cross-entropies at masked places, in nats, each as often as ``weights`` (n, t) say."""
        logits = denoiser(noised.z, noised.sigma, condition).float()
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        nats = nats if weights is None else nats * weights.to(nats)
        return (nats * (noised.z == self.mask)).sum(1)

    def bound(self, total: Tensor, noised: Noised) -> Tensor:
        """``total / (m t)`` (n,), whose expectation over the law is the bound in nats per token."""
        share = self.law.cdf(noised.sigma).to(total)
        # a time whose share is 0 masks nothing
        return total / (share.clamp_min(torch.finfo(share.dtype).tiny) * noised.z.shape[1])


@dataclass(frozen=True)
class Bound:
    """Negative evidence lower bound in nats per token: of each band, of all together, and its Monte-Carlo standard
    error."""

    bands: list[float]
    total: float
    error: float

    def bits(self, tokens_per_byte: float = 1.0) -> tuple[float, float]:
        """Bound and error in bits per byte."""
        scale = tokens_per_byte / math.log(2)
        return self.total * scale, self.error * scale


@torch.no_grad()
def nelbo(
    denoiser: DenoiserLike,
    task: MaskedText,
    partition: Partition,
    tokens: Tensor,
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    weights: Tensor | None = None,
) -> Bound:
    """The bound of held-out ``tokens`` (n, t), each sequence at ``draws`` times of every band.

    The mean over a band of mass q is weighted by q, so that the bands of any partition sum to the same bound. The same
    times and masks for every denoiser that is asked with the same ``seed``.

    Args:
        weights: (n, t), how much each token counts, 1 on average (None: all the same).
    """
    rows = tokens.repeat(draws, 1)
    weighed = None if weights is None else weights.repeat(draws, 1)
    bands, variance = [], 0.0
    for band in range(partition.num_blocks):
        generator = torch.Generator().manual_seed(seed * 1000 + band)
        lower, upper = partition.band(band)
        low, high = partition.law.cdf(torch.tensor([lower, upper])).tolist()
        levels = partition.levels(lower, upper, len(rows), generator)
        levels = levels[torch.randperm(len(rows), generator=generator)]
        parts = []
        for part in torch.arange(len(rows)).split(batch_size):
            noised = task.noised(rows[part], levels[part], band, generator)
            weight = None if weighed is None else weighed[part]
            parts.append(task.bound(task.total(denoiser, noised, rows[part], Nothing(len(part)), weight), noised))
        values = torch.cat(parts).double() * (high - low)
        bands.append(float(values.mean()))
        variance += float(values.var(unbiased=True)) / len(values) if len(values) > 1 else math.inf
    return Bound(bands, sum(bands), math.sqrt(variance))
