"""Batches of plain tensors: readers of images and text, transforms and synthetic images; knows no model."""

from .augment import Augment, Augmentation
from .captions import load_captions
from .clips import ClipCodec, Framewise, clip_codec
from .codec import Codec, Pixels
from .dataset import DatasetSource
from .decode import read_picture
from .encoded import EncodedSource, captions_of, movable
from .errors import MissingExtraError
from .hub import HubSource
from .memory import Batches, Movable, Samples, drawn, shuffled_if_sorted
from .names import ImageData, TextData, VideoData
from .prefetch import Prefetcher
from .scenes import caption_agreement, captioned_scenes
from .sources import ImageSet, MemorySource, Source, load_images, open_source
from .synthetic import synthetic_images
from .text import open_text, read_texts, read_words, split_copies
from .tokens import TokenFile, write_tokens
from .transforms import random_flip, to_float, to_uint8
from .videos import load_videos, open_bouncing
from .videoset import VideoSet, VideoSource
from .vocabulary import (
    BytePair,
    Bytes,
    Characters,
    Vocabulary,
    open_vocabulary,
    vocabulary_from_dict,
    vocabulary_size,
)
from .windows import TextBatches, TokenSource
from .words import WordTable, known_words

__all__ = [
    "Augment",
    "Augmentation",
    "Batches",
    "BytePair",
    "Bytes",
    "Characters",
    "ClipCodec",
    "Codec",
    "DatasetSource",
    "EncodedSource",
    "Framewise",
    "HubSource",
    "ImageData",
    "ImageSet",
    "MemorySource",
    "MissingExtraError",
    "Movable",
    "Pixels",
    "Prefetcher",
    "Samples",
    "Source",
    "TextBatches",
    "TextData",
    "TokenFile",
    "TokenSource",
    "VideoData",
    "VideoSet",
    "VideoSource",
    "Vocabulary",
    "WordTable",
    "caption_agreement",
    "captioned_scenes",
    "captions_of",
    "clip_codec",
    "drawn",
    "known_words",
    "load_captions",
    "load_images",
    "load_videos",
    "movable",
    "open_bouncing",
    "open_source",
    "open_text",
    "open_vocabulary",
    "random_flip",
    "read_picture",
    "read_texts",
    "read_words",
    "shuffled_if_sorted",
    "split_copies",
    "synthetic_images",
    "to_float",
    "to_uint8",
    "vocabulary_from_dict",
    "vocabulary_size",
    "write_tokens",
]
