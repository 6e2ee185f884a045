"""Recurrent depth: a causal transformer whose middle layers are called again and again on a state.

``e = prelude(text)``, ``s_0`` noise, ``s_i = norm(core(adapter([s_(i-1), e])))``, ``p = coda(s_r)`` (Geiping et al.,
"Scaling up Test-Time Compute with Latent Reasoning", Sections 3.1 and 3.2, https://arxiv.org/abs/2502.05171; adapted:
the pre-norm layers of ``models.gpt`` instead of sandwich norms). Shapes: n samples, t tokens, d width, v symbols.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from oneblock.backbone import through
from oneblock.condition import Tokens
from oneblock.models.gpt import GPT, GPTConfig, Modulation


class RecurrentDepth(nn.Module):
    """The layers of ``config``, ``streams="none"``, with the middle ones as the core of the recurrence."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if config.streams != "none":
            raise ValueError(f"streams={config.streams!r}: a recurrence has no noisy targets; use 'none'")
        self.gpt = GPT(config)
        self.adapter = nn.Linear(2 * config.width, config.width, bias=False)
        self.norm = nn.RMSNorm(config.width, eps=1e-6)

    def forward(self, tokens: Tensor, iterations: int, back: int, generator: torch.Generator) -> Tensor:
        """Tokens (n, t) -> logits (n, t, v) of the token at every place, after ``iterations``; gradients go through the
        last ``back`` of them, and through the prelude."""
        state, e, modulation = self.start(tokens, generator)
        with torch.no_grad():
            for _ in range(max(0, iterations - back)):
                state = self.step(state, e, modulation)
        for _ in range(min(iterations, back)):
            state = self.step(state, e, modulation)
        out: Tensor = self.gpt.head(state, modulation)
        return out

    def answers(self, tokens: Tensor, iterations: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Logits (n, t, v) after every iteration."""
        state, e, modulation = self.start(tokens, generator)
        for _ in range(iterations):
            state = self.step(state, e, modulation)
            yield self.gpt.head(state, modulation)

    def start(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Modulation]:
        """The first state, standard normal (n, t, d); what the prelude read, (n, t, d); and the modulation."""
        e, modulation = self.gpt.stem(tokens, tokens[:, 0], Tokens(tokens))
        return torch.randn(e.shape, generator=generator).to(e), e, modulation

    def step(self, state: Tensor, e: Tensor, modulation: Modulation) -> Tensor:
        """One iteration."""
        out: Tensor = self.norm(through(self.gpt.layers.values(), self.joined(state, e), modulation))
        return out

    def joined(self, state: Tensor, e: Tensor) -> Tensor:
        """What the core reads, (n, t, d)."""
        out: Tensor = self.adapter(torch.cat([state, e], dim=-1))
        return out
