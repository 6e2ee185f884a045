"""From noise to the next token: a few calls of the denoiser for every place of a text.

A call at level s gives ``p(token | z, text before)``. The noisy target then goes to the next level s' on one of four
paths: ``"none"``, where it stays at the mean of all rows, so that calls hand nothing over; ``"mean"``, to the expected
row of the table; ``"euler"``, from pure noise by Euler's step ``z' = (s'/s) z + (1 - s'/s) D`` (Shing et al.,
"DiffusionBlocks", Equation 5 with its sign mended, https://arxiv.org/abs/2506.14202); or ``"redraw"``, from pure noise
to the row of a token that is drawn from the answer, with new noise at s'. If every block answered exactly, the mean
over the noise of the last answer would be ``p(token | text before)`` for ``"redraw"``, whatever the levels are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Tokens
from oneblock.sample.masked import pick

TextPath = Literal["none", "mean", "euler", "redraw"]
TextPool = Literal["last", "mean", "evidence"]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """How the denoiser is called for every place.

    Args:
        levels: descending noise levels, one call each.
        path: see the module.
        pool: what the answer is made of: the last call; the mean probabilities of all calls; or ``"evidence"``, where
            what each call was told by z (``z . T_k / sigma^2``, Bayes' rule) is taken out of its logits and the rest,
            logits of ``p(token | text before)``, is averaged.
    """

    levels: tuple[float, ...]
    path: TextPath = "mean"
    pool: TextPool = "last"

    def __post_init__(self) -> None:
        if not self.levels or any(a <= b for a, b in pairwise(self.levels)):
            raise ValueError(f"levels={self.levels} do not descend; give at least one level, the noisiest first")

    def start(self, table: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Noisy targets (``shape``, k) before the first call."""
        if self.path in ("none", "mean"):
            return table.mean(0).expand(*shape, -1)
        return self.levels[0] * _noise((*shape, table.shape[1]), generator, table)

    def pooled(self, i: int, total: Tensor | float, z: Tensor, log_p: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over calls with that of call i, whose answer to z was ``log_p`` (..., v), and the log-probabilities
        that are the answer so far."""
        if self.pool == "last":
            return log_p, log_p
        if self.pool == "mean":
            total = total + log_p.exp()
            return total, (total / (i + 1)).log()
        total = total + log_p - z @ table.mT / self.levels[i] ** 2
        return total, (total / (i + 1)).log_softmax(-1)

    def onward(self, i: int, z: Tensor, p: Tensor, table: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy targets before call i + 1, from those of call i (..., k) and its answer p (..., v)."""
        if self.path == "none":
            return z
        level, after = self.levels[i], self.levels[i + 1]
        if self.path == "redraw":
            flat = p.flatten(0, -2).cpu()
            drawn = torch.multinomial(flat, 1, generator=generator).view(p.shape[:-1]).to(z.device)
            return table[drawn] + after * _noise(z.shape, generator, z)
        expected = p @ table
        a = after / level if self.path == "euler" else 0.0
        return a * z + (1 - a) * expected


def _noise(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator).to(like)


@torch.no_grad()
def predict(
    denoiser: DenoiserLike, table: Tensor, tokens: Tensor, calls: Calls, carried: bool = False, seed: int = 0
) -> Iterator[Tensor]:
    """After every call, log-probabilities (n, t, v) of the token at every place of ``tokens`` (n, t), each from the
    tokens before it; one draw of the noise.

    Args:
        table: (v, k).
        carried: the network carries noisy targets with its tokens (``models.gpt``, one stream): places that are read
            carry their own tokens' at the level of the call.
        seed: of the noise.
    """
    table = table.to(tokens.device)
    generator = torch.Generator().manual_seed(seed)
    z = calls.start(table, tokens.shape, generator)
    total: Tensor | float = 0.0
    for i, level in enumerate(calls.levels):
        shown = z
        if carried:
            shown = torch.cat([table[tokens] + level * _noise(z.shape, generator, z), z], dim=1)
        log_p = denoiser(shown, z.new_full((len(z),), level), Tokens(tokens)).float().log_softmax(-1)
        total, answer = calls.pooled(i, total, z, log_p, table)
        yield answer
        if i + 1 < len(calls.levels):
            z = calls.onward(i, z, log_p.exp(), table, generator)


class Reading(Protocol):
    """A denoiser that has read the beginning of texts and answers for the next place (``models.cache``)."""

    def ask(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Noisy targets (n, k) of the next place at levels ``sigma`` (n,) -> logits (n, v)."""

    def read(self, tokens: Tensor, z: Tensor, sigma: Tensor) -> None:
        """Put ``tokens`` (n,) at the next place, with their noisy targets (n, k) at levels ``sigma`` (n,)."""


@torch.no_grad()
def write(
    readings: Sequence[Reading],
    table: Tensor,
    prompt: Tensor,
    count: int,
    calls: Calls,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Tokens (n,) that go on from ``prompt`` (n, t), ``count`` of them, as they are drawn.

    Args:
        readings: that of the denoiser at each level of ``calls``; the same one may stand at several.
        table: (v, k).
        prompt: may have no tokens.
        temperature, top_p: of the last answer; see ``sample.masked.pick``.
        seed: of everything random.
    """
    if count < 1:
        raise ValueError(f"count={count} writes nothing; use 1 or more")
    if len(readings) != len(calls.levels):
        raise ValueError(f"{len(readings)} readings for {len(calls.levels)} levels; give one for each level")
    table = table.to(prompt.device)
    generator = torch.Generator().manual_seed(seed)
    for tokens in prompt.unbind(1):
        _read(readings, table, tokens, calls, generator)
    for _ in range(count):
        log_p = _ask(readings, table, len(prompt), calls, generator)
        tokens = pick(log_p[:, None], temperature, top_p, generator)[0][:, 0]
        yield tokens
        _read(readings, table, tokens, calls, generator)


def _ask(readings: Sequence[Reading], table: Tensor, count: int, calls: Calls, generator: torch.Generator) -> Tensor:
    """Log-probabilities (n, v) of the next tokens."""
    z = calls.start(table, (count,), generator)
    total: Tensor | float = 0.0
    for i, (reading, level) in enumerate(zip(readings, calls.levels, strict=True)):
        log_p = reading.ask(z, z.new_full((count,), level)).float().log_softmax(-1)
        total, answer = calls.pooled(i, total, z, log_p, table)
        if i + 1 < len(calls.levels):
            z = calls.onward(i, z, log_p.exp(), table, generator)
    return answer


def _read(readings: Sequence[Reading], table: Tensor, tokens: Tensor, calls: Calls, generator: torch.Generator) -> None:
    """Every denoiser reads the tokens, once."""
    done: list[Reading] = []
    for reading, level in zip(readings, calls.levels, strict=True):
        if not any(reading is other for other in done):
            z = table[tokens] + level * _noise((len(tokens), table.shape[1]), generator, table)
            reading.read(tokens, z, z.new_full((len(tokens),), level))
            done.append(reading)
