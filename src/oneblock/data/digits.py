"""The 1797 handwritten digits of scikit-learn, 8 x 8 pixels: small enough for tests, and in no need of a
download."""

from __future__ import annotations

import torch

from .errors import MissingExtraError
from .imageset import ImageSet, Split

NUM_TRAIN = 1500
SPLIT_SEED = 0
MAX_VALUE = 16


def load_digits(split: Split) -> ImageSet:
    """One split as uint8 (1500 or 297, 1, 8, 8), ten classes; the values 0..16 of the source become 0..255.

    The split is a fixed seeded permutation, because neighbours in the source were written by the same hand.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_arrays
    except ImportError as error:
        raise MissingExtraError("scikit-learn") from error
    arrays = load_arrays()
    order = torch.randperm(len(arrays.target), generator=torch.Generator().manual_seed(SPLIT_SEED))
    chosen = order[:NUM_TRAIN] if split == "train" else order[NUM_TRAIN:]
    images = torch.from_numpy(arrays.images * (255 / MAX_VALUE)).round().to(torch.uint8)
    labels = torch.from_numpy(arrays.target).long()
    return ImageSet(images[chosen].unsqueeze(1), labels[chosen], tuple("0123456789"), "digits")
