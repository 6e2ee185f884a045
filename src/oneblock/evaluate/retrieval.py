"""Whether generated images find their own captions: retrieval in the space of an encoder that is trained on the
training images and captions of the very data (``metrics.caption_features``). It needs no program that checks captions.

The encoder depends on the training split alone. It is kept on disk, so that many runs on the same data are scored by
the same one. What it was trained on and with is the extractor of a protocol of its own, whose reference is the real
images with the captions that are ranked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneblock.data import EncodedSource, captions_of, drawn
from oneblock.data.imageset import ImageSet
from oneblock.data.kept import find_kept, keep, kept_path
from oneblock.data.progress import tell
from oneblock.data.reading import READING, data_folder
from oneblock.data.terms import known_terms
from oneblock.evaluate.protocol import RETRIEVAL_PROTOCOL, Protocol
from oneblock.evaluate.reference import MOST_IMAGES
from oneblock.metrics import frechet_distance, moments, percentile_bootstrap
from oneblock.metrics.caption_features import (
    FEWEST_CAPTIONS,
    CaptionFeatures,
    restored,
    train_caption_features,
    trained_with,
)
from oneblock.metrics.features import minimum_samples
from oneblock.metrics.retrieval import own_among_nearest
from oneblock.plan import Plan
from oneblock.presets.captions import ENCODER_HASH, caption_vectors

RETRIEVAL = "caption_retrieval"
"""Of a row of scores: the share of images whose own caption is the nearest of all that were asked for; with ``_low``
and ``_high`` its interval, with ``_chance`` what images that say nothing get, with ``_real`` that of held-out images.
"""
AMONG = 5
"""``RETRIEVAL_at_5`` is the share whose own caption is among so many."""
FRECHET = "caption_frechet"
SPREAD_SCORES = (
    *(f"{name}{kind}" for name in (RETRIEVAL, f"{RETRIEVAL}_at_{AMONG}") for kind in ("", "_chance", "_real")),
    *(FRECHET, f"{FRECHET}_floor"),
)
"""The numbers of which a comparison takes means and spreads."""
WORDS = "words and pairs of words of the training captions, tf-idf"
"""What reads captions without a text encoder."""


@dataclass(frozen=True)
class Reader:
    """What makes vectors of captions.

    Args:
        name: for people.
        key: tells it from others that read the same training captions.
        read: captions to float32 (n, k).
    """

    name: str
    key: str
    read: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Judge:
    """Images and captions in one space."""

    features: CaptionFeatures
    reader: Reader

    def captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors float32 (n, dim)."""
        return self.features.texts(self.reader.read(captions))


def encoders_folder() -> Path:
    """Where trained encoders are kept: ``.cache/caption-encoders`` in ``$ONEBLOCK_DATA`` or ``./data``."""
    return data_folder() / ".cache" / "caption-encoders"


def retrieval_judge(plan: Plan, train: EncodedSource | None, test: EncodedSource, asked: Sequence[str]) -> Judge | str:
    """What ranks the captions ``asked`` of generated images, or why they are not ranked.

    It is trained on the images and captions of ``train``, at most ``MOST_IMAGES`` of them, and kept. Captions are read
    by the plan's text encoder if it has one, else by the words of the training captions.
    """
    if train is None or captions_of(train) is None or train.fingerprint() == test.fingerprint():
        return f"{RETRIEVAL} is left out: it needs training images with captions beside the held-out ones; give both"
    images = drawn(train.images, MOST_IMAGES)
    seen, own = images.labels.unique(return_inverse=True)
    captions = [images.classes[label] for label in seen.tolist()]
    for which, some in (("training images", captions), ("held-out images", set(asked))):
        if len(some) < FEWEST_CAPTIONS:
            return f"{RETRIEVAL} is left out: the {which} have a single caption; {FEWEST_CAPTIONS} or more are ranked"
    return _trained(images, own, captions, _reader(plan, captions, train.text_encoder))


def _trained(images: ImageSet, own: Tensor, captions: Sequence[str], reader: Reader) -> Judge:
    """The one that was kept, or trained now."""
    said = f"{images.fingerprint()} {reader.key} {trained_with()}"
    known = hashlib.sha256(said.encode()).hexdigest()[:16]
    path = kept_path(encoders_folder(), images.name, known)
    held = find_kept(path)
    if held is not None:
        return Judge(restored(held, known), reader)
    unit = f"steps of the encoder that ranks captions of {images.name}"
    features = train_caption_features(
        images.images, own, reader.read(captions), known, told=lambda step, steps: tell(step, steps, unit)
    )
    keep(path, features.tensors(), f"the encoder that ranks captions of {images.name}", READING)
    return Judge(features, reader)


def retrieval_scores(
    judge: Judge,
    images: Tensor,
    captions: Sequence[str],
    test: EncodedSource,
    known: Tensor,
    held_out: Tensor | None,
    made: Protocol,
) -> dict[str, Any]:
    """Scores by ``judge``, beside chance and real images, with their protocol.

    Args:
        images: generated, uint8 (n, c, h, w).
        captions: what each was told, of which ``FEWEST_CAPTIONS`` or more are different; all of these are ranked.
        test: held-out images and captions, of which the first were told.
        known, held_out: training images, and others, for the Frechet distance and its floor (``evaluate.reference``).
        made: how the images were made.
    """
    real, held = test.first(len(captions)), captions_of(test)
    assert held is not None, "the data fit the plan"
    places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    ranked = judge.captions(list(places))
    told = torch.tensor([places[caption] for caption in captions])
    theirs = torch.tensor([places[held[label]] for label in real.labels.tolist()])
    features = judge.features
    sides = {"": (features(images), told), "_real": (features(real.images), theirs)}
    scores: dict[str, Any] = {}
    for name, k in ((RETRIEVAL, 1), (f"{RETRIEVAL}_at_{AMONG}", AMONG)):
        if k < len(places):
            for side, (found, own) in sides.items():
                scores |= _interval(f"{name}{side}", own_among_nearest(found, ranked, own, k))
            scores[f"{name}_chance"] = k / len(places)
    by = replace(
        made,
        extractor=features.name,
        extractor_hash=features.weights_hash,
        reference=test.name,
        reference_hash=real.fingerprint(),
        num_reference=len(real),
    )
    return {
        **scores,
        f"{RETRIEVAL}_captions": len(places),
        f"{RETRIEVAL}_reader": judge.reader.name,
        **_frechet(features, known, held_out, images),
        RETRIEVAL_PROTOCOL: by.as_row(),
    }


def _reader(plan: Plan, captions: Sequence[str], encoder: Path | None) -> Reader:
    fingerprint = plan.recipe.get(ENCODER_HASH)
    if fingerprint:
        name = f"the mean of the last hidden states of text encoder {fingerprint}"
        return Reader(name, str(fingerprint), lambda some: caption_vectors(plan, some, encoder))
    return Reader(WORDS, "tf-idf", known_terms(captions).vectors)


def _interval(name: str, hits: Tensor) -> dict[str, float]:
    """The mean of hits float64 (n,) with its percentile interval over the images."""
    if len(hits) < 2:
        return {name: hits.mean().item()}
    found = percentile_bootstrap(lambda some: some.mean().item(), hits)
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _frechet(
    features: CaptionFeatures, known: Tensor, held_out: Tensor | None, images: Tensor
) -> dict[str, float | None]:
    """The distance to training images, and that of held-out ones; None of fewer images than it is worth reading of."""
    fewest = minimum_samples(features.name, features.dim)
    real = moments(features(known)) if len(known) >= fewest else None

    def distance(some: Tensor | None) -> float | None:
        if real is None or some is None or len(some) < fewest:
            return None
        return frechet_distance(real, moments(features(some)))

    return {FRECHET: distance(images), f"{FRECHET}_floor": distance(held_out)}
