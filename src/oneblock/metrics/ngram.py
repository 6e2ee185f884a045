"""A language model of characters that needs no training loop: interpolated n-grams with Witten-Bell smoothing.

With h the characters before c, h' the same without the first, C(h c) how often c followed h in the training text,
C(h) = sum_c C(h c), and T(h) how many different characters followed h,

    p(c | h) = (C(h c) + T(h) p(c | h')) / (C(h) + T(h)),    p(c | h) = p(c | h') where C(h) = 0,

and below the empty h a uniform distribution over all code points of Unicode, so that every text has a probability and
the probabilities of the next character sum to one. Witten and Bell, "The Zero-Frequency Problem" (1991), method C;
interpolated as in Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998),
section 2.5.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oneblock.metrics.likelihood import Likelihood, check_texts

CODE_POINTS = sys.maxunicode + 1
_UTF32 = f"utf-32-{sys.byteorder[0]}e"


class _Level(NamedTuple):
    """n-grams of one length: a code is v times the rank of the n-gram without its last character, plus that one.

    The rank of an n-gram is its place in ``codes``, int64 (m,), ascending; ``counts`` (m,) says how often it stands in
    the text. ``totals`` and ``kinds`` are C(h) and T(h) by the rank of h.
    """

    codes: Tensor
    counts: Tensor
    totals: Tensor
    kinds: Tensor


class NGramScorer:
    """Scores texts by the n-grams of ``texts``; its tokens are code points, so perplexity = 2 ^ bits per character.

    ``order`` is n: a character is predicted from the n - 1 before it, fewer at the start of a text; no n-gram reaches
    over the end of one. Time and memory grow with order times the number of characters: seconds for 10^7.
    Raises ValueError for order < 1 and for texts without a character.
    """

    def __init__(self, texts: Sequence[str], order: int = 6) -> None:
        if order < 1:
            raise ValueError(f"order={order} counts nothing; 1 or more is allowed; use for example 6")
        check_texts(texts)
        self.order = order
        self.name = f"witten-bell-{order}gram"
        points, starts = _join(texts)
        self._alphabet, symbols = points.unique(return_inverse=True)
        self._levels: list[_Level] = []
        contexts, num_contexts = torch.zeros_like(symbols), 1
        for _ in range(order):
            level, grams = self._count(contexts, symbols, num_contexts)
            self._levels.append(level)
            contexts, num_contexts = _before(grams, starts), len(level.codes)

    def __call__(self, texts: Sequence[str]) -> list[Likelihood]:
        """The likelihood of each text, a token for each character."""
        lengths = list(map(len, texts))
        sums = [piece.sum().item() for piece in self.log_probabilities(texts).split(lengths)]
        return [Likelihood(abs(nats), length) for nats, length in zip(sums, lengths, strict=True)]

    def log_probabilities(self, texts: Sequence[str]) -> Tensor:
        """log p of every character of all texts in a row, float64 (n,), <= 0."""
        points, starts = _join(texts)
        symbols = _find(self._alphabet, points)
        contexts = torch.zeros_like(symbols)
        p = torch.full(symbols.shape, 1 / CODE_POINTS, dtype=torch.float64)
        for level in self._levels:
            known = (contexts >= 0) & (symbols >= 0)
            grams = torch.where(known, _find(level.codes, contexts * len(self._alphabet) + symbols), -1)
            counts, totals, kinds = _at(level.counts, grams), _at(level.totals, contexts), _at(level.kinds, contexts)
            p = torch.where(totals > 0, (counts + kinds * p) / (totals + kinds), p)
            contexts = _before(grams, starts)
        return p.log()

    def _count(self, contexts: Tensor, symbols: Tensor, num_contexts: int) -> tuple[_Level, Tensor]:
        """The n-grams made of contexts and the symbols behind them, and the rank of the one at each place."""
        size, known = len(self._alphabet), contexts >= 0
        codes, ranks, counts = torch.unique(
            contexts[known] * size + symbols[known], return_inverse=True, return_counts=True
        )
        grams = torch.full_like(symbols, -1).masked_scatter_(known, ranks)
        before = codes // size
        totals = torch.bincount(before, counts.double(), minlength=num_contexts)
        return _Level(codes, counts, totals, torch.bincount(before, minlength=num_contexts)), grams


def _join(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Code points of all texts in a row, int32 (n,), and where each that is not empty begins, int64 (m,)."""
    joined = bytearray("".join(texts).encode(_UTF32, "surrogatepass"))
    points = torch.frombuffer(joined, dtype=torch.int32) if joined else torch.empty(0, dtype=torch.int32)
    lengths = torch.tensor([len(text) for text in texts if text], dtype=torch.int64)
    return points, lengths.cumsum(0) - lengths


def _before(grams: Tensor, starts: Tensor) -> Tensor:
    """The rank of the n-gram that ends one character earlier, -1 where a text begins."""
    shifted = grams.roll(1)
    shifted[starts] = -1
    return shifted


def _find(ascending: Tensor, values: Tensor) -> Tensor:
    """Where each value stands, -1 where it is absent."""
    if not len(ascending):
        return torch.full(values.shape, -1)
    place = torch.searchsorted(ascending, values).clamp_(max=len(ascending) - 1)
    return torch.where(ascending[place] == values, place, -1)


def _at(table: Tensor, ranks: Tensor) -> Tensor:
    """The entries of the table in float64, 0 for rank -1."""
    if not len(table):
        return torch.zeros(ranks.shape, dtype=torch.float64)
    return torch.where(ranks >= 0, table[ranks.clamp(min=0)].double(), 0.0)
