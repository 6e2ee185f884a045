"""Clips by name: one line of text says which.

    bouncing-digits    scikit-learn's handwritten digits, in motion
    bouncing-clothes   the clothes of Fashion-MNIST, in motion
    folder:DIR         files of video, or folders of frames (``films``)

Settings may follow the first two: ``bouncing-digits,clips=1000,together=2`` are 1000 training clips with two digits
each, and an eighth as many held-out ones.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .bouncing import CLIPS, PICTURES, Bouncing, bouncing
from .films import load_films
from .imageset import Split, check_channels, check_split
from .videoset import VideoSet, in_colour

FRAMES = 16
SIZES = {"digits": 16, "clothes": 32}
"""Of frames in pixels."""
PREFIX = "bouncing-"
FOLDER = "folder:"
SETTINGS = ("clips", "together")


def load_videos(
    spec: str,
    split: Split = "train",
    *,
    frames: int | None = None,
    size: int | None = None,
    channels: int | None = None,
    fps: float = 0.0,
    root: Path | None = None,
) -> VideoSet:
    """One split of named clips, in memory; errors of ``open_bouncing`` and ``load_films``.

    Args:
        spec: see the module.
        split: ``train`` or ``test``.
        frames: of each clip; None is ``FRAMES``.
        size: side of the frames; None is what fits the pictures, or the usual one of folders.
        channels: 1 or 3; None keeps what the films are, and grey what bounces.
        fps: frames that are taken in a second of a file of video; 0 takes all.
        root: where the files of Fashion-MNIST lie, or what a relative DIR starts from.
    """
    check_split(split)
    check_channels(channels)
    if not spec.startswith(FOLDER):
        if fps:
            raise ValueError(f"fps={fps:g} is a setting of films of your own (folder:DIR); leave it out for {spec}")
        videos = open_bouncing(spec, split, size=size, root=root).videos(frames or FRAMES)
        return replace(videos, clips=in_colour(videos.clips, channels or 1))
    place = Path(spec.removeprefix(FOLDER)).expanduser()
    where = place if root is None else root / place
    return load_films(where, split, frames or FRAMES, size, channels, fps or None)


def open_bouncing(spec: str, split: Split = "train", *, size: int | None = None, root: Path | None = None) -> Bouncing:
    """Clips whose places are known, of as many frames as are asked for.

    Args:
        spec: see the module.
        split: ``train`` or ``test``.
        size: side of the frames; None is what fits the pictures.
        root: where the files of Fashion-MNIST lie.

    Raises:
        ValueError: unknown spec, setting or split, or files that are absent or damaged.
    """
    check_split(split)
    name, *settings = spec.split(",")
    pictures = name.removeprefix(PREFIX)
    if pictures not in PICTURES or name == pictures:
        allowed = ", ".join([*(PREFIX + known for known in PICTURES), f"{FOLDER}DIR"])
        raise ValueError(f"data={spec!r} is unknown; {allowed} are allowed")
    found = dict(map(_setting, settings))
    count = found.get("clips", 0)
    if split == "test" and count:
        count = max(1, count * CLIPS["test"] // CLIPS["train"])
    return bouncing(pictures, split, size or SIZES[pictures], count, found.get("together", 1), root)


def _setting(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if name not in SETTINGS or not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{text!r} is not a setting of clips; use {', '.join(f'{one}=NUMBER' for one in SETTINGS)}")
    return name, int(value)
