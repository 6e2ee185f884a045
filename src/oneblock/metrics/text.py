"""Diversity of generated texts, and their likelihood at equal diversity.

A text is a string or a list of tokens. A string is cut into words, at white space, or into characters; tokens stay as
they are. With N n-grams in all, U of them different, and shares f_w of the words (characters, tokens) w of a text,

    distinct      U / N over all texts, where no n-gram reaches from one text into the next
    repetition    1 - U / N in each text, then the mean over texts
    entropy       -sum_w f_w log2 f_w in each text, then the mean over texts

All three depend on length, since a long text must come back to its words: compare texts of one length only, and give
the same numbers of real text cut to it. A likelihood alone rewards dull text; ``matched_perplexity`` compares models at
one entropy instead.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal, get_args

from oneblock.metrics.likelihood import TextScorer, check_texts, generative_perplexity

Unit = Literal["words", "characters"]
Text = str | Sequence[Hashable]


@dataclass(frozen=True)
class TextQuality:
    """Diversity of texts and their likelihood under a scorer, each with its name.

    The diversity counts the unit of that name. ``distinct_*`` and ``repetition_4`` lie in 0..1, ``unigram_entropy`` is
    in bits, each None where no text is long enough for it; ``perplexity`` is per token of the scorer. ``note`` says
    what weakens the numbers, empty if nothing does.
    """

    scorer: str
    unit: str
    num_texts: int
    num_characters: int
    distinct_1: float | None
    distinct_2: float | None
    distinct_4: float | None
    repetition_4: float | None
    unigram_entropy: float | None
    perplexity: float
    bits_per_character: float
    bits_per_byte: float
    note: str

    def as_row(self) -> dict[str, str | int | float | None]:
        """The fields as plain values, ready for one line of JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SamplingPoint:
    """Entropy in bits and perplexity of the samples that a model draws at one temperature."""

    temperature: float
    entropy: float
    perplexity: float


def text_quality(texts: Sequence[str], scorer: TextScorer, unit: Unit = "words") -> TextQuality:
    """Diversity of texts by their words or characters, and likelihood under ``scorer``.

    Score real texts of the same lengths, too: they are what the numbers are read against.
    Raises ValueError for an unknown unit, a single string and texts without a character.
    """
    longest = max((len(_cut(text, unit)) for text in texts), default=0)
    likelihood = generative_perplexity(texts, scorer)
    return TextQuality(
        scorer=likelihood.scorer,
        unit=unit,
        num_texts=likelihood.num_texts,
        num_characters=likelihood.num_characters,
        distinct_1=distinct(texts, 1, unit) if longest >= 1 else None,
        distinct_2=distinct(texts, 2, unit) if longest >= 2 else None,
        distinct_4=distinct(texts, 4, unit) if longest >= 4 else None,
        repetition_4=repetition(texts, 4, unit) if longest >= 4 else None,
        unigram_entropy=unigram_entropy(texts, unit) if longest >= 1 else None,
        perplexity=likelihood.perplexity,
        bits_per_character=likelihood.bits_per_character,
        bits_per_byte=likelihood.bits_per_byte,
        note=_note(texts, unit),
    )


def distinct(texts: Sequence[Text], n: int, unit: Unit = "words") -> float:
    """distinct-n in 0..1: how many different n-grams the texts have, per n-gram.

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", section 5.2, arXiv
    1510.03055, who divide by the number of words, not of n-grams: for n > 1 theirs is smaller, by the share of words
    that begin no n-gram. ``unit`` cuts strings and leaves lists of tokens alone. Raises ValueError for n < 1, an
    unknown unit, a single string, and texts without an n-gram.
    """
    counts = [Counter(grams) for grams in _ngrams(texts, n, unit)]
    return len(set().union(*counts)) / sum(each.total() for each in counts)


def repetition(texts: Sequence[Text], n: int = 4, unit: Unit = "words") -> float:
    """seq-rep-n in 0..1: the share of n-grams of a text that repeat an earlier one, mean over texts.

    Welleck et al., "Neural Text Generation with Unlikelihood Training", section 6.1, arXiv 1908.04319. Texts with
    fewer than n units are left out. ``unit`` and errors as for ``distinct``.
    """
    counts = [Counter(grams) for grams in _ngrams(texts, n, unit)]
    return statistics.fmean(1 - len(each) / each.total() for each in counts)


def unigram_entropy(texts: Sequence[Text], unit: Unit = "words") -> float:
    """Entropy in bits of the words (characters, tokens) of a text, mean over texts, in 0..log2 of the longest length.

    The measure of diversity beside generative perplexity in Zheng et al., "Masked Diffusion Models are Secretly
    Time-Agnostic Masked Models and Exploit Inaccurate Categorical Sampling", arXiv 2409.02908, who give it in nats of
    the tokens of their model. Texts without a word are left out. ``unit`` and errors as for ``distinct``.
    """
    return statistics.fmean(_entropy(Counter(grams)) for grams in _ngrams(texts, 1, unit))


def matched_perplexity(arms: Mapping[str, Sequence[SamplingPoint]], entropy: float) -> dict[str, SamplingPoint]:
    """Where each arm meets one common entropy: its temperature and perplexity there.

    Both are linear in the entropy between the two neighbouring points of the arm. The points of an arm may come in any
    order; with the temperature their entropy must rise. Raises ValueError without arms, for an arm whose entropy does
    not rise, and for an entropy that not every arm reaches: nothing is extrapolated.
    """
    if not arms:
        raise ValueError("arms is empty; one or more are allowed: pass the points of each model by its name")
    ordered = {name: _rising(name, points) for name, points in arms.items()}
    low = max(points[0].entropy for points in ordered.values())
    high = min(points[-1].entropy for points in ordered.values())
    for name, points in ordered.items():
        if not points[0].entropy <= entropy <= points[-1].entropy:
            reach = f"{low:g}..{high:g} is allowed, which every arm reaches" if low <= high else "no entropy is in all"
            raise ValueError(
                f"entropy={entropy:g} is outside {points[0].entropy:g}..{points[-1].entropy:g} of arm {name!r}; "
                f"{reach}: choose another, or sample that arm at more temperatures"
            )
    return {name: _interpolate(points, entropy) for name, points in ordered.items()}


def _rising(name: str, points: Sequence[SamplingPoint]) -> list[SamplingPoint]:
    ordered = sorted(points, key=lambda point: point.temperature)
    if not ordered:
        raise ValueError(f"arm {name!r} has no points; one or more are allowed: sample it at some temperatures")
    for low, high in pairwise(ordered):
        if not low.entropy < high.entropy:
            raise ValueError(
                f"arm {name!r} has entropy {low.entropy:g} at temperature {low.temperature:g} and {high.entropy:g} at "
                f"{high.temperature:g}; it must rise: draw more samples, or leave one of the two out"
            )
    return ordered


def _interpolate(points: Sequence[SamplingPoint], entropy: float) -> SamplingPoint:
    for low, high in pairwise(points):
        if entropy <= high.entropy:
            share = (entropy - low.entropy) / (high.entropy - low.entropy)
            temperature = (1 - share) * low.temperature + share * high.temperature
            return SamplingPoint(temperature, entropy, (1 - share) * low.perplexity + share * high.perplexity)
    return points[0]  # a single point, met exactly


def _ngrams(texts: Sequence[Text], n: int, unit: Unit) -> list[list[tuple[Hashable, ...]]]:
    """The n-grams of each text that has one."""
    if n < 1:
        raise ValueError(f"n={n} counts nothing; 1 or more is allowed; use for example 2")
    check_texts(texts)
    pieces = [_cut(text, unit) for text in texts]
    found = [[tuple(piece[i : i + n]) for i in range(len(piece) - n + 1)] for piece in pieces if len(piece) >= n]
    if not found:
        raise ValueError(
            f"texts has {len(texts)} texts of at most {max(map(len, pieces))} {unit}; {n} or more are allowed in one "
            "of them: use a smaller n, another unit or longer texts"
        )
    return found


def _cut(text: Text, unit: Unit) -> Sequence[Hashable]:
    if unit not in get_args(Unit):
        raise ValueError(f"unit={unit!r} is unknown; {', '.join(get_args(Unit))} are allowed; use words")
    return text.split() if isinstance(text, str) and unit == "words" else text


def _entropy(counts: Counter[tuple[Hashable, ...]]) -> float:
    total = counts.total()
    return math.fsum(count / total * math.log2(total / count) for count in counts.values())


def _note(texts: Sequence[str], unit: Unit) -> str:
    lengths = [len(_cut(text, unit)) for text in texts]
    notes = []
    if max(lengths) < 4:
        return f"no text has 4 {unit} or more: what counts 4 of them is not known"
    if short := sum(length < 4 for length in lengths):
        notes.append(f"{short} of {len(texts)} texts have fewer than 4 {unit}; repetition_4 leaves them out")
    if max(lengths) > 2 * statistics.median(lengths):
        notes.append(f"texts of {min(lengths)} to {max(lengths)} {unit} differ in length, which moves the diversity")
    return "; ".join(notes)
