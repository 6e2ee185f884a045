"""Captions in plans: what a plan holds of them, and captions as what a network is told.

A plan holds the words that its network knows and how many of a caption it reads, so that any machine can tell it a new
one, and a few captions to show samples of. Where a frozen text encoder reads captions it holds where that lies and what
tells it from others. Which image has which caption is the data's: labels count through them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from oneblock.condition import Tokens
from oneblock.convert.text_encoder import TOGETHER, TextEncoder, open_text_encoder
from oneblock.data import WordTable, known_words
from oneblock.data.progress import note
from oneblock.data.words import longest
from oneblock.plan import Plain, Plan
from oneblock.presets.base import CaptionFacts

TOKENS, WIDTH = "tokens", "token_width"
"""Keys of the architecture of a plan."""
WORDS, EXAMPLES, ENCODER, ENCODER_HASH = "words", "captions", "text_encoder", "text_encoder_hash"
"""Keys of its recipe."""
MOST_TOKENS = 64
"""Of a caption, that a network reads unless the recipe says otherwise."""
SHOWN = 8
"""Captions of the data that a plan holds, to show samples of."""
SHOWN_LETTERS = 200
"""Letters of each of them, at most."""


def caption_facts(captions: Sequence[str], encoder: Path | None = None) -> CaptionFacts:
    """What a plan must know of the different ``captions`` of its training images, and of what reads them: the text
    encoder in a directory, or a table of their words."""
    chosen = torch.linspace(0, len(captions) - 1, min(SHOWN, len(captions)), dtype=torch.float64).round().long()
    examples = tuple(captions[i][:SHOWN_LETTERS] for i in chosen.tolist())
    if encoder is None:
        return CaptionFacts(words=known_words(captions), longest=longest(captions), examples=examples)
    opened = open_text_encoder(encoder)
    return CaptionFacts(
        words=(),
        longest=min(opened.length, max(opened.count(captions))),
        examples=examples,
        encoder=str(encoder.expanduser().resolve()),
        encoder_hash=opened.fingerprint,
        width=opened.width,
    )


def is_captioned(plan: Plan) -> bool:
    """Whether the network of a plan is told captions."""
    return bool(plan.architecture.get(TOKENS))


def caption_shape(facts: CaptionFacts | None, tokens: int) -> dict[str, int]:
    """What the architecture of a plan holds of captions; ``tokens`` of each are read, 0 is all of the longest."""
    if facts is None:
        return {}
    told = {WIDTH: facts.width} if facts.encoder else {"vocabulary": 1 + len(facts.words)}
    return {TOKENS: tokens or min(facts.longest, MOST_TOKENS), **told}


def caption_settings(facts: CaptionFacts | None) -> dict[str, Plain]:
    """What the recipe of a plan holds of captions."""
    if facts is None:
        return {}
    told: dict[str, Plain] = {ENCODER: facts.encoder, ENCODER_HASH: facts.encoder_hash}
    return {**(told if facts.encoder else {WORDS: list(facts.words)}), EXAMPLES: list(facts.examples)}


def former_facts(plan: Plan, facts: CaptionFacts | None) -> CaptionFacts | None:
    """The facts of captions as they were when ``plan`` was made."""
    if facts is None or not is_captioned(plan):
        return facts
    words, examples = (tuple(cast(list[str], plan.recipe.get(key, []))) for key in (WORDS, EXAMPLES))
    same = facts.encoder_hash == plan.recipe.get(ENCODER_HASH, "")
    return replace(
        facts,
        words=() if facts.encoder else words,
        longest=cast(int, plan.architecture[TOKENS]),
        examples=examples,
        encoder=cast(str, plan.recipe.get(ENCODER, "")) if same else facts.encoder,
    )


def check_captions(words: Sequence[str], encoder: str, architecture: Mapping[str, Plain]) -> None:
    """Refuse, with a ``ValueError``, words or a text ``encoder`` that do not go with the network of a plan."""
    told = bool(architecture.get(TOKENS))
    wanted = architecture.get("vocabulary", 0) if told else 0
    if wanted != (1 + len(words) if words else 0):
        raise ValueError(
            f"recipe.words has {len(words)} words, but architecture.vocabulary={wanted}: one more than words"
        )
    if len(set(words)) < len(words):
        raise ValueError("recipe.words holds a word twice; restore the plan from a copy of the run")
    width = architecture.get(WIDTH, 0) if told else 0
    if bool(width) != bool(encoder):
        raise ValueError(f"recipe.text_encoder={encoder!r} does not go with architecture.token_width={width}")


def word_table(plan: Plan) -> WordTable:
    """The words that the network of a plan knows, and how many of a caption it reads."""
    return WordTable(tuple(cast(list[str], plan.recipe[WORDS])), cast(int, plan.architecture[TOKENS]))


def told_captions(plan: Plan, captions: Sequence[str], encoder: Path | None = None) -> Tokens:
    """What the network of a plan is told of ``captions``; an empty one tells nothing. The listener of ``data.progress``
    hears how many were cut.

    Args:
        encoder: directory of the plan's text encoder, if it has one; None is where it was.

    Raises:
        ValueError: the text encoder is not there, or another one.
    """
    length = cast(int, plan.architecture[TOKENS])
    if encoder is not None and ENCODER not in plan.recipe:
        raise ValueError(
            f"text_encoder={str(encoder)!r} is given, but the run was trained with a table of words; leave it out"
        )
    if ENCODER in plan.recipe:
        encoded = _encoder(plan, encoder).read(captions, length)
        found, cut, unit = Tokens(encoded.vectors, encoded.mask), encoded.cut, "tokens"
    else:
        read = word_table(plan).read(captions)
        found, cut, unit = Tokens(read.ids, read.mask), read.cut, "words"
    if cut:
        most = f"the {length} {unit} that the network reads"
        note(f"{cut} of {len(captions)} captions are longer than {most}; they are cut")
    return found


def caption_vectors(plan: Plan, captions: Sequence[str], encoder: Path | None = None) -> Tensor:
    """What the text encoder of a plan makes of whole ``captions``: the mean of the last hidden states, float32
    (n, width); zeros of an empty one. Arguments and errors as of ``told_captions``."""
    opened, found = _encoder(plan, encoder), list[Tensor]()
    for start in range(0, len(captions), TOGETHER):  # all states of many captions would fill the memory
        some = captions[start : start + TOGETHER]
        read = opened.read(some, min(opened.length, max(1, *opened.count(some))))
        found.append(read.vectors.sum(1) / read.mask.sum(1, keepdim=True).clamp_min(1))
    return torch.cat(found)


def _encoder(plan: Plan, directory: Path | None) -> TextEncoder:
    """The text encoder of a plan."""
    place = directory or Path(cast(str, plan.recipe[ENCODER]))
    if not place.is_dir():
        raise ValueError(
            f"the text encoder of the run is not at {place}; give its directory: --text-encoder DIR (text_encoder=...)"
        )
    opened, needed = open_text_encoder(place), plan.recipe[ENCODER_HASH]
    if opened.fingerprint != needed:
        raise ValueError(
            f"the text encoder at {place} is {opened.fingerprint}, but the run was trained with {needed}; give that one"
        )
    return opened


def check_alike(plan: Plan, other: Plan) -> None:
    """Refuse two plans whose networks would be told one caption in two ways with a ``ValueError``."""
    keys = (WORDS, ENCODER_HASH)
    ours, theirs = ([one.architecture.get(TOKENS), *map(one.recipe.get, keys)] for one in (plan, other))
    if ours != theirs:
        raise ValueError(
            "the captions of the run are read in another way than those of its teacher: other words, another text "
            "encoder or other --caption-tokens; train both on the same data with the same settings"
        )


def unknown_words(plan: Plan, captions: Sequence[str]) -> tuple[str, ...]:
    """Words of ``captions`` that the network of a plan does not know, sorted; a text encoder knows all."""
    return () if ENCODER in plan.recipe else word_table(plan).read(captions).unknown


def empty_captions(plan: Plan, count: int) -> Tokens:
    """What the network of a plan is told of ``count`` captions, without content."""
    shape, width = (count, cast(int, plan.architecture[TOKENS])), cast(int, plan.architecture.get(WIDTH, 0))
    values = torch.zeros(*shape, width) if width else torch.zeros(shape, dtype=torch.int64)
    return Tokens(values, torch.ones(shape, dtype=torch.bool))


def example_captions(plan: Plan) -> tuple[str, ...]:
    """Captions of the training images, to show samples of."""
    return tuple(cast(list[str], plan.recipe.get(EXAMPLES, [])))
