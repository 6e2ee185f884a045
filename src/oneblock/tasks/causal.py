"""Autoregressive text: y is the row of a frozen table that stands for the next token, x the tokens before it.

``z_i = T_(x_i) + sigma eps_i`` at every place i of a text, and a denoiser gives logits of
``p(x_i | x_<i, z_i, sigma)``, all places at once. Shing et al., "DiffusionBlocks", Appendix E.4,
https://arxiv.org/abs/2506.14202. A network that carries noisy targets with its tokens (``models.gpt``, one stream) does
the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition, Tokens
from oneblock.data import Samples
from oneblock.noise import NoiseLaw
from oneblock.tasks.base import Batch, Loss, Noised, add_noise, check_known


@dataclass(frozen=True)
class CausalText:
    """Autoregressive text.

    Args:
        table: (v, k), the rows that stand for the symbols.
        law: of the noise levels.
        clean: share of every batch that is drawn at the highest level, where z tells nothing: there the loss is that of
            an ordinary language model.
    """

    table: Tensor
    law: NoiseLaw
    clean: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.clean <= 1.0:
            raise ValueError(f"clean={self.clean} is not a share; use 0 to 1")

    @property
    def vocabulary(self) -> int:
        return len(self.table)

    def check(self, samples: Samples) -> None:
        check_known(samples.values, self.vocabulary, "token", "symbols")

    def to(self, device: torch.device) -> CausalText:
        return replace(self, table=self.table.to(device))

    def draw(self, samples: Samples, sigma: Tensor, block: int | None, generator: torch.Generator) -> Batch:
        """A training batch: tokens (n, t) as targets and as condition, their rows with noise at levels ``sigma``
        (n,)."""
        tokens = samples.values
        if not tokens.is_cuda:
            self.check(samples)
        if self.clean > 0.0:
            count = round(self.clean * len(sigma))
            sigma = torch.where(torch.arange(len(sigma), device=sigma.device) < count, self.law.high, sigma)
        return Batch(add_noise(self._rows(tokens), sigma, block, generator), tokens, Tokens(tokens))

    def noised(self, tokens: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        """Rows (n, t, k) of ``tokens`` (n, t) with noise at levels ``sigma`` (n,); an unknown token is a
        ``ValueError``."""
        check_known(tokens, self.vocabulary, "token", "symbols")
        return add_noise(self._rows(tokens), sigma, block, generator)

    def _rows(self, tokens: Tensor) -> Tensor:
        return self.table.to(tokens.device)[tokens]

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        """Mean cross-entropy of a text, in nats per token."""
        logits = denoiser(noised.z, noised.sigma, condition).float()
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).mean(1)
        return Loss(nats, nats)


def log_likelihood(log_p: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities (n, t) that an answer, log-probabilities (n, t, v), gave the true ``tokens`` (n, t)."""
    return log_p.gather(-1, tokens[..., None])[..., 0]


def code_length(log_p: Tensor) -> Tensor:
    """``-ln (1/K sum_k p_k)`` in nats (...), from log-probabilities (K, ...): those of a token after K draws of noise.

    The model's probability of a token is the mean of ``p(token | path)`` over all noise. The mean of K draws is an
    unbiased estimate of it, so by Jensen's inequality this is on average above the exact code length, for every K, and
    falls to it as K grows (Burda et al., "Importance Weighted Autoencoders", Theorem 1,
    https://arxiv.org/abs/1509.00519). It is the length of a code that both ends can use: they share the draws.
    """
    return math.log(len(log_p)) - log_p.logsumexp(0)
