"""Generators that are told captions: which ones samples are told, and how far pictures of scenes agree with theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneblock.checks import check_count
from oneblock.condition import Condition, Tokens
from oneblock.data import EncodedSource, caption_agreement, captions_of
from oneblock.data.progress import note
from oneblock.data.scenes import parse_scene
from oneblock.plan import Plan
from oneblock.presets.captions import example_captions, is_captioned, told_captions, unknown_words
from oneblock.presets.image import image_task

AGREEMENT = "caption_agreement"
"""Of a row of scores; with ``_chance`` behind it that under other captions, with ``_real`` that of real images."""
CHECKED = 1000
"""Pictures that are checked, at most."""


def read_captions(plan: Plan, captions: Sequence[str], text_encoder: Path | None = None) -> Tokens:
    """What the network of a plan is told of a user's ``captions``, an empty one being nothing. The listener of
    ``data.progress`` hears how many were cut, and which words are unknown.

    Args:
        text_encoder: directory of the plan's text encoder, if it has one; None is where it was.

    Raises:
        ValueError: there are none, the plan is told no captions, or its text encoder is not there.
    """
    if not is_captioned(plan):
        raise ValueError(
            f"captions={list(captions)[:3]} are given, but this model was trained without captions; leave them out"
        )
    if isinstance(captions, str) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"captions={captions!r} are not captions; give one text or more, in a list")
    unknown = unknown_words(plan, captions)
    if unknown:
        note(f"words that no training caption has: {', '.join(unknown[:10])}; the network is told that a word is there")
    return told_captions(plan, captions, text_encoder)


def captions_in_turn(plan: Plan, count: int | None = None) -> list[str]:
    """Captions of a plan's training images in turn, ``count`` in all; None takes each that the plan holds once."""
    held = example_captions(plan)
    if count is not None:
        check_count("count", count)
    return [held[i % len(held)] for i in range(len(held) if count is None else count)]


def scored_captions(plan: Plan, test: EncodedSource, count: int) -> list[str]:
    """What ``count`` images are told to be scored: the captions of the held-out images in order, then again."""
    captions = captions_of(test)
    assert captions is not None, "the data fit the plan"
    labels = test.first(count).labels.tolist()
    return [captions[labels[i % len(labels)]] for i in range(count)]


def told_in_turn(plan: Plan, test: EncodedSource, count: int) -> Tensor | Condition | None:
    """What ``count`` images are told to be scored: classes in turn, int64 (count,), or ``scored_captions``; None of a
    plan that tells nothing."""
    if is_captioned(plan):
        return told_captions(plan, scored_captions(plan, test, count), test.text_encoder)
    classes = image_task(plan).num_classes
    return torch.arange(count) % classes if classes else None


def are_scenes(images: Tensor, captions: Sequence[str]) -> bool:
    """Whether a checker knows pictures (n, c, h, w) and their captions: those of generated scenes."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        return False
    try:
        for caption in dict.fromkeys(captions):
            parse_scene(caption)
    except ValueError:
        return False
    return bool(captions)


def scene_agreement(images: Tensor, captions: Sequence[str], test: EncodedSource) -> dict[str, Any]:
    """The share of pictures uint8 (n, 3, h, w) of scenes that have each attribute of their captions
    (``data.caption_agreement``), beside that under each other's captions and that of held-out pictures; at most
    ``CHECKED`` of each are looked at.
    """
    images, captions = images[:CHECKED], captions[:CHECKED]
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0)).tolist()
    real, known = test.first(CHECKED), captions_of(test)
    assert known is not None, "the data fit the plan"
    return {
        AGREEMENT: caption_agreement(images, captions),
        f"{AGREEMENT}_chance": caption_agreement(images, [captions[i] for i in order]),
        f"{AGREEMENT}_real": caption_agreement(real.images, [known[label] for label in real.labels.tolist()]),
    }
