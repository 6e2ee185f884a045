"""From noise to the next token: a few calls of the denoiser for every place of a text (``sample.calls``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Tokens
from oneblock.sample.calls import Calls, noise
from oneblock.sample.masked import pick


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
            shown = torch.cat([table[tokens] + level * noise(z.shape, generator, z), z], dim=1)
        log_p = denoiser(shown, z.new_full((len(z),), level), Tokens(tokens)).float().log_softmax(-1)
        total, answer = calls.log_probabilities(i, total, z, log_p, table)
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
        prompt: may be empty.
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
        total, answer = calls.log_probabilities(i, total, z, log_p, table)
        if i + 1 < len(calls.levels):
            z = calls.onward(i, z, log_p.exp(), table, generator)
    return answer


def _read(readings: Sequence[Reading], table: Tensor, tokens: Tensor, calls: Calls, generator: torch.Generator) -> None:
    """Every denoiser reads the tokens, once."""
    done: list[Reading] = []
    for reading, level in zip(readings, calls.levels, strict=True):
        if not any(reading is other for other in done):
            z = table[tokens] + level * noise((len(tokens), table.shape[1]), generator, table)
            reading.read(tokens, z, z.new_full((len(tokens),), level))
            done.append(reading)
