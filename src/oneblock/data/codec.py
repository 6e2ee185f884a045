"""What stands between samples and what is denoised of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """A fixed, deterministic map from images to what is denoised, and back."""

    def encode(self, images: Tensor) -> Tensor:
        """(n, c, h, w) of ``images`` (n, channels, height, width) in [-1, 1]."""

    def decode(self, encoded: Tensor) -> Tensor:
        """Images (n, channels, height, width), about [-1, 1], of ``encoded`` (n, c, h, w)."""

    def fingerprint(self) -> str:
        """Tells this codec from others; empty for pixels."""


@dataclass(frozen=True)
class Pixels:
    """The codec that leaves images as they are."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, encoded: Tensor) -> Tensor:
        return encoded

    def fingerprint(self) -> str:
        return ""
