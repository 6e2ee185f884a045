"""Batches of plain tensors: readers of images and text, transforms and synthetic images; knows no model."""

from .augment import Augment, Augmentation
from .encoded import Codec, EncodedSource, Pixels
from .errors import MissingExtraError
from .hub import HubSource
from .memory import Batches, Samples
from .sources import ImageSet, MemorySource, Source, load_images, open_source
from .synthetic import synthetic_images
from .text import open_text, read_texts
from .tokens import TextBatches, TokenFile, TokenSource, write_tokens
from .transforms import random_flip, to_float, to_uint8
from .vocabulary import BytePair, Bytes, Characters, Vocabulary, vocabulary_from_dict

__all__ = [
    "Augment",
    "Augmentation",
    "Batches",
    "BytePair",
    "Bytes",
    "Characters",
    "Codec",
    "EncodedSource",
    "HubSource",
    "ImageSet",
    "MemorySource",
    "MissingExtraError",
    "Pixels",
    "Samples",
    "Source",
    "TextBatches",
    "TokenFile",
    "TokenSource",
    "Vocabulary",
    "load_images",
    "open_source",
    "open_text",
    "random_flip",
    "read_texts",
    "synthetic_images",
    "to_float",
    "to_uint8",
    "vocabulary_from_dict",
    "write_tokens",
]
