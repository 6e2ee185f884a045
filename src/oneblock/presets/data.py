"""Which data a recipe is trained on: from a name, a source or a Dataset to batches and to what a plan must know.

``data`` is everywhere a name (``"digits"``, ``"folder:DIR"``, ``"books"``), a name with settings (``ImageData``,
``TextData``, ``VideoData``), a ``Source`` or ``TokenFile``, or a map-style torch Dataset of ``(x, label)``,
``(x, caption)`` or ``(x,)``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from oneblock.data import (
    Batches,
    ClipCodec,
    Codec,
    DatasetSource,
    EncodedSource,
    Framewise,
    ImageData,
    MemorySource,
    Pixels,
    Source,
    TextBatches,
    TextData,
    TokenFile,
    TokenSource,
    VideoData,
    VideoSource,
    Vocabulary,
    captions_of,
    drawn,
    load_videos,
    open_source,
    open_text,
    open_vocabulary,
    read_words,
    to_float,
    vocabulary_size,
)
from oneblock.data.dataset import MapStyle
from oneblock.data.pca import FIT_IMAGES, PatchPCA, fit_pca
from oneblock.data.progress import note
from oneblock.data.videos import FRAMES
from oneblock.plan import Plan
from oneblock.presets.base import CaptionFacts, ImageFacts, Recipe, TextFacts, TextRecipe
from oneblock.presets.captions import caption_facts
from oneblock.presets.causal import CausalRecipe
from oneblock.presets.classify import ClassifyRecipe
from oneblock.presets.image import ImageRecipe, check_shape, data_shape, image_shape
from oneblock.presets.masked import is_text, plan_length, plan_vocabulary
from oneblock.presets.video import VideoRecipe
from oneblock.table import cooccurrence, prototypes

Split = Literal["train", "test"]
ABSENT = (ValueError, OSError, ImportError)
"""What opening data raises that have no name, or are not on this machine."""

Data = str | ImageData | TextData | VideoData | Source | TokenFile | MapStyle


def open_data(recipe: Recipe, data: Data | None = None) -> tuple[Batches, ImageFacts | TextFacts]:
    """The training samples of a recipe, and what its plan must know of them; None is what the task usually trains on.

    Raises:
        ValueError: the data are absent, damaged, or not of the recipe's kind.
    """
    data = recipe.usual_data if data is None else data
    if isinstance(recipe, TextRecipe):
        file, name = _open_tokens(recipe, data)
        return TextBatches(TokenSource(file, recipe.length)), _text_facts(recipe, file, name)
    source, name = _open_videos(data) if isinstance(recipe, VideoRecipe) else _open_images(data)
    facts = _image_facts(recipe, source, name)
    if isinstance(data, VideoData):
        return source, replace(facts, fps=data.fps)
    return source, replace(facts, max_pixels=data.max_pixels) if isinstance(data, ImageData) else facts


def open_images(images: ImageData, split: Split = "train") -> EncodedSource:
    """One split of named images."""
    source = open_source(
        images.data,
        split,
        size=images.image_size,
        channels=images.channels,
        root=images.data_dir,
        reading=images.reading(),
    )
    if images.text_encoder is not None and captions_of(source) is None:
        raise ValueError(
            f"text_encoder={str(images.text_encoder)!r} reads captions, and {source.name} has none; leave it out"
        )
    reading = None if images.autoencoder is None else images.reading()
    return EncodedSource(source, open_codec(images.autoencoder), reading, text_encoder=images.text_encoder)


def plan_source(plan: Plan, data: Data | None = None) -> Batches:
    """The training samples of a plan: of the data that it names, unless ``data`` says where they lie here.

    Raises:
        ValueError: they are not those that the plan was made for.
    """
    if is_text(plan):
        return text_batches(plan, plan_text(plan, "train", data))
    source = plan_images(plan, "train", data)
    check_images(plan, source)
    return source


def plan_images(plan: Plan, split: Split = "train", data: Data | None = None) -> EncodedSource:
    """A split of the images or clips of a plan, at the plan's size and channels; ``data`` as in ``plan_source``. A
    source or Dataset is its own only split."""
    if plan.task == "video":
        return _plan_videos(plan, split, data)
    if data is None or isinstance(data, str):
        data = ImageData(data=data or _named(plan))
    if not isinstance(data, ImageData):
        return _open_images(data)[0]
    data = data if data.data else replace(data, data=_named(plan))
    shape = data_shape(plan)
    if data.autoencoder is None and len(shape) == 3:
        data = replace(data, image_size=data.image_size or shape[1], channels=data.channels or shape[0])
    if data.max_pixels == ImageData.max_pixels:
        data = replace(data, max_pixels=cast(int, plan.recipe.get("max_pixels", data.max_pixels)))
    return open_images(data, split)


def open_videos(videos: VideoData, split: Split = "train", codec: ClipCodec | None = None) -> EncodedSource:
    """One split of named clips; ``codec`` is that of ``videos.autoencoder``, where it was opened before."""
    if videos.autoencoder is None:
        return EncodedSource(_load_clips(videos, split), Pixels())
    codec = open_clip_codec(videos.autoencoder) if codec is None else codec
    codec.num_encoded(videos.frames or FRAMES)
    return EncodedSource(_load_clips(videos, split), codec, videos.reading())


def _load_clips(videos: VideoData, split: Split) -> VideoSource:
    found = load_videos(
        videos.data,
        split,
        frames=videos.frames,
        size=videos.frame_size,
        channels=videos.channels,
        fps=videos.fps,
        root=videos.data_dir,
    )
    return VideoSource(found)


def _plan_videos(plan: Plan, split: Split, data: Data | None) -> EncodedSource:
    if data is None or isinstance(data, str):
        data = VideoData(data=data or _named(plan))
    elif isinstance(data, ImageData):  # from a verb for all tasks
        data = VideoData(
            data=data.data,
            data_dir=data.data_dir,
            frame_size=data.image_size,
            channels=data.channels,
            cache=data.cache,
            cache_gb=data.cache_gb,
            autoencoder=data.autoencoder,
        )
    if not isinstance(data, VideoData):
        return _open_videos(data)[0]
    codec = plan_clip_codec(plan, data.autoencoder)
    frames, channels, size, _ = codec.decoded_shape(image_shape(plan))
    data = replace(
        data,
        data=data.data or _named(plan),
        frames=data.frames or frames,
        frame_size=data.frame_size or size,
        channels=data.channels or channels,
        fps=data.fps or cast(float, plan.recipe.get("fps", 0.0)),
    )
    return open_videos(data, split, codec)


def plan_clip_codec(plan: Plan, autoencoder: Path | None) -> ClipCodec:
    """The codec of a plan for video, which is in the directory ``autoencoder``; None is for pixels.

    Raises:
        ValueError: it is not the plan's.
    """
    codec = open_clip_codec(autoencoder)
    check_codec(plan, codec)
    return codec


def plan_text(plan: Plan, split: Literal["train", "valid", "test"], data: Data | None = None) -> TokenFile:
    """A split of the text of a plan, in the plan's vocabulary; ``data`` names another text or place."""
    if isinstance(data, TokenFile):
        check_vocabulary(data, plan_vocabulary(plan))
        return data
    if data is None or isinstance(data, str):
        data = TextData(data=data or "")
    if not isinstance(data, TextData | ImageData):
        raise ValueError(f"data is a {type(data).__name__}; a plan for text takes a name, TextData or a TokenFile")
    return open_text(data.data or _named(plan), split, plan_vocabulary(plan), root=data.data_dir)


def training_text(plan: Plan, data: Data | None = None, train: Data | None = None) -> TokenFile | None:
    """The training text of a plan whose held-out text is that of ``data``; of a TokenFile all is held out, and the
    training text is then ``train``, or that which the plan names, or None where neither is at hand."""
    if train is not None:
        return plan_text(plan, "train", train)
    return _own_text(plan) if isinstance(data, TokenFile) else plan_text(plan, "train", data)


def text_batches(plan: Plan, file: TokenFile) -> TextBatches:
    """Training windows of a plan; another text than the plan's is refused."""
    if plan.recipe["fingerprint"] != file.fingerprint():
        raise ValueError(
            f"the text of {file.path} has fingerprint {file.fingerprint()}, but the plan was made for "
            f"{plan.recipe['fingerprint']}; use the same text and vocabulary"
        )
    return TextBatches(TokenSource(file, plan_length(plan)))


def check_vocabulary(file: TokenFile, vocabulary: Vocabulary) -> None:
    """Refuse tokens of another vocabulary."""
    if file.vocabulary.to_dict() != vocabulary.to_dict():
        raise ValueError(f"{file.path} holds tokens of another vocabulary; make it with that of the training text")


def check_images(plan: Plan, images: EncodedSource) -> None:
    """Refuse training images, or an autoencoder, that are not those of the plan."""
    check_codec(plan, images.codec)
    if plan.recipe["fingerprint"] != images.fingerprint():
        raise ValueError(
            f"the images of {images.name} have fingerprint {images.fingerprint()}, but the plan was made for "
            f"{plan.recipe['fingerprint']}; use the same files, size and channels"
        )
    check_shape(plan, images.shape, len(images.classes))


def check_codec(plan: Plan, codec: Codec) -> None:
    """Refuse an autoencoder that is not the plan's."""
    needed, found = plan.recipe["autoencoder"], codec.fingerprint()
    if needed != found:
        raise ValueError(
            f"the plan denoises {_codec_name(needed)}, but --autoencoder gives {_codec_name(found)}; give the "
            "directory of the autoencoder that the run was trained with, or none for pixels"
        )


def open_codec(autoencoder: Path | None) -> Codec:
    """The codec of a directory that holds a diffusers AutoencoderKL; pixels for None."""
    if autoencoder is None:
        return Pixels()
    from oneblock.convert.from_diffusers import Autoencoder

    return Autoencoder(autoencoder)


def open_clip_codec(autoencoder: Path | None) -> ClipCodec:
    """The codec of a directory that holds an autoencoder of diffusers for images or video; pixels for None."""
    if autoencoder is None:
        return Framewise()
    from oneblock.convert import clips

    return clips.open_clip_codec(autoencoder)


def _named(plan: Plan) -> str:
    name = cast(str, plan.recipe["data"])
    if name.startswith("dataset:"):
        raise ValueError(f"the data of this run are the user's own ({name}); give them again: data=...")
    return name


def _own_text(plan: Plan) -> TokenFile | None:
    """The training text that a plan names, if it is at hand."""
    try:
        found = plan_text(plan, "train")
    except ABSENT:
        return None
    return found if found.fingerprint() == plan.recipe["fingerprint"] else None


def _codec_name(fingerprint: object) -> str:
    return f"the latents of autoencoder {fingerprint}" if fingerprint else "pixels"


def _open_images(data: Any) -> tuple[EncodedSource, str]:
    """Images, vectors or whatever else has labels, and the name that a plan holds."""
    if isinstance(data, str):
        data = ImageData(data=data)
    if isinstance(data, ImageData):
        return open_images(data), data.data
    if isinstance(data, TextData | TokenFile | VideoData):
        raise ValueError(f"data is a {type(data).__name__}; this recipe trains on images: give their name or a Dataset")
    if isinstance(data, EncodedSource):
        return data, data.name
    source = data if hasattr(data, "batch") and hasattr(data, "fingerprint") else DatasetSource(data)
    return EncodedSource(cast(Source, source), Pixels()), source.name


def _open_videos(data: Any) -> tuple[EncodedSource, str]:
    """Clips, and the name that a plan holds."""
    if isinstance(data, str):
        data = VideoData(data=data)
    if isinstance(data, VideoData):
        return open_videos(data), data.data
    if isinstance(data, ImageData | TextData | TokenFile):
        raise ValueError(f"data is a {type(data).__name__}; this recipe trains on clips: give their name or a Dataset")
    return _open_images(data)


def _open_tokens(recipe: TextRecipe, data: Any) -> tuple[TokenFile, str]:
    if isinstance(data, TokenFile):
        if data.vocabulary.size != vocabulary_size(recipe.vocabulary):
            raise ValueError(
                f"vocabulary={recipe.vocabulary!r} has {vocabulary_size(recipe.vocabulary)} symbols, but the tokens of "
                f"{data.path} were made with {data.vocabulary.size}; give the recipe the vocabulary of the tokens"
            )
        return data, "dataset:TokenFile"
    if isinstance(data, str):
        data = TextData(data=data)
    if not isinstance(data, TextData):
        raise ValueError(
            f"data is a {type(data).__name__}; this recipe trains on text: give a name (books, file:PATH) or a "
            "TokenFile"
        )
    texts = data
    vocabulary = open_vocabulary(recipe.vocabulary, lambda: read_words(texts.data, "train", root=texts.data_dir))
    _tell_short(texts, vocabulary, recipe.length)
    return open_text(texts.data, "train", vocabulary, root=texts.data_dir), texts.data


def _tell_short(texts: TextData, vocabulary: Vocabulary, length: int) -> None:
    """Note, before any training, a held-out text that nothing can be scored on."""
    count = len(open_text(texts.data, "test", vocabulary, root=texts.data_dir))
    if count < length:
        note(
            f"the test split of {texts.data} has {count} tokens, fewer than a window of length={length}: the model can "
            "be trained but not evaluated; use more text or a shorter length"
        )


def _image_facts(recipe: Recipe, source: EncodedSource, name: str) -> ImageFacts:
    captions = _caption_facts(recipe, source)
    rows: tuple[float, ...] = ()
    if isinstance(recipe, ClassifyRecipe) and recipe.settled().table == "prototypes":
        known = source.first()
        means = prototypes(to_float(known.images).flatten(1), known.labels, len(source.classes))
        rows = tuple(means.flatten().tolist())
    return ImageFacts(
        shape=source.shape,
        num_classes=0 if captions else len(source.classes),
        classes=() if captions else tuple(source.classes),
        data=name,
        fingerprint=source.fingerprint(),
        autoencoder=source.codec.fingerprint(),
        rows=rows,
        captions=captions,
        fit=partial(_fit, source),
    )


def _caption_facts(recipe: Recipe, source: EncodedSource) -> CaptionFacts | None:
    """Of data with captions those of the training images."""
    captions = captions_of(source)
    if captions is None:
        return None
    if not isinstance(recipe, ImageRecipe):
        raise ValueError(f"{source.name} has captions for labels, not classes; train an ImageRecipe, or give numbers")
    found = captions
    if isinstance(source.images, MemorySource):  # those of the other split may be listed too
        found = tuple(captions[label] for label in source.images.images.labels.unique().tolist())
    return caption_facts(found, source.text_encoder)


def _fit(source: EncodedSource, components: int, patch: int) -> PatchPCA:
    return fit_pca(drawn(source.images, FIT_IMAGES).images, components, patch)


def _text_facts(recipe: TextRecipe, file: TokenFile, name: str) -> TextFacts:
    rows: tuple[float, ...] = ()
    if isinstance(recipe, CausalRecipe) and recipe.table == "co-occurrence":
        size = file.vocabulary.size
        width = recipe.label_width or min(size, recipe.dimensions[1])
        rows = tuple(round(value, 6) for value in cooccurrence(file.tokens, size, width).flatten().tolist())
    return TextFacts(vocabulary=file.vocabulary, data=name, fingerprint=file.fingerprint(), rows=rows)
