"""Key-value caches: networks that have read the beginning of a text and answer for the next place."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from oneblock.models.gpt import GPT, Modulation, Stem
from oneblock.models.recurrent import RecurrentDepth
from oneblock.ops import full


class Cache:
    """Keys and values of the places that a block has read, so that each is worked on once.

    ``ask`` answers for the next place from what was read and a noisy target; ``read`` puts the token there that was
    chosen. The answers are those of ``GPT.forward`` on the whole text, at a fraction of the work.

    Args:
        gpt: the network of a block.
        count: texts n that are read side by side.
    """

    def __init__(self, gpt: GPT, count: int) -> None:
        self.gpt = gpt
        self.length = 0
        stem = gpt.stem
        self._shifted = gpt.config.streams != "two"
        self._prelude = [_Store() for _ in stem.prelude]
        self._layers = [_Store() for _ in gpt.stack()]
        self._next: Tensor | None = None
        self._known: Tensor | None = None
        if self._shifted:
            self._next = self._embed(stem.start(count, stem.embed.weight.device))

    def ask(self, z: Tensor, noise: Tensor) -> Tensor:
        """Noisy targets (n, k) of the next place, noise conditioning (n,) -> logits (n, v)."""
        stem = self.gpt.stem
        stem.check_length(self.length + 1)
        if stem.noisy is not None:
            return self._answer(self._place(z, noise), keep=False)
        if self._known is None:  # an ordinary network reads its place with the first question
            assert self._next is not None, "an ordinary network always has a next place"
            self._known = self._answer(self._next, keep=True)
        return self._known

    def read(self, tokens: Tensor, z: Tensor, noise: Tensor) -> None:
        """Put tokens (n,) at the next place; with one stream ``z`` (n, k) is their noisy targets, which they carry."""
        if not self._shifted:
            self._through(self._embed(tokens[:, None]), keep=True)
        elif self.gpt.stem.noisy is not None:
            self._through(self._place(z, noise), keep=True)
        else:
            self.ask(z, noise)
        self._known = None
        self.length += 1
        if self._shifted:
            self._next = self._embed(tokens[:, None])

    def _embed(self, tokens: Tensor) -> Tensor:
        e: Tensor = self.gpt.stem.embed(tokens)
        return _run(self.gpt.stem, e, self.gpt.stem.prelude, self._prelude, self._prelude_position(), keep=True)

    def _prelude_position(self) -> int:
        return self._prelude[0].length if self._prelude else self.length

    def _place(self, z: Tensor, noise: Tensor) -> Tensor:
        target = self.gpt.stem.target(z[:, None], noise)
        return target if self._next is None else self._next + target

    def _answer(self, h: Tensor, keep: bool) -> Tensor:
        logits: Tensor = self.gpt.head.answer(self._through(h, keep))
        return logits[:, 0]

    def _through(self, h: Tensor, keep: bool) -> Tensor:
        return _run(self.gpt.stem, h, self.gpt.stack(), self._layers, self.length, keep)


class RecurrentCache:
    """The same for a network of recurrent depth: keys and values of every iteration.

    Args:
        model: the network.
        iterations: of the recurrence, for every place.
    """

    def __init__(self, model: RecurrentDepth, iterations: int) -> None:
        self.model = model
        self.length = 0
        gpt = model.gpt
        self._prelude = [_Store() for _ in gpt.stem.prelude]
        self._core = [[_Store() for _ in gpt.layers] for _ in range(iterations)]
        self._coda = [_Store() for _ in gpt.head.coda]

    def ask(self, before: Tensor, state: Tensor) -> Tensor:
        """The token (n,) before the next place and the first state there, (n, d) -> logits (n, v). The place is read
        with it."""
        gpt, state = self.model.gpt, state[:, None]
        stem = gpt.stem
        stem.check_length(self.length + 1)
        e = _run(stem, stem.embed(before[:, None]), stem.prelude, self._prelude, self.length)
        for stores in self._core:
            h = self.model.joined(state, e)
            state = self.model.norm(_run(stem, h, gpt.layers.values(), stores, self.length))
        h = _run(stem, state, gpt.head.coda, self._coda, self.length)
        self.length += 1
        logits: Tensor = gpt.head.answer(h)
        return logits[:, 0]


def _run(
    stem: Stem, h: Tensor, layers: Iterable[nn.Module], stores: list[_Store], position: int, keep: bool = True
) -> Tensor:
    """One place (n, 1, d) through ``layers``, which see the places that their ``stores`` keep."""
    by = stem.turns(torch.tensor([position], device=h.device))
    for layer, store in zip(layers, stores, strict=True):
        h = layer(h, Modulation(by, store.keeping if keep else store.seeing, 1))
    return h


class _Store:
    """Keys and values of one layer."""

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    @property
    def length(self) -> int:
        return 0 if self.k is None else self.k.shape[2]

    def seeing(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """A query sees what is kept, and itself."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        return full(q, k, v)

    def keeping(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same, and its own key and value are kept."""
        out = self.seeing(q, k, v)
        self.k = k if self.k is None else torch.cat([self.k, k], dim=2)
        self.v = v if self.v is None else torch.cat([self.v, v], dim=2)
        return out
