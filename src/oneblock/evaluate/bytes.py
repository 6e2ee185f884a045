"""Bits per byte of an EGG on a text, and of what any model of bytes must be better than."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.models.egg import EGG, END, SYMBOLS, Perturbed
from oneblock.ops.integers import BITS, LogLikelihood


@dataclass(frozen=True)
class ByteScores:
    """Bits per byte of a held-out text; n-grams are those of the training text, gzip has seen neither.

    Args:
        bytes: that were predicted.
    """

    model: float
    unigram: float
    bigram: float
    gzip: float
    bytes: int


def score_bytes(model: EGG, text: Tensor, train: Tensor, streams: int = 64) -> ByteScores:
    """The scores of ``model`` on ``text`` (length,) uint8, in as many pieces as ``streams``, each from empty states.

    Raises:
        ValueError: the text is too short for so many pieces.
    """
    length = len(text) // streams
    if length < 2:
        raise ValueError(f"the text has {len(text)} bytes, too few for {streams} streams; use a longer text")
    pieces = text[: streams * length].view(streams, length).T.to(torch.int32)
    score, total = LogLikelihood(text.device), 0
    reading = model.read(pieces[:-1], model.start(streams), Perturbed(model.weights))
    for (logits, _), following in zip(reading, pieces[1:], strict=True):
        total += int(score(logits, following).sum())
    count = streams * (length - 1)
    return ByteScores(
        model=-total / (BITS * count),
        unigram=_unigram(text, train),
        bigram=_bigram(text, train),
        gzip=8 * len(gzip.compress(bytes(text.tolist()), 9)) / len(text),
        bytes=count,
    )


def _unigram(text: Tensor, train: Tensor) -> float:
    """With one added to every count, so that no byte is impossible."""
    counts = torch.bincount(train.long(), minlength=SYMBOLS).double() + 1
    return float(-(counts / counts.sum()).log2()[text.long()].mean())


def _bigram(text: Tensor, train: Tensor) -> float:
    """Witten and Bell's interpolation with the unigram (``metrics.ngram``)."""
    counts = torch.bincount(train[:-1].long() * SYMBOLS + train[1:].long(), minlength=SYMBOLS**2).double()
    counts = counts.view(SYMBOLS, SYMBOLS)
    alone = torch.bincount(train.long(), minlength=SYMBOLS).double() + 1
    kinds = (counts > 0).sum(1, keepdim=True)
    mixed = counts + kinds.clamp(min=1) * (alone / alone.sum())
    probability = mixed / mixed.sum(1, keepdim=True)
    return float(-probability.log2()[text[:-1].long(), text[1:].long()].mean())


def sample_bytes(model: EGG, count: int, length: int, seed: int, start: bytes = b"") -> Iterator[bytes]:
    """``count`` texts of ``length`` bytes after ``start``, drawn byte by byte with probability
    ``2^(logit / 16)`` over the sum, in whole numbers.

    Raises:
        ValueError: there is nothing to draw.
    """
    if count < 1 or length < 1:
        raise ValueError(f"count={count}, length={length} leave nothing to draw; use 1 or more of both")
    generator = torch.Generator().manual_seed(seed)
    score, w, states = LogLikelihood(), Perturbed(model.weights), model.start(count)
    logits = torch.empty(0)
    for byte in bytes([END]) + start:
        logits, states = model.step(torch.full((count,), byte, dtype=torch.int32), states, w)
    drawn = []
    for _ in range(length):
        below = score.powers(logits).cumsum(-1)
        at = torch.stack([torch.randint(int(last), (1,), generator=generator) for last in below[:, -1]])
        token = torch.searchsorted(below, at, right=True)[:, 0].to(torch.int32)
        drawn.append(token)
        logits, states = model.step(token, states, w)
    for row in torch.stack(drawn, 1).tolist():
        yield bytes(row)
