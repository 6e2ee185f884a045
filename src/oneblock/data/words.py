"""The words of captions: a table of those that a network knows, and captions as rows of its ids.

A word is a run of letters, digits and underscores, or any other single mark, in lower case. A caption is written
without spaces in some languages; its parts are then unknown here, and a text encoder reads it better.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from oneblock.checks import check_count

WORD = re.compile(r"\w+|[^\w\s]")
UNKNOWN = 0
"""Id of every word that is not in a table; the first word of the table is 1."""
MOST_WORDS = 8192
"""Words that a table of captions has at most: the most frequent ones."""


@dataclass(frozen=True)
class Read:
    """Captions as a network is told them: word ids int64 (n, t) with 0 behind the end, the mask bool (n, t) of what
    counts, how many captions were cut, and the words that are unknown, sorted."""

    ids: Tensor
    mask: Tensor
    cut: int
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class WordTable:
    """The words that a network knows, and how many of a caption it reads."""

    words: tuple[str, ...]
    length: int

    def __post_init__(self) -> None:
        check_count("length", self.length)

    @property
    def size(self) -> int:
        """The number of ids: ``UNKNOWN`` and one for each word."""
        return 1 + len(self.words)

    def read(self, captions: Sequence[str]) -> Read:
        """``captions`` as ids; an empty one is a row in which nothing counts."""
        rows = [split_words(caption) for caption in captions]
        ids = torch.full((len(rows), self.length), UNKNOWN)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, words in enumerate(rows):
            kept = words[: self.length]
            ids[i, : len(kept)] = torch.tensor([self._ids.get(word, UNKNOWN) for word in kept], dtype=torch.int64)
            mask[i, : len(kept)] = True
        unknown = {word for words in rows for word in words[: self.length]} - self._ids.keys()
        return Read(ids, mask, sum(len(words) > self.length for words in rows), tuple(sorted(unknown)))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, UNKNOWN + 1)}


def split_words(caption: str) -> list[str]:
    """The words of a caption, in order."""
    return WORD.findall(caption.lower())


def known_words(captions: Sequence[str], most: int = MOST_WORDS) -> tuple[str, ...]:
    """The words of ``captions``, sorted; of more than ``most`` those that stand in most captions."""
    counts = Counter(word for caption in captions for word in sorted(set(split_words(caption))))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    return tuple(sorted(frequent))


def longest(captions: Sequence[str]) -> int:
    """Words of the longest of ``captions``."""
    return max(len(split_words(caption)) for caption in captions)
