"""Videos as files, written while they are made: mp4 (PyAV), GIF and WebP (Pillow), a picture of all frames (PNG).

A film of several videos shows them side by side. An mp4 is written frame by frame, and so takes no more memory the
longer it gets; Pillow and pictures keep all frames until the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from oneblock.checks import check_count
from oneblock.data import MissingExtraError
from oneblock.partition import Partition
from oneblock.report.picture import check_pictures, image_grid
from oneblock.report.scores import image_tables
from oneblock.report.table import Table

SUFFIXES = (".mp4", ".gif", ".webp", ".png")
"""Of videos, the last as a picture of all frames."""
FPS = 8
"""Frames a second."""
SHOWN_PIXELS = 128
"""Small frames are enlarged by a whole factor to about so many pixels."""
CODECS = ("libx264", "mpeg4")
"""Of an mp4, the first that PyAV was built with."""


class VideoFile(Protocol):
    """A file of videos that is being written."""

    def add(self, frames: Tensor) -> None:
        """The next frames, uint8 (n, f, c, h, w), of n videos."""

    def close(self) -> None:
        """Finish the file; must be called once, whatever happened."""


def check_video_place(path: Path) -> None:
    """Refuse, before anything is made, a place that no video can be written to.

    Raises:
        ValueError: the name does not say which kind of file.
        MissingExtraError: the package that writes it is absent.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{str(path)!r} is not the name of a video; use one that ends in {', '.join(SUFFIXES)}")
    if path.suffix.lower() == ".mp4":
        _require("av", "av", "video")
    elif path.suffix.lower() == ".png":
        check_pictures()
    else:
        _require("PIL.Image", "pillow", "images")


def open_video(path: Path, fps: int = FPS) -> VideoFile:
    """A file to be written to; its name says which kind. Errors as of ``check_video_place``."""
    check_count("fps", fps)
    check_video_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        return _Mp4(path, fps)
    return _AllFrames(path) if suffix == ".png" else _Animation(path, fps)


def write_video(path: Path, videos: Tensor, fps: int = FPS) -> Path:
    """Write whole videos, uint8 (n, f, c, h, w)."""
    file = open_video(path, fps)
    try:
        file.add(videos)
    finally:
        file.close()
    return path


def side_by_side(frames: Tensor, even: bool = False) -> Tensor:
    """Frames uint8 (n, f, c, h, w) of n videos as those of one, (f, 3, height, width), enlarged.

    Args:
        even: add a row or column where the number of pixels is odd, as video codecs need it.
    """
    n, _, _, height, _ = frames.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    blank = frames.new_zeros(rows * columns - n, *frames.shape[1:])
    sheet = rearrange(torch.cat([frames, blank]), "(r k) f c h w -> f c (r h) (k w)", k=columns)
    factor = max(1, SHOWN_PIXELS // height)
    large = F.interpolate(sheet.float(), scale_factor=factor, mode="nearest").to(torch.uint8)
    if even:
        large = F.pad(large, (0, large.shape[3] % 2, 0, large.shape[2] % 2))
    return large.expand(-1, 3, -1, -1)


class _Mp4:
    """Frames go to the encoder as they come."""

    def __init__(self, path: Path, fps: int) -> None:
        import av

        self._av, self._fps = av, fps
        self._container = av.open(str(path), mode="w")
        self._stream: Any = None

    def add(self, frames: Tensor) -> None:
        shown = side_by_side(frames.cpu(), even=True)
        if self._stream is None:
            self._stream = self._begun(shown.shape[3], shown.shape[2])
        for picture in rearrange(shown, "f c h w -> f h w c"):
            frame = self._av.VideoFrame.from_ndarray(picture.contiguous().numpy(), format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _begun(self, width: int, height: int) -> Any:
        stream: Any = self._container.add_stream(self._codec(), rate=Fraction(self._fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        return stream

    def _codec(self) -> str:
        for name in CODECS:
            with suppress(Exception):  # what PyAV raises for one that it lacks changed its place between versions
                self._av.Codec(name, "w")
                return name
        raise ValueError(f"this PyAV has none of the encoders {', '.join(CODECS)}; write .gif or .webp")


class _Animation:
    """GIF and WebP: Pillow writes all frames at once."""

    def __init__(self, path: Path, fps: int) -> None:
        self._path, self._fps = path, fps
        self._frames: list[Any] = []

    def add(self, frames: Tensor) -> None:
        from PIL import Image

        pictures = rearrange(side_by_side(frames.cpu()), "f c h w -> f h w c")
        self._frames += [Image.fromarray(picture.contiguous().numpy()) for picture in pictures]

    def close(self) -> None:
        if self._frames:
            first, *others = self._frames
            lossless = {"lossless": True} if self._path.suffix.lower() == ".webp" else {}
            first.save(
                self._path, save_all=True, append_images=others, duration=round(1000 / self._fps), loop=0, **lossless
            )


class _AllFrames:
    """A picture: one row for each video."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frames: list[Tensor] = []

    def add(self, frames: Tensor) -> None:
        self._frames.append(frames.cpu())

    def close(self) -> None:
        if self._frames:
            videos = torch.cat(self._frames, dim=1)
            image_grid(videos.flatten(0, 1), self._path, videos.shape[1])


def _require(module: str, package: str, extra: str) -> None:
    from importlib import import_module

    try:
        import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, extra) from error


def video_tables(row: Mapping[str, Any], bands: Partition) -> list[Table]:
    """Of ``evaluate.video.evaluate_videos``: losses by band, scores of generated clips, and errors of rollouts."""
    listed = ("place_error", "still_error", "place_errors")
    losses, scores = image_tables({name: value for name, value in row.items() if name not in listed}, bands)
    title = "generated clips" if "frechet" in row else "all bands"
    tables = [losses, Table(title, scores.columns, scores.rows)]
    if "place_error" in row:
        pairs = zip(row["place_error"], row["still_error"], strict=True)
        lines = [(f"{i}", f"{moved:.3f}", f"{still:.3f}") for i, (moved, still) in enumerate(pairs, 1)]
        columns = ("training lengths", "pixels off", "if it stood still")
        tables.append(Table("rollouts from true first frames", columns, lines))
    return tables
