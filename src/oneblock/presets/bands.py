"""Where the noise range is cut into bands, as a user says it: by a rule, in numbers, or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from oneblock.checks import fits, shown
from oneblock.partition import Bands
from oneblock.plain import parse_plain

MOST_CUTS_FILE = 2**24
"""Bytes of a file of levels; a plan with many classes is larger than a list."""
ALLOWED = f"{', '.join(get_args(Bands))}, noise levels from the noisiest on (2.5,0.4), or a file that holds them"

GivenBands = Bands | str | tuple[float, ...]
"""A rule; the levels to cut at, noisiest first, as numbers or as text with commas; or the name of a file of them."""


def is_rule(bands: GivenBands) -> bool:
    """Whether bands are cut by a rule, which suits any number of blocks."""
    return bands in get_args(Bands)


def cuts(bands: GivenBands) -> Bands | tuple[float, ...]:
    """What ``partition.make_partition`` takes for ``bands``: a rule or levels, read from a file if there is one.

    A file holds a JSON list, one number a line, or a plan, whose edges between its blocks are taken.

    Raises:
        ValueError: not a rule, numbers or a file of numbers.
    """
    if not isinstance(bands, str):
        return bands
    if is_rule(bands):
        return cast(Bands, bands)
    numbers = _numbers(bands.split(","))
    if numbers is not None:
        return numbers
    path = Path(bands).expanduser()
    if not path.is_file():
        raise ValueError(f"bands={bands!r} is neither a rule, nor numbers, nor a file; use {ALLOWED}")
    return _read(path)


def _read(path: Path) -> tuple[float, ...]:
    """The levels in a file."""
    with open(path, "rb") as file:
        content = file.read(MOST_CUTS_FILE)
    by_line = _numbers([line for line in content.decode(errors="replace").splitlines() if line.strip()])
    if by_line is not None:
        return by_line
    try:
        found = parse_plain(content, str(path))
    except ValueError as error:
        raise ValueError(f"bands: {error}; use a JSON list, one number a line, or a plan.json") from error
    levels = found["edges"][1:-1] if isinstance(found, dict) and fits(found.get("edges"), list[float]) else found
    if not fits(levels, list[float]):
        raise ValueError(
            f"bands: {path} holds {shown(found)}; use a JSON list of numbers, one number a line, or a plan.json"
        )
    return tuple(map(float, levels))


def _numbers(words: Sequence[str]) -> tuple[float, ...] | None:
    """The numbers that words are; None if one is not."""
    try:
        return tuple(map(float, words))
    except ValueError:
        return None
