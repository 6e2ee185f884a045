"""Small folders of images, one colour for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))
SMALL: dict[str, Any] = {
    "depth": 2,
    "width": 16,
    "heads": 2,
    "blocks": 2,
    "batch_size": 8,
    "block_batch_size": 8,
    "budget": 64,
}
"""A network of two layers in two blocks, and steps that are done in a moment."""
WORDS = "--depth 2 --width 16 --heads 2 --blocks 2 --batch-size 8 --block-batch-size 8 --budget 64 --threads 1".split()


def class_folders(root: Path, names: Sequence[str], count: int = 12, seed: int = 0) -> Path:
    """So many noisy 8 x 8 images of each class below ``train`` and ``test``."""
    image = pytest.importorskip("PIL.Image")
    generator = torch.Generator().manual_seed(seed)
    for split in ("train", "test"):
        for name, colour in zip(names, COLOURS, strict=False):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(-30, 30, (8, 8, 3), generator=generator)
                pixels = (torch.tensor(colour) + noise).to(torch.uint8)
                image.fromarray(pixels.numpy()).save(root / split / name / f"{i:02}.png")
    return root
