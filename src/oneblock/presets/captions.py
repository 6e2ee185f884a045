"""Captions in plans: what a plan holds of them, and captions as what a network is told.

A plan holds the words that its network knows and how many of a caption it reads, so that any machine can tell it a new
one, and a few captions to show samples of. Which image has which caption is the data's: labels count through them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch

from oneblock.condition import Tokens
from oneblock.data import WordTable, known_words
from oneblock.data.progress import note
from oneblock.data.words import longest
from oneblock.plan import Plain, Plan
from oneblock.presets.base import CaptionFacts

TOKENS, WORDS, EXAMPLES = "tokens", "words", "captions"
"""The keys of a plan: the first of its architecture, the others of its recipe."""
MOST_TOKENS = 64
"""Of a caption, that a network reads unless the recipe says otherwise."""
SHOWN = 8
"""Captions of the data that a plan holds, to show samples of."""
SHOWN_LETTERS = 200
"""Letters of each of them, at most."""


def caption_facts(captions: Sequence[str]) -> CaptionFacts:
    """What a plan must know of the different ``captions`` of its training images."""
    chosen = torch.linspace(0, len(captions) - 1, min(SHOWN, len(captions)), dtype=torch.float64).round().long()
    examples = tuple(captions[i][:SHOWN_LETTERS] for i in chosen.tolist())
    return CaptionFacts(words=known_words(captions), longest=longest(captions), examples=examples)


def is_captioned(plan: Plan) -> bool:
    """Whether the network of a plan is told captions."""
    return bool(plan.architecture.get(TOKENS))


def caption_shape(facts: CaptionFacts | None, tokens: int) -> dict[str, int]:
    """What the architecture of a plan holds of captions; ``tokens`` of each are read, 0 is all of the longest."""
    if facts is None:
        return {}
    return {TOKENS: tokens or min(facts.longest, MOST_TOKENS), "vocabulary": 1 + len(facts.words)}


def caption_settings(facts: CaptionFacts | None) -> dict[str, Plain]:
    """What the recipe of a plan holds of captions."""
    return {} if facts is None else {WORDS: list(facts.words), EXAMPLES: list(facts.examples)}


def former_facts(plan: Plan, facts: CaptionFacts | None) -> CaptionFacts | None:
    """The facts of captions as they were when ``plan`` was made."""
    if facts is None or not is_captioned(plan):
        return facts
    words, examples = (tuple(cast(list[str], plan.recipe.get(key, []))) for key in (WORDS, EXAMPLES))
    return CaptionFacts(words=words, longest=cast(int, plan.architecture[TOKENS]), examples=examples)


def check_captions(words: Sequence[str], architecture: Mapping[str, Plain]) -> None:
    """Refuse, with a ``ValueError``, words that do not go with the network of a plan."""
    wanted = architecture.get("vocabulary", 0) if architecture.get(TOKENS) else 0
    if wanted != (1 + len(words) if words else 0):
        raise ValueError(
            f"recipe.words has {len(words)} words, but architecture.vocabulary={wanted}: one more than words"
        )
    if len(set(words)) < len(words):
        raise ValueError("recipe.words holds a word twice; restore the plan from a copy of the run")


def word_table(plan: Plan) -> WordTable:
    """The words that the network of a plan knows, and how many of a caption it reads."""
    return WordTable(tuple(cast(list[str], plan.recipe[WORDS])), cast(int, plan.architecture[TOKENS]))


def told_captions(plan: Plan, captions: Sequence[str]) -> Tokens:
    """What the network of a plan is told of ``captions``; an empty one tells nothing. The listener of ``data.progress``
    hears how many were cut."""
    table = word_table(plan)
    found = table.read(captions)
    if found.cut:
        cut = f"{found.cut} of {len(captions)} captions"
        note(f"{cut} have more words than the {table.length} that the network reads; they are cut")
    return Tokens(found.ids, found.mask)


def unknown_words(plan: Plan, captions: Sequence[str]) -> tuple[str, ...]:
    """Words of ``captions`` that the network of a plan does not know, sorted."""
    return word_table(plan).read(captions).unknown


def empty_captions(plan: Plan, count: int) -> Tokens:
    """What the network of a plan is told of ``count`` captions, without content."""
    shape = (count, cast(int, plan.architecture[TOKENS]))
    return Tokens(torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool))


def example_captions(plan: Plan) -> tuple[str, ...]:
    """Captions of the training images, to show samples of."""
    return tuple(cast(list[str], plan.recipe.get(EXAMPLES, [])))
