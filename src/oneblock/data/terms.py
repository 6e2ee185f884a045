"""Captions as vectors of their words and pairs of neighbouring words, without a network.

With f the number of training captions that have a term and n that of all, the entry of a caption that has the term is

    1 + log((1 + n) / (1 + f)),

and the vector is scaled to length 1: the inverse document frequency of Sparck Jones, "A statistical interpretation of
term specificity and its application in retrieval" (1972), smoothed as if one more caption had all terms. Pairs keep
what a bag of words loses: what is red, and what stands left of what.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .words import split_words

MOST_TERMS = 4096
"""Entries of a vector at most: the most frequent terms."""
FEWEST_OF_PAIR = 2
"""Captions that have a pair of words that counts: one that stands in a single caption tells nothing of another."""

Term = tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """The terms of training captions, sorted, and the weight of each."""

    terms: tuple[Term, ...]
    weights: tuple[float, ...]

    def vectors(self, captions: Sequence[str]) -> Tensor:
        """float32 (n, number of terms), of length 1; zeros of a caption without a known term."""
        found = torch.zeros(len(captions), len(self.terms))
        for row, caption in zip(found, captions, strict=True):
            for term in _terms(caption):
                if term in self._places:
                    place = self._places[term]
                    row[place] = self.weights[place]
        return normalize(found, dim=1)

    @cached_property
    def _places(self) -> dict[Term, int]:
        return {term: place for place, term in enumerate(self.terms)}


def known_terms(captions: Sequence[str], most: int = MOST_TERMS) -> Terms:
    """The terms of different ``captions``; of more than ``most`` those that stand in most of them."""
    counts = Counter(term for caption in captions for term in _terms(caption))
    counted = {term: count for term, count in counts.items() if len(term) == 1 or count >= FEWEST_OF_PAIR}
    kept = sorted(sorted(counted, key=lambda term: (-counted[term], term))[:most])
    weights = [1 + math.log((1 + len(captions)) / (1 + counted[term])) for term in kept]
    return Terms(tuple(kept), tuple(weights))


def _terms(caption: str) -> set[Term]:
    words = split_words(caption)
    return {(word,) for word in words} | set(pairwise(words))
