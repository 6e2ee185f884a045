"""Generated images as files: a picture to look at, and beside it the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oneblock.report.picture import check_pictures, image_grid

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of pictures."""


def samples_file(picture: Path) -> Path:
    """Where the images of ``picture`` lie."""
    return picture.with_suffix(".safetensors")


def check_samples_place(picture: Path) -> None:
    """Refuse, before any image is made, a place that ``write_samples`` could not write to, or must not.

    Raises:
        ValueError: not the name of a picture, or files of something else are there already.
        ImportError: there is no matplotlib.
    """
    if picture.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out={str(picture)!r} is not the name of a picture; use one that ends in .png or .jpg")
    check_pictures()
    ours = _has_samples(samples_file(picture))
    for path in (samples_file(picture), picture):
        if path.exists() and not ours:
            raise ValueError(f"{path} exists and is not a file of samples; give another place to write to")


def write_samples(
    picture: Path, images: Tensor, labels: Tensor | None = None, columns: int = 10, names: Sequence[str] = ()
) -> Path:
    """Write ``images`` (n, ...) and their ``labels`` (n,) as safetensors, and what are images, uint8 (n, c, h, w), as a
    grid, with ``names`` before its rows; the file to look at. ``picture`` must have passed ``check_samples_place``."""
    tensors = samples_file(picture)
    tensors.parent.mkdir(parents=True, exist_ok=True)
    save_file({"images": images.contiguous(), **({} if labels is None else {"labels": labels})}, tensors)
    return image_grid(images, picture, columns, names=names) if not images.is_floating_point() else tensors


def _has_samples(path: Path) -> bool:
    """Images, or images and labels, and nothing else."""
    try:
        with safe_open(path, "pt") as file:
            return {"images"} <= set(file.keys()) <= {"images", "labels"}
    except (SafetensorError, OSError):
        return False
