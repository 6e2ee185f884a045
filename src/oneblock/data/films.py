"""Films of a user, cut into clips: files of video (PyAV), or folders whose pictures are the frames (Pillow).

    DIR/CLASS/.../FILM.mp4         a file of video
    DIR/CLASS/.../FILM/0001.png    a folder of frames, in the order of their numbers
    DIR/FILM.mp4, DIR/FILM/...     without classes: one class, ``unlabelled``

Classes and splits are those of ``tree``: ``train`` and ``test`` folders, or a share of the films by the hash of their
names. A film is cut into clips of so many frames, one after the other; what is left at its end is dropped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .decode import UnusableError, in_order
from .film import Film, FilmHeader, look_at, read_film
from .imageset import Split
from .pixels import DEFAULT_SIZE, choose_channels, require_pillow
from .progress import inform, note, tell
from .tree import HIDDEN, UNLABELLED, ImageFile, find_files, natural, split_of
from .videoset import VideoSet

MOVIES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".gif")
"""What files of video are called."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""What frames are called."""
ALIKE = 1.01
"""Rates nearer to each other than this factor are one rate: cameras keep none exactly."""
NAMES_SHOWN = 3


@dataclass
class Films:
    """What lies below a folder.

    Args:
        films: by class, and in each by name.
        left_out: what is not looked at, by reason.
        choices: what was taken for what, where it is not obvious; one sentence each.
    """

    films: list[Film] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)


def load_films(
    root: Path,
    split: Split,
    frames: int,
    size: int | None = None,
    channels: int | None = None,
    fps: float | None = None,
) -> VideoSet:
    """One split of the films below a folder, as clips in order of their classes, films and times.

    The listener hears how many films of how many are used, and why not the others; without one it is a warning where
    films were left out.

    Args:
        root: see the module.
        split: ``train`` or ``test``.
        frames: of each clip.
        size: side of the frames, whose short side is resized to it and whose middle is kept; None is ``DEFAULT_SIZE``.
        channels: 1 or 3; None keeps what the films are, provided they are all grey or all colour.
        fps: frames that are taken in a second of a file of video; None takes all.

    Raises:
        ValueError: no folder, no films, films in class folders and beside them, grey mixed with colour, files of
            several rates without ``fps``, or a split without a clip.
        MissingExtraError: Pillow or PyAV is not installed.
    """
    require_pillow()
    name = f"folder:{root.resolve().name}"
    found = find_films(root, name)
    headers, unusable = _survey(found.films, name)
    _check_rates(name, headers, fps)
    channels = choose_channels(Counter(header.mode for header in headers.values()), channels, name)
    classes = tuple(sorted({film.kind for film in headers}, key=natural))
    taken = _Taken(frames, classes, [(film, why) for film, why in unusable if film.split == split])
    chosen = [film for film in headers if film.split == split]
    for done, (film, read) in enumerate(_read(chosen, headers, size or DEFAULT_SIZE, channels, fps), 1):
        taken.add(film, read)
        tell(done, len(chosen), f"films of {name}")
    account = _account(found, taken, name, split)
    if not taken.labels:
        raise ValueError(
            f"{account}; this split has no clip of {frames} frames, 1 or more are allowed; add films, ask for fewer "
            "frames (frames, --frames), or sort the films into train/ and test/ folders"
        )
    (note if taken.left_out or found.left_out.keys() - {HIDDEN} else inform)(account)
    return VideoSet(torch.cat(taken.clips), torch.tensor(taken.labels), classes, name)


def find_films(root: Path, name: str) -> Films:
    """The films below ``root`` by class and split; none is opened.

    Raises:
        ValueError: ``root`` is not a folder, holds no films, or films both in class folders and beside them.
    """
    tree = find_files(root)
    found = Films(left_out=dict(tree.left_out), choices=[said for said in tree.choices if UNLABELLED not in said])
    folders: dict[tuple[Split | None, str], list[ImageFile]] = defaultdict(list)
    others = []
    for file in tree.files:
        suffix, split = file.path.suffix.lower(), file.split if tree.own_splits else None
        if suffix in MOVIES:
            found.films.append(Film(file.name, _kind(file.name), split or split_of(file.name), movie=file.path))
        elif suffix in PICTURES:
            folders[split, file.name.rpartition("/")[0]].append(file)
        else:
            others.append(file.name)
    for (split, folder), files in folders.items():
        film = folder or root.resolve().name
        pictures = tuple(file.path for file in sorted(files, key=lambda file: natural(file.name)))
        found.films.append(Film(film, _kind(folder), split or split_of(film), pictures=pictures))
    if others:
        found.left_out["neither video nor picture"] = others
    found.films.sort(key=lambda film: (natural(film.kind), natural(film.name)))
    _check_found(found, name)
    return found


def _kind(film: str) -> str:
    """The class of a film by its name, ``CLASS/.../FILM`` or ``FILM``."""
    first, slash, _ = film.partition("/")
    return first if slash else UNLABELLED


def _check_found(found: Films, name: str) -> None:
    if not found.films:
        inside = f" ({_kinds(found.left_out)})" if found.left_out else ""
        raise ValueError(
            f"{name} has no films{inside}; files of video ({', '.join(MOVIES)}) and folders of frames "
            f"({', '.join(PICTURES)}) are allowed"
        )
    beside = [film.name for film in found.films if film.kind == UNLABELLED]
    if 0 < len(beside) < len(found.films):
        inside_one = next(film.name for film in found.films if film.kind != UNLABELLED)
        raise ValueError(
            f"{name} has films in class folders ({inside_one}) and others beside them ({_some(beside)}); move every "
            "film into the folder of its class, or all films out of such folders"
        )
    if beside:
        found.choices.append(f"no class folders: all films are of one class, {UNLABELLED!r}")


def _survey(films: Sequence[Film], name: str) -> tuple[dict[Film, FilmHeader], list[tuple[Film, UnusableError]]]:
    """What the films of both splits say of themselves, and those that say nothing."""
    headers: dict[Film, FilmHeader] = {}
    unusable: list[tuple[Film, UnusableError]] = []
    for done, film in enumerate(films, 1):
        try:
            headers[film] = look_at(film)
        except UnusableError as error:
            unusable.append((film, error))
        tell(done, len(films), f"headers of {name}")
    if not headers:
        reasons = _Taken(1, (), unusable).left_out
        raise ValueError(f"{name} has no readable film (left out: {_kinds(reasons)}); 1 or more are allowed; add films")
    return headers, unusable


def _check_rates(name: str, headers: Mapping[Film, FilmHeader], fps: float | None) -> None:
    rates = sorted((header.fps, film.name) for film, header in headers.items() if header.fps)
    if fps is None and rates and rates[-1][0] > ALIKE * rates[0][0]:
        (slow, slowest), (fast, fastest) = rates[0], rates[-1]
        raise ValueError(
            f"{name} mixes rates: {slowest} has {slow:g} frames a second, {fastest} has {fast:g}; one rate is allowed "
            f"when fps is None; pass fps={slow:g} (--fps) to take as many frames in a second of every film"
        )


Read = tuple[Tensor, UnusableError | None] | UnusableError


def _read(
    films: Sequence[Film], headers: Mapping[Film, FilmHeader], size: int, channels: int, fps: float | None
) -> zip[tuple[Film, Read]]:
    """Decode films in order, several at a time."""

    def work(film: Film) -> Read:
        try:
            return read_film(film, size, channels, fps)
        except UnusableError as error:
            return error

    return zip(films, in_order(work, films, lambda film: headers[film].memory), strict=True)


class _Taken:
    """The clips of the films that were read, their labels, and what was left out, by reason."""

    def __init__(self, frames: int, classes: tuple[str, ...], unusable: Sequence[tuple[Film, UnusableError]]) -> None:
        self._frames, self._classes = frames, classes
        self.films, self.used = len(unusable), 0
        self.clips: list[Tensor] = []
        self.labels: list[int] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        for film, why in unusable:
            self._leave(film, why)

    def add(self, film: Film, read: Read) -> None:
        self.films += 1
        if isinstance(read, UnusableError):
            self._leave(film, read)
            return
        pictures, early = read
        if early is not None:
            self._leave(film, early)
        count = len(pictures) // self._frames
        if not count:
            self._leave(film, UnusableError(f"fewer than {self._frames} frames", str(len(pictures))))
            return
        self.used += 1
        self.clips.append(pictures[: count * self._frames].unflatten(0, (count, self._frames)))
        self.labels += [self._classes.index(film.kind)] * count

    def _leave(self, film: Film, why: UnusableError) -> None:
        self.left_out[why.kind].append(f"{film.name} ({why.detail})" if why.detail else film.name)


def _account(found: Films, taken: _Taken, name: str, split: Split) -> str:
    """How many films of how many are used, and why not the others."""
    clips = f"{taken.used} of {taken.films} films of the {split} split are used, {len(taken.labels)} clips"
    parts = [f"{name}: {clips}", *found.choices]
    if taken.left_out:
        parts.append(f"left out: {_kinds(taken.left_out)}")
    if found.left_out:
        parts.append(f"not looked at: {_kinds(found.left_out)}")
    return "; ".join(parts)


def _kinds(names: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{kind}: {len(some)} ({_some(some)})" for kind, some in names.items())


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
