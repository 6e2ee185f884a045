"""Pictures with captions from a formula: "two red squares left of a blue circle", and a checker that reads them back.

A caption names one group of equal things, or two groups and how they lie. Things never touch, so that a picture can be
read exactly: connected pixels of one colour are a thing, and the share of its bounding box that it fills tells its
shape (a square 1, a circle about pi / 4, a triangle about 1/2). The checker knows no caption and no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.checks import check_choice, check_count, check_fields, check_seed

from .imageset import ImageSet, Split, check_split

Colour = Literal["red", "green", "blue", "yellow"]
Shape = Literal["square", "circle", "triangle"]
Relation = Literal["left of", "right of", "above", "below"]

NAME, SETTING = "scenes", "images"
"""Of the data, and of what may follow the name."""
SIZE = 32
"""Pixels of the side of a picture, unless others are asked for."""
IMAGES: dict[Split, int] = {"train": 4000, "test": 1000}
SEEDS: dict[Split, int] = {"train": 1, "test": 2}

COLOURS: dict[Colour, tuple[int, int, int]] = {
    "red": (230, 50, 50),
    "green": (50, 190, 70),
    "blue": (60, 90, 235),
    "yellow": (240, 220, 60),
}
GROUND = (20, 20, 20)
WORDS = ("a", "two", "three")
"""Of 1, 2 and 3 things of a group."""
SMALLEST = 7
"""Pixels of the side of a thing, from which shapes are told apart."""
LEAST_SIZE = 3 * (SMALLEST + 1)
"""Pixels of the side of a picture: three things and their gaps."""
FULL, HALF = 0.925, 0.65
"""Of its bounding box, a square fills more than the first share, a triangle less than the second."""
SPECK = 9
"""Connected pixels that count as a thing, at least."""
_INNER = slice(1, -1)
_SIDES = ((slice(-2), _INNER), (slice(2, None), _INNER), (_INNER, slice(-2)), (_INNER, slice(2, None)))
"""Rows and columns of padded pictures that lie above, below, left and right of each pixel."""


@dataclass(frozen=True)
class Group:
    """So many equal things, 1 to 3."""

    count: int
    colour: Colour
    shape: Shape

    def __post_init__(self) -> None:
        check_fields(self)
        check_count("count", self.count, most=len(WORDS))

    def __str__(self) -> str:
        return f"{WORDS[self.count - 1]} {self.colour} {self.shape}{'s' if self.count > 1 else ''}"


@dataclass(frozen=True)
class Scene:
    """One group, or a group that lies ``relation`` another one, of another colour or shape; ``str`` is its caption."""

    first: Group
    relation: Relation | None = None
    second: Group | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.relation is None) != (self.second is None):
            raise ValueError(f"relation={self.relation!r} and second={self.second}; give both or none")
        if self.second is not None and _kind(self.first) == _kind(self.second):
            raise ValueError(f"both groups are {self.first.colour} {self.first.shape}s; use two kinds, or one group")

    def __str__(self) -> str:
        return str(self.first) if self.second is None else f"{self.first} {self.relation} {self.second}"

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)


@dataclass(frozen=True)
class Thing:
    """What the checker has seen: colour, shape, and the centre of its pixels (x, y), from the upper left corner."""

    colour: Colour
    shape: Shape
    centre: tuple[float, float]


@dataclass(frozen=True)
class Checked:
    """Which attributes of a caption a picture has; ``all_of_it`` is True where nothing is missing and nothing else is
    there, ``relation`` is None of a caption without one."""

    number: bool
    colours: bool
    shapes: bool
    relation: bool | None
    all_of_it: bool


def captioned_scenes(count: int, size: int = SIZE, seed: int = 0) -> ImageSet:
    """``count`` pictures uint8 (n, 3, size, size), each with a caption: that of picture i is ``classes[labels[i]]``.

    A third of the captions name one group. Picture and caption i follow from the seed.

    Args:
        size: pixels, ``LEAST_SIZE`` or more.
    """
    check_count("count", count)
    check_count("size", size, least=LEAST_SIZE)
    check_seed("seed", seed)
    return _captioned(*_drawn(count, seed), size)


def load_scenes(spec: str, split: Split = "train", size: int | None = None) -> ImageSet:
    """One split of scenes by name. Training and held-out pictures are drawn apart and know one list of captions.

    Args:
        spec: ``scenes``; or ``scenes,images=400``, with so many training pictures and a quarter as many held-out ones.
        size: pixels; None is ``SIZE``.

    Raises:
        ValueError: an unknown setting, or too small a size.
    """
    check_split(split)
    check_count("size", SIZE if size is None else size, least=LEAST_SIZE)
    counts = _counts(spec)
    drawn = {one: _drawn(counts[one], SEEDS[one]) for one in counts}
    captions = sorted({str(scene) for scenes, _ in drawn.values() for scene in scenes})
    return _captioned(*drawn[split], size or SIZE, captions)


def _counts(spec: str) -> dict[Split, int]:
    """Pictures of each split."""
    name, *settings = spec.split(",")
    known, _, value = settings[0].partition("=") if settings else (SETTING, "", str(IMAGES["train"]))
    if name != NAME or known != SETTING or len(settings) > 1 or not value.isdecimal() or int(value) < 1:
        raise ValueError(f"data={spec!r} is unknown; write {NAME}, or {NAME},{SETTING}=NUMBER for so many pictures")
    return {"train": int(value), "test": max(1, int(value) * IMAGES["test"] // IMAGES["train"])}


def _drawn(count: int, seed: int) -> tuple[list[Scene], torch.Generator]:
    """Scenes, and the generator that goes on to draw their places."""
    generator = torch.Generator().manual_seed(seed)
    return [draw_scene(generator) for _ in range(count)], generator


def _captioned(
    scenes: Sequence[Scene], generator: torch.Generator, size: int, captions: Sequence[str] = ()
) -> ImageSet:
    """Pictures of scenes; ``captions`` are all that there are, sorted, by default theirs."""
    images = torch.stack([render(scene, size, generator) for scene in scenes])
    different = tuple(captions or sorted({str(scene) for scene in scenes}))
    where = {caption: label for label, caption in enumerate(different)}
    labels = torch.tensor([where[str(scene)] for scene in scenes])
    return ImageSet(images, labels, different, NAME, captioned=True)


def draw_scene(generator: torch.Generator) -> Scene:
    """A scene, every group and relation equally likely."""
    kinds = [(colour, shape) for colour in COLOURS for shape in get_args(Shape)]
    first, second = torch.randperm(len(kinds), generator=generator)[:2].tolist()
    counts = torch.randint(1, len(WORDS) + 1, (2,), generator=generator).tolist()
    alone, way = (int(torch.randint(most, (1,), generator=generator)) for most in (3, len(get_args(Relation))))
    group = Group(counts[0], *kinds[first])
    if alone == 0:
        return Scene(group)
    return Scene(group, get_args(Relation)[way], Group(counts[1], *kinds[second]))


def parse_scene(caption: str) -> Scene:
    """The scene of a caption.

    Raises:
        ValueError: it is not a caption that ``Scene`` writes.
    """
    for relation in get_args(Relation):
        first, found, second = caption.partition(f" {relation} ")
        if found:
            return Scene(_parse_group(first, caption), relation, _parse_group(second, caption))
    return Scene(_parse_group(caption, caption))


def render(scene: Scene, size: int, generator: torch.Generator) -> Tensor:
    """A picture uint8 (3, size, size) of a scene: each group in a half of its own, or a single one anywhere; places
    and sizes of the things are drawn."""
    image = torch.tensor(GROUND, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
    across = scene.relation in ("left of", "right of")
    groups = scene.groups if scene.relation in (None, "left of", "above") else scene.groups[::-1]
    wide = size // len(groups)
    for half, group in enumerate(groups):
        cells = torch.randperm(3, generator=generator)[: group.count].tolist()
        colour = torch.tensor(COLOURS[group.colour], dtype=torch.uint8)[:, None, None]
        for cell in cells:
            high = size // 3
            side = int(torch.randint(SMALLEST, high, (1,), generator=generator))
            along = cell * high + int(torch.randint(high - side, (1,), generator=generator))
            aside = half * wide + int(torch.randint(wide - side, (1,), generator=generator))
            top, left = (along, aside) if across or scene.relation is None else (aside, along)
            window = image[:, top : top + side, left : left + side]
            window.copy_(torch.where(_mask(group.shape, side), colour, window))
    return image


def see(image: Tensor) -> list[Thing]:
    """The things in a picture uint8 (3, h, w), row by row of their first pixels; specks are left out."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image is {image.dtype} of shape {tuple(image.shape)}; torch.uint8 (3, h, w) is allowed")
    return _see(image[None])[0]


def _see(images: Tensor) -> list[list[Thing]]:
    """The same of many pictures (n, 3, h, w) at once."""
    colours = _colour(images)
    parts = _connected(colours)
    held = parts > 0
    _, which = parts[held].unique(return_inverse=True)
    _, row, column = held.nonzero(as_tuple=True)
    seen: list[list[Thing]] = [[] for _ in images]
    if not len(which):
        return seen
    count, top, left = which.bincount(), _least(row, which), _least(column, which)
    box = (1 - top - _least(-row, which)) * (1 - left - _least(-column, which))
    first = _least(held.flatten().nonzero()[:, 0], which)
    centre = [which.bincount(at.double()) / count for at in (column, row)]
    for part in first.argsort().tolist():
        if count[part] >= SPECK:
            colour = tuple(COLOURS)[int(colours.flatten()[first[part]]) - 1]
            shape = _shape(float(count[part] / box[part]))
            place = int(first[part]) // colours[0].numel()
            seen[place].append(Thing(colour, shape, (float(centre[0][part]), float(centre[1][part]))))
    return seen


def check_scene(image: Tensor, scene: Scene) -> Checked:
    """Which attributes of the caption of ``scene`` a picture uint8 (3, h, w) has."""
    return _checked(see(image), scene)


def _checked(things: Sequence[Thing], scene: Scene) -> Checked:
    """The same of a picture in which ``things`` are seen."""
    wanted = Counter({_kind(group): group.count for group in scene.groups})
    seen = Counter(_kind(thing) for thing in things)
    colours, shapes = ([kind[i] for kind in wanted.elements()] for i in (0, 1))
    relation = None if scene.second is None else _lies(things, scene)
    return Checked(
        number=len(things) == wanted.total(),
        colours=Counter(thing.colour for thing in things) == Counter(colours),
        shapes=Counter(thing.shape for thing in things) == Counter(shapes),
        relation=relation,
        all_of_it=seen == wanted and relation is not False,
    )


def caption_agreement(images: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """The share of pictures uint8 (n, 3, h, w) that have each attribute of their captions (``Checked``); of the
    relation, among captions with one, if there are any. Read it beside that of real pictures, which is 1, and of the
    same pictures under each other's captions, which is chance."""
    if len(images) != len(captions) or not captions:
        raise ValueError(f"{len(images)} images have {len(captions)} captions; give one caption for each image")
    found = [_checked(things, parse_scene(caption)) for things, caption in zip(_see(images), captions, strict=True)]
    named = {one.name: [getattr(checked, one.name) for checked in found] for one in fields(Checked)}
    known = {name: [value for value in values if value is not None] for name, values in named.items()}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def _kind(one: Group | Thing) -> tuple[Colour, Shape]:
    return one.colour, one.shape


def _parse_group(text: str, caption: str) -> Group:
    words = text.split(" ")
    if len(words) == 3 and words[0] in WORDS:
        count = WORDS.index(words[0]) + 1
        shape = words[2].removesuffix("s") if count > 1 else words[2]
        if words[1] in COLOURS and shape in get_args(Shape):
            group = Group(count, words[1], shape)  # type: ignore[arg-type]
            if str(group) == text:
                return group
    raise ValueError(f"caption {caption!r} is not one of scenes; write e.g. 'two red squares left of a blue circle'")


def _mask(shape: Shape, side: int) -> Tensor:
    """The pixels of a thing, bool (side, side); all of its box is touched."""
    line = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    if shape == "square":
        return torch.ones(side, side, dtype=torch.bool)
    if shape == "circle":
        return line[:, None] ** 2 + line**2 <= (side / 2) ** 2
    check_choice("shape", shape, get_args(Shape))
    return line.abs() <= torch.arange(1, side + 1)[:, None] / 2


def _colour(images: Tensor) -> Tensor:
    """Of each pixel of (n, 3, h, w): 0 for the ground, else 1 + the index of the colour that it is mixed of with the
    ground, from one half on. A blurred edge so has the colour of its thing."""
    ground = torch.tensor(GROUND, dtype=torch.float32)
    pure = torch.tensor(list(COLOURS.values()), dtype=torch.float32) - ground
    along = (images.movedim(1, -1).float() - ground) @ pure.T
    length = pure.norm(dim=1)
    chosen = (along / length).argmax(-1)  # the largest cosine: the pixel's own length is the same for all
    share = (along / length**2).gather(-1, chosen[..., None])[..., 0]
    return torch.where(share > 0.5, chosen + 1, 0)


def _shape(filled: float) -> Shape:
    return "square" if filled > FULL else "triangle" if filled < HALF else "circle"


def _connected(colours: Tensor) -> Tensor:
    """Number of the part of each pixel of pictures (n, h, w), int64, 0 where the colour is 0; pixels of one colour that
    share a side are one part."""
    parts = torch.arange(1, colours.numel() + 1).view(colours.shape) * (colours > 0)
    around = [F.pad(colours, (1, 1, 1, 1))[:, rows, columns] == colours for rows, columns in _SIDES]
    while True:
        padded = F.pad(parts, (1, 1, 1, 1))
        sides = (padded[:, rows, columns] * same for (rows, columns), same in zip(_SIDES, around, strict=True))
        grown = torch.stack([parts, *sides]).amax(0)
        if bool((grown == parts).all()):
            return parts
        parts = grown


def _least(values: Tensor, which: Tensor) -> Tensor:
    """The least of the ``values`` (m,) of each part that ``which`` (m,) says."""
    start = values.new_zeros(int(which.max()) + 1)
    return start.scatter_reduce(0, which, values, "amin", include_self=False)


def _lies(things: Sequence[Thing], scene: Scene) -> bool:
    """Whether each thing of the first group lies so to each of the second; False without one of either."""
    axis = 0 if scene.relation in ("left of", "right of") else 1
    sign = 1 if scene.relation in ("left of", "above") else -1
    of_first, of_second = (
        [sign * thing.centre[axis] for thing in things if _kind(thing) == _kind(group)] for group in scene.groups
    )
    return bool(of_first and of_second) and max(of_first) < min(of_second)
