"""The data of experiments: what is trained on, and what everything is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from oneblock.data import EncodedSource, ImageData, TextBatches, TextData, TokenFile, VideoData, open_text
from oneblock.evaluate.writing import held_out as windows_of
from oneblock.presets.base import ImageFacts, PictureRecipe, TextFacts, TextRecipe
from oneblock.presets.data import Data, check_vocabulary, open_data, open_images, open_videos
from oneblock.presets.video import VideoRecipe


@dataclass(frozen=True)
class Pictures:
    """Images of both splits, and what a plan must know of them."""

    train: EncodedSource
    test: EncodedSource
    facts: ImageFacts


@dataclass(frozen=True)
class Texts:
    """Training windows, the held-out windows (n, t) that every run is scored on, counted where they are ``new`` (n,),
    and what a plan must know of them."""

    train: TextBatches
    test: Tensor
    new: Tensor
    facts: TextFacts

    @property
    def file(self) -> TokenFile:
        """The training text."""
        return self.train.source.file


def open_pictures(recipe: PictureRecipe, data: Data | None, held_out: Data | None) -> Pictures:
    """Images as ``experiment.compare`` is given them."""
    train, facts = open_data(recipe, data)
    named = _named(recipe.usual_data if data is None else data, held_out)
    if isinstance(named, str):
        named = ImageData(data=named)
    test = open_images(named, "test") if isinstance(named, ImageData) else open_data(recipe, named)[0]
    return _alike(Pictures(cast(EncodedSource, train), cast(EncodedSource, test), cast(ImageFacts, facts)))


def open_clips(recipe: VideoRecipe, data: Data | None, held_out: Data | None) -> Pictures:
    """Clips as ``experiment.compare`` is given them."""
    train, facts = open_data(recipe, data)
    named = _named(recipe.usual_data if data is None else data, held_out)
    if isinstance(named, str):
        named = VideoData(data=named)
    test = open_videos(named, "test") if isinstance(named, VideoData) else open_data(recipe, named)[0]
    return _alike(Pictures(cast(EncodedSource, train), cast(EncodedSource, test), cast(ImageFacts, facts)))


def _alike(known: Pictures) -> Pictures:
    """Refuse held-out samples of another shape than those of training."""
    if known.test.shape != known.train.shape:
        raise ValueError(
            f"held_out has samples of shape {known.test.shape}, the training data {known.train.shape}; give held-out "
            "data of the same size and channels"
        )
    return known


def check_classes(known: Pictures) -> None:
    """Refuse held-out images of other classes than the training images."""
    trained, held_out = len(known.train.classes), len(known.test.classes)
    if trained != held_out:
        raise ValueError(
            f"held_out has {held_out} classes, the training data {trained}; give held-out data of the same classes"
        )


def open_texts(recipe: TextRecipe, data: Data | None, held_out: Data | None, windows: int) -> Texts:
    """Text as ``experiment.compare`` is given it; so many ``windows`` to be scored on, in the vocabulary of the
    training text."""
    batches, facts = open_data(recipe, data)
    train = cast(TextBatches, batches)
    named = _named(recipe.usual_data if data is None else data, held_out)
    if isinstance(named, str):
        named = TextData(data=named)
    if isinstance(named, TextData):
        named = open_text(named.data, "test", train.source.vocabulary, root=named.data_dir)
    if not isinstance(named, TokenFile):
        raise ValueError(f"held_out is a {type(named).__name__}; text takes a name, TextData or a TokenFile")
    check_vocabulary(named, train.source.vocabulary)
    return Texts(train, *windows_of(named, recipe.length, windows), cast(TextFacts, facts))


def _named(data: Data, held_out: Data | None) -> Data:
    """Where held-out samples come from; data of the user's own have no second split."""
    if held_out is None and not isinstance(data, str | ImageData | TextData | VideoData):
        raise ValueError(
            f"data is a {type(data).__name__}, which has no held-out part; give held_out=... too, of the same kind"
        )
    return data if held_out is None else held_out
