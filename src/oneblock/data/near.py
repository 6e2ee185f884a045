"""How much of a held-out text stands in the training text word for word.

Copies of a document never stand in two splits; near-copies may: a second edition, a quotation, a headline that all
share. Passages of ``PASSAGE`` tokens are compared by their hashes ("shingles": Broder, "On the resemblance and
containment of documents", 1997); of long texts only those whose hash ends in zeros, the same ones on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .tokens import DTYPES, TokenFile

PASSAGE = 32
"""Tokens of a passage."""
KEPT = 2**20
"""About as many passages of the training text are compared, at most."""
PIECE = 2**17
"""Passages that are hashed together; so few that what they take is handed back."""
MULTIPLIER, MIXER = 6364136223846793005, -7046029254386353131  # odd; products wrap around in 64 bits
SHARED = 0.5
"""Share of a document's passages that makes it a near-copy."""


@dataclass(frozen=True, kw_only=True)
class NearCopies:
    """Shares in 0..1 of a held-out text.

    ``passages`` of them stand in the training text; ``documents`` of them share half of their passages with it, or
    more. Documents without a passage to compare are left out.
    """

    passages: float
    documents: float

    def as_row(self) -> dict[str, float]:
        """The fields as plain values."""
        return asdict(self)


def near_copies(train: TokenFile, test: TokenFile) -> NearCopies:
    """What ``test`` has in common with ``train``, read piece by piece."""
    zeros = max(0, (len(train) // KEPT).bit_length())
    known = _different(hashes for _, hashes in _passages(train, zeros))
    hits, counts = torch.zeros(test.num_documents), torch.zeros(test.num_documents)
    for starts, hashes in _passages(test, zeros):
        document = torch.searchsorted(test.starts, starts, right=True) - 1
        counts += torch.bincount(document, minlength=len(counts))
        hits += torch.bincount(document, _among(known, hashes).double(), minlength=len(hits))
    compared = counts > 0
    if not compared.any():
        return NearCopies(passages=0.0, documents=0.0)
    shares = hits[compared] / counts[compared]
    return NearCopies(passages=float(hits.sum() / counts.sum()), documents=float((shares >= SHARED).double().mean()))


def _different(parts: Iterable[Tensor]) -> Tensor:
    """Different values of all parts, ascending."""
    known = torch.empty(0, dtype=torch.int64)
    held: list[Tensor] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) > KEPT // 4:
            known, held = torch.cat([known, *held]).unique(), []
    return torch.cat([known, *held]).unique()


def _among(known: Tensor, values: Tensor) -> Tensor:
    if not len(known):
        return torch.zeros(values.shape, dtype=torch.bool)
    return known[torch.searchsorted(known, values).clamp_(max=len(known) - 1)] == values


def _passages(file: TokenFile, zeros: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Where passages start, int64 (n,), and their hashes, of those whose hash ends in so many zeros."""
    dtype = DTYPES[file.dtype]
    with open(file.path, "rb") as opened:  # read and not mapped, so that no more than a piece is in memory
        for start in range(0, len(file) - PASSAGE + 1, PIECE):
            opened.seek(start * dtype.itemsize)
            content = opened.read(min(PIECE + PASSAGE - 1, len(file) - start) * dtype.itemsize)
            hashes = _hashes(torch.frombuffer(bytearray(content), dtype=dtype))
            chosen = (hashes & ((1 << zeros) - 1) == 0).nonzero()[:, 0]
            yield start + chosen, hashes[chosen]


def _hashes(tokens: Tensor) -> Tensor:
    """A hash of each passage of tokens (t,): int64 (t - PASSAGE + 1,)."""
    found, span, factor = tokens.long() + 1, 1, MULTIPLIER
    while span < PASSAGE:  # a polynomial of the tokens, of twice as many every time
        found = (found[:-span] * factor).add_(found[span:])
        span, factor = 2 * span, _wrapped(factor * factor)
    found.mul_(MIXER)
    return found ^ (found >> 29)


def _wrapped(value: int) -> int:
    """An integer as int64 holds it."""
    return (value + 2**63) % 2**64 - 2**63
