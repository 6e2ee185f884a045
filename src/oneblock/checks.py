"""Values of the type that their fields declare: settings are checked once, when they are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MOST_SEED = 2**63 - 1
"""Of a generator, and of seeds that are derived from others."""


def check_fields(settings: Any) -> None:
    """Refuse a field of a frozen dataclass whose value is not of its type; a list in the place of a tuple becomes a
    tuple.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    for name, hint in _hints(settings.__class__).items():
        value = getattr(settings, name)
        if isinstance(value, list) and get_origin(hint) is tuple:
            value = tuple(value)
            object.__setattr__(settings, name, value)
        if not _fits(value, hint):
            raise ValueError(f"{name}={value!r} is not allowed in {type(settings).__name__}; use {_described(hint)}")


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not one of those ``allowed`` with a ``ValueError``."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not allowed; use one of {', '.join(map(str, allowed))}")


MANY = 10**6
"""More calls, steps or draws than anyone waits for."""


def check_count(name: str, value: int, least: int = 1, most: int | None = None) -> None:
    """Refuse what is not a whole number of ``least`` or more, up to ``most``."""
    if not _fits(value, int) or value < least or (most is not None and value > most):
        up_to = "" if most is None or not _fits(value, int) or value < least else f" up to {most}"
        raise ValueError(f"{name}={value!r} is not allowed; use a whole number, {least} or more{up_to}")


def check_number(
    name: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Refuse what is not a finite number from ``least``, or beyond ``above``, and smaller than ``below``, or up to
    ``most``."""
    bounds = [f"{least:g} or more"] if least is not None else [f"above {above:g}"] if above is not None else []
    bounds += [f"below {below:g}"] if below is not None else [f"up to {most:g}"] if most is not None else []
    inside = (
        _fits(value, float)
        and math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (below is None or value < below)
        and (most is None or value <= most)
    )
    if not inside:
        raise ValueError(f"{name}={value!r} is not allowed; use a number, {' and '.join(bounds)}")


def check_seed(name: str, value: int, most: int = MOST_SEED) -> None:
    """Refuse what is not a whole number from 0 to ``most``."""
    if not _fits(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name}={value!r} is not allowed; use a whole number from 0 to {most}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    found = get_type_hints(kind)
    return {field.name: found[field.name] for field in fields(kind)}


def _fits(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is tuple:
        kinds = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return all(_fits(item, kinds[0]) for item in value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin in (Union, UnionType):
        return " or ".join(_described(one) for one in get_args(hint))
    if origin is tuple:
        kinds = [_described(kind) for kind in get_args(hint) if kind is not Ellipsis]
        return "a tuple" if not kinds else f"a tuple, each item {kinds[0]}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))
