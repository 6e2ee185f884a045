"""Data by name, with the settings that go with a name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Which images."""

    data: str = "digits"
    """digits, fashion-mnist, folder:DIR, cifar10:DIR, cifar100:DIR, tiny-imagenet:DIR or hf:NAME"""
    data_dir: Path | None = None
    """where the files of fashion-mnist lie (default: ./data, then where `make data` puts them)"""
    image_size: int | None = None
    """resize and crop (folders) or pad (digits, fashion-mnist) to this many pixels"""
    channels: int | None = None
    """1 (grey) or 3 (colour), for folders that mix both"""

    autoencoder: Path | None = None
    """denoise the latents of this frozen AutoencoderKL of diffusers (a directory) instead of pixels"""


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Which text."""

    data: str = "books"
    """books, sotu, austen, shakespeare, milton (`make text` fetches them), file:PATH (a text, .jsonl rows, or a folder
    of them) or hf:NAME"""
    data_dir: Path | None = None
    """where the corpora lie (default: ./data)"""
