"""The 1797 handwritten digits of scikit-learn, 8 x 8 pixels: small enough for tests, and available
without a download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

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
    rows = _read_rows()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED))
    chosen = order[:NUM_TRAIN] if split == "train" else order[NUM_TRAIN:]
    pixels, labels = rows[chosen, :-1], rows[chosen, -1]
    images = (pixels * (255 / MAX_VALUE)).round().to(torch.uint8).view(-1, 1, 8, 8)
    return ImageSet(images, labels, tuple("0123456789"), "digits")


def _read_rows() -> Tensor:
    """64 pixels and the label of every digit, int64 (1797, 65).

    The file is read where scikit-learn keeps it: importing scikit-learn costs seconds and 150 MiB of every process.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise MissingExtraError("scikit-learn")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise MissingExtraError(f"scikit-learn with its data sets ({path} does not exist)")
    with gzip.open(path, "rt") as file:
        return torch.tensor([[int(float(value)) for value in line.split(",")] for line in file])
