"""Batches of plain tensors: readers, transforms and synthetic images; knows no model."""

from .augment import Augment, Augmentation
from .encoded import Codec, EncodedSource, Pixels
from .errors import MissingExtraError
from .hub import HubSource
from .sources import ImageSet, MemorySource, Source, load_images, open_source
from .synthetic import synthetic_images
from .transforms import random_flip, to_float, to_uint8

__all__ = [
    "Augment",
    "Augmentation",
    "Codec",
    "EncodedSource",
    "HubSource",
    "ImageSet",
    "MemorySource",
    "MissingExtraError",
    "Pixels",
    "Source",
    "load_images",
    "open_source",
    "random_flip",
    "synthetic_images",
    "to_float",
    "to_uint8",
]
