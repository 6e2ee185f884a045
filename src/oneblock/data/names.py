"""Data by name, with the settings that go with a name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oneblock.checks import check_count, check_number

from .reading import Reading


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Which images."""

    data: str = "digits"
    """digits, fashion-mnist, folder:DIR, cifar10:DIR, cifar100:DIR, tiny-imagenet:DIR, hf:NAME, and with
    captions for labels captions:DIR, scenes or hf:NAME,caption=COLUMN"""
    data_dir: Path | None = None
    """where the files of fashion-mnist lie (default: ./data, then where `make data` puts them)"""
    image_size: int | None = None
    """resize and crop (folders) or pad (digits, fashion-mnist) to this many pixels"""
    channels: int | None = None
    """1 (grey) or 3 (colour), for folders that mix both"""
    max_pixels: int = Reading.max_pixels
    """images of files with more pixels are left out: a small file may unpack to fill the memory"""
    cache: bool = Reading.cache
    """whether decoded images are kept on disk (.cache/images in $ONEBLOCK_DATA or ./data) and found there again"""
    cache_gb: float = Reading.cache_gb
    """decoded images of all sets that are kept, in GB; those unused for longest are removed first"""

    autoencoder: Path | None = None
    """denoise the latents of this frozen AutoencoderKL of diffusers (a directory) instead of pixels"""
    text_encoder: Path | None = None
    """this frozen text encoder of transformers (a directory) reads captions, instead of a table of words that is
    trained with the network; a run finds it again where it was"""

    def __post_init__(self) -> None:
        self.reading()

    def reading(self) -> Reading:
        """How files of images are read; ``ValueError`` for a setting that is not possible."""
        return Reading(max_pixels=self.max_pixels, cache=self.cache, cache_gb=self.cache_gb)


@dataclass(frozen=True, kw_only=True)
class VideoData:
    """Which clips."""

    data: str = "bouncing-digits"
    """bouncing-digits or bouncing-clothes (with settings: bouncing-digits,clips=1000,together=2), or folder:DIR of
    files of video or folders of frames"""
    data_dir: Path | None = None
    """where the files of fashion-mnist lie (default: ./data, then where `make data` puts them)"""
    frames: int | None = None
    """frames of a clip (default: 16)"""
    frame_size: int | None = None
    """height and width of the frames in pixels, resized and cropped for folders (default: 16, for clothes and folders
    32)"""
    channels: int | None = None
    """1 (grey) or 3 (colour), for folders that mix both, or for an autoencoder of colours"""
    fps: float = 0.0
    """frames that are taken in a second of a file of video (0: all)"""
    cache: bool = Reading.cache
    """whether the latents of --autoencoder are kept on disk (.cache/latents in $ONEBLOCK_DATA or ./data) and found
    there again"""
    cache_gb: float = Reading.cache_gb
    """latents of all sets that are kept, in GB; those unused for longest are removed first"""

    autoencoder: Path | None = None
    """denoise the latents of this frozen autoencoder of diffusers (a directory) instead of pixels: of an AutoencoderKL,
    frame by frame, or of one for video, whose 1 + r k frames become 1 + k (AutoencoderKLWan and others)"""

    def __post_init__(self) -> None:
        self.reading()
        check_number("fps", self.fps, least=0)
        for name in ("frames", "frame_size"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))

    def reading(self) -> Reading:
        """How latents are kept; ``ValueError`` for a setting that is not possible."""
        return Reading(cache=self.cache, cache_gb=self.cache_gb)


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Which text."""

    data: str = "books"
    """books, sotu, austen, shakespeare, milton (`make text` fetches them), file:PATH (a text, .jsonl rows, or a folder
    of them) or hf:NAME"""
    data_dir: Path | None = None
    """where the corpora lie (default: ./data)"""
