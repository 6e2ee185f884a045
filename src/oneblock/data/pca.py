"""A codec that is fitted on the training images: the principal components of their patches.

A patch x (d values, d = c p p) becomes ``a R (x - m)``: m is the mean patch, the k rows of R are the eigenvectors of
the patches' covariance with the largest eigenvalues, which are orthonormal (Hotelling, "Analysis of a complex of
statistical variables into principal components", 1933), and a is one number, by which the components have the standard
deviation ``STD``. Back it goes as ``m + R^T y / a``: exact for patches in the span of the components.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

STD = 0.5
"""Of the components over training images: what EDM's preconditioning expects."""
FIT_IMAGES = 10_000
"""Images that components are fitted on, drawn from all where there are more."""
DIGITS = 8
"""Decimals that are kept of a fitted number."""
MOST_VALUES = 2**16
"""Of a fitted codec: a plan holds them."""
_CHUNK = 2**16


@dataclass(frozen=True, eq=False)
class PatchPCA:
    """A ``Codec``: images (n, c, h, w) in [-1, 1] to components (n, k, h / p, w / p) and back.

    Args:
        patch: pixels along a patch, p.
        mean: m (d,), float32.
        rows: R (k, d), orthonormal to the last digits that are kept.
        scale: a.
    """

    patch: int
    mean: Tensor
    rows: Tensor
    scale: float

    @property
    def channels(self) -> int:
        """Of the images, c."""
        return len(self.mean) // self.patch**2

    @property
    def components(self) -> int:
        """k."""
        return len(self.rows)

    def encoded_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(k, h / p, w / p) of images of ``shape`` (c, h, w)."""
        _, height, width = shape
        return self.components, height // self.patch, width // self.patch

    def decoded_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Inverse of ``encoded_shape``."""
        _, height, width = shape
        return self.channels, height * self.patch, width * self.patch

    def to(self, device: torch.device) -> PatchPCA:
        return replace(self, mean=self.mean.to(device), rows=self.rows.to(device))

    def encode(self, images: Tensor) -> Tensor:
        here = self.to(images.device)
        components = (_cells(images, self.patch) - here.mean) @ here.rows.mT * self.scale
        return rearrange(components, "n h w k -> n k h w").contiguous()

    def decode(self, encoded: Tensor) -> Tensor:
        here = self.to(encoded.device)
        cells = rearrange(encoded, "n k h w -> n h w k") / self.scale @ here.rows + here.mean
        p = self.patch
        return rearrange(cells, "n h w (c p q) -> n c (h p) (w q)", p=p, q=p).contiguous()

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.patch, self.values())).encode()).hexdigest()[:16]

    def values(self) -> tuple[float, ...]:
        """All of its numbers: m, then R row by row, then a."""
        return (*self.mean.double().tolist(), *self.rows.double().flatten().tolist(), self.scale)


def pca_from_values(components: int, patch: int, values: Sequence[float]) -> PatchPCA:
    """Inverse of ``PatchPCA.values``.

    Raises:
        ValueError: they are not so many, or the scale is not above 0.
    """
    size, left = divmod(len(values) - 1, components + 1)
    if left or size < components or size % patch**2 or not values[-1] > 0:
        raise ValueError(
            f"{len(values)} values are not those of {components} components of patches of {patch} x {patch} pixels; "
            "they are a mean, the components and a scale above 0"
        )
    found = torch.tensor(values[:-1], dtype=torch.float32)
    return PatchPCA(patch, found[:size], found[size:].view(components, size), float(values[-1]))


def check_components(shape: Sequence[int], components: int, patch: int) -> None:
    """Refuse components, or patches, that images of ``shape`` (c, h, w) do not have, with a ``ValueError``."""
    if len(shape) != 3 or shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch={patch} does not divide samples of shape {tuple(shape)}; use a divisor of their sides")
    size = shape[0] * patch**2
    most = min(size, (MOST_VALUES - 1 - size) // size)
    if not 1 <= components <= most:
        raise ValueError(
            f"codec='pca:{components}': patches of {patch} x {patch} pixels with {shape[0]} channels have {size} "
            f"values; use 1 to {most} components" + (", or smaller patches" if most < size else "")
        )


def fit_pca(images: Tensor, components: int, patch: int) -> PatchPCA:
    """The components of the patches of ``images`` uint8 (n, c, h, w).

    Sums over patches are of whole numbers and exact, so the order of images and threads change nothing. Of a component
    and its negative the one is taken whose largest number is positive.

    Raises:
        ValueError: see ``check_components``.
    """
    check_components(images.shape[1:], components, patch)
    patches = _cells(images, patch).flatten(0, 2)
    size = patches.shape[1]
    total, products = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for part in patches.split(_CHUNK):
        numbers = part.double()
        total += numbers.sum(0)
        products += numbers.mT @ numbers
    mean = total / len(patches)
    covariance = (products / len(patches) - mean[:, None] * mean) / 127.5**2
    variances, vectors = torch.linalg.eigh(covariance)
    rows = vectors.mT.flip(0)[:components]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    rows = rows * torch.where(largest < 0, -1.0, 1.0)
    variance = float(variances.flip(0)[:components].clamp(min=0).mean())
    scale = STD / variance**0.5 if variance > 0 else 1.0
    kept = [round(value, DIGITS) for value in [*(mean / 127.5 - 1).tolist(), *rows.flatten().tolist(), scale]]
    return pca_from_values(components, patch, kept)


def _cells(images: Tensor, patch: int) -> Tensor:
    """Patches (n, h, w, c p p) of images."""
    return rearrange(images, "n c (h p) (w q) -> n h w (c p q)", p=patch, q=patch)
