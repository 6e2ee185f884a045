"""How likely a frozen language model, the scorer, finds texts that another model wrote.

With the texts t cut into tokens t_1, t_2, ... by the scorer's own vocabulary and p its conditional probabilities,

    perplexity             exp(-1/N sum_t sum_i log p(t_i | t_1 .. t_i-1)),  N tokens in all
    bits per character     -1/C sum_t sum_i log2 p(t_i | t_1 .. t_i-1),      C characters in all
    bits per byte          the same, divided by the bytes of the texts in UTF-8

Perplexity is per token, so it compares only scores of one scorer, and not even those where texts are cut unlike each
other: nonsense takes more tokens, each of them less surprising. Bits per byte compare all of these. All numbers
fall when a text is dull or repeats itself: read them beside a measure of diversity (``text``), and beside the score of
real text. As "generative perplexity" in Lou et al., "Discrete Diffusion Modeling by Estimating the Ratios of the Data
Distribution", arXiv 2310.16834, and Sahoo et al., "Simple and Effective Masked Diffusion Language Models", arXiv
2406.07524, both with GPT-2 as the scorer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Likelihood(NamedTuple):
    """-log p of a whole text in nats, >= 0, and the number of tokens that it is the sum of."""

    nats: float
    num_tokens: int


class TextScorer(Protocol):
    """A frozen language model; ``name`` goes into every result computed with it."""

    @property
    def name(self) -> str:
        """Name under which scores are reported."""

    def __call__(self, texts: Sequence[str]) -> list[Likelihood]:
        """The likelihood of each text, first token included; an empty text has no tokens and 0 nats."""


@dataclass(frozen=True)
class GenerativePerplexity:
    """Likelihood of texts under the scorer of that name.

    ``perplexity`` >= 1 is per token of the scorer, ``bits_per_character`` >= 0 per code point, ``bits_per_byte`` >= 0
    per byte in UTF-8.
    """

    scorer: str
    perplexity: float
    bits_per_character: float
    bits_per_byte: float
    num_texts: int
    num_tokens: int
    num_characters: int
    num_bytes: int

    def as_row(self) -> dict[str, str | int | float]:
        """The fields as plain values, ready for one line of JSON."""
        return asdict(self)


def generative_perplexity(texts: Sequence[str], scorer: TextScorer) -> GenerativePerplexity:
    """Perplexity, bits per character and bits per byte of texts, each from sums over all of them.

    A long text thus weighs more than a short one. Raises ValueError for a single string and where no text has a
    character.
    """
    check_texts(texts)
    likelihoods = scorer(texts)
    nats = math.fsum(each.nats for each in likelihoods)
    num_tokens, num_characters = sum(each.num_tokens for each in likelihoods), sum(map(len, texts))
    num_bytes = sum(len(text.encode(errors="replace")) for text in texts)
    return GenerativePerplexity(
        scorer=scorer.name,
        perplexity=math.exp(nats / num_tokens),
        bits_per_character=nats / math.log(2) / num_characters,
        bits_per_byte=nats / math.log(2) / num_bytes,
        num_texts=len(texts),
        num_tokens=num_tokens,
        num_characters=num_characters,
        num_bytes=num_bytes,
    )


@dataclass(frozen=True)
class CausalScorer:
    """A scorer made of any causal language model over tokens.

    Texts longer than ``window`` tokens are scored in pieces of that length, each without a view of the one before.

    Attributes:
        name: under which scores are reported.
        encode: a text as token ids.
        logits: unnormalised log probabilities (n, v) of what follows each of the ids int64 (n,), with
            n <= ``window``; row i sees ids 0..i.
        start: id put before every piece, so that its first token is predicted too.
        window: the most tokens that are scored together, 1 or more.
    """

    name: str
    encode: Callable[[str], Sequence[int]]
    logits: Callable[[Tensor], Tensor]
    start: int
    window: int = 1024

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window={self.window} is too small; 1 or more are allowed; use for example 1024")

    def __call__(self, texts: Sequence[str]) -> list[Likelihood]:
        """The likelihood of each text."""
        return [self._score(self.encode(text)) for text in texts]

    def _score(self, ids: Sequence[int]) -> Likelihood:
        pieces = (ids[start : start + self.window] for start in range(0, len(ids), self.window))
        return Likelihood(math.fsum(map(self._nats, pieces)), len(ids))

    @torch.no_grad()
    def _nats(self, piece: Sequence[int]) -> float:
        tokens = torch.tensor([self.start, *piece])
        logits = self.logits(tokens[:-1])
        return F.cross_entropy(logits.float(), tokens[1:].to(logits.device), reduction="sum").item()


def check_texts(texts: Sequence[object]) -> None:
    """ValueError for a single string in place of a list, and unless some text has a character or token."""
    if isinstance(texts, str):
        raise ValueError(f"texts is one string of {len(texts)} characters; a list of texts is allowed: pass [text]")
    if not any(texts):
        raise ValueError(f"texts has {len(texts)} texts, none with a character; pass at least one that is not empty")
