"""One film: a file of video (PyAV), or a folder whose pictures are the frames (Pillow)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .decode import OPAQUE, UnusableError, read_header, read_pixels
from .errors import MissingExtraError
from .imageset import Split
from .pixels import to_pixels
from .reading import READING

EARLY = "ends early"
"""The reason for which the end of a film is left out."""


@dataclass(frozen=True)
class Film:
    """A film that lies somewhere.

    Args:
        name: ``CLASS/.../FILM``, without the folder of a split.
        kind: its class.
        split: the split it belongs to.
        movie: the file of video; None for a folder of frames.
        pictures: the frames, in order.
    """

    name: str
    kind: str
    split: Split
    movie: Path | None = None
    pictures: tuple[Path, ...] = ()


@dataclass(frozen=True)
class FilmHeader:
    """What a film says before it is decoded: Pillow's mode of its frames, its frames a second (0 where it has no rate),
    and the bytes that decoding a frame needs."""

    mode: str
    fps: float
    memory: int


def look_at(film: Film) -> FilmHeader:
    """Look at a film without decoding it.

    Raises:
        UnusableError: it cannot be decoded.
        MissingExtraError: PyAV is not installed.
    """
    if film.movie is None:
        header = read_header(film.pictures[0], READING)
        return FilmHeader(header.mode, 0.0, header.memory)
    with _opened(film.movie) as container:
        video = container.streams.video[0]
        grey = (video.codec_context.pix_fmt or "").startswith("gray")
        rate = float(video.average_rate or video.base_rate or 0)
        return FilmHeader("L" if grey else "RGB", rate, OPAQUE * video.width * video.height)


def read_film(film: Film, size: int, channels: int, fps: float | None = None) -> tuple[Tensor, UnusableError | None]:
    """The frames uint8 (f, channels, size, size), and why those behind them are missing.

    Args:
        fps: frames that are taken in a second of a file of video; None takes all.

    Raises:
        UnusableError: there is no frame, or the film has fewer than ``fps`` frames a second.
    """
    pictures = _folder(film, size, channels) if film.movie is None else _movie(film.movie, size, channels, fps)
    frames: list[Tensor] = []
    try:
        for picture in pictures:
            frames.append(picture)
    except UnusableError as error:
        if not frames:
            raise
        return torch.stack(frames), UnusableError(EARLY, f"after {len(frames)} frames: {error}")
    if not frames:
        raise UnusableError("unreadable", "no frames")
    return torch.stack(frames), None


def _folder(film: Film, size: int, channels: int) -> Iterator[Tensor]:
    for path in film.pictures:
        try:
            yield read_pixels(path, READING, size, channels)
        except UnusableError as error:
            raise UnusableError(error.kind, f"{path.name}: {error.detail}" if error.detail else path.name) from error


def _movie(path: Path, size: int, channels: int, fps: float | None) -> Iterator[Tensor]:
    with _opened(path) as container:
        video = container.streams.video[0]
        rate = float(video.average_rate or video.base_rate or 0)
        if fps is not None and rate and rate < fps * 0.999:
            raise UnusableError("too slow", f"{rate:g} frames a second, of which fps={fps:g} cannot be taken")
        seen = 0
        for frame in _timed(_decoded(container), rate, fps):
            seen += 1
            yield to_pixels(frame.to_image(), size, channels)
        if fps is None and seen < video.frames:
            raise UnusableError("truncated", f"{video.frames} frames are announced")


def _decoded(container: Any) -> Iterator[Any]:
    import av

    try:
        yield from container.decode(video=0)
    except av.error.FFmpegError as error:
        raise UnusableError("unreadable", str(error)) from error


def _timed(frames: Iterator[Any], rate: float, fps: float | None) -> Iterator[Any]:
    """The frames nearest to the times 0, 1 / fps, 2 / fps, ... of a film with ``rate`` frames a second."""
    start, taken = None, 0
    for number, frame in enumerate(frames):
        time = frame.time if frame.time is not None else number / (rate or 1)
        start = time if start is None else start
        if fps is None or time - start >= taken / fps - 0.5 / (rate or fps):
            taken += 1
            yield frame


def _opened(path: Path) -> Any:
    """A file of video, to be closed; with pictures in it."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    try:
        container: Any = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise UnusableError("empty file" if not path.stat().st_size else "not a video") from error
    if not container.streams.video:
        container.close()
        raise UnusableError("not a video", "no pictures in it")
    return container
