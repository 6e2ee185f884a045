"""Values of the type that their fields declare: settings are checked once, when they are made."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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
        if not fits(value, hint):
            raise ValueError(
                f"{name}={shown(value)} is not allowed in {type(settings).__name__}; use {_described(hint)}"
            )


def check_least(settings: Any, least: int, *names: str) -> None:
    """Refuse fields, already of their type, that are smaller than ``least``."""
    for name in names:
        if getattr(settings, name) < least:
            raise ValueError(f"{name}={getattr(settings, name)} is not allowed; use {least} or more")


def shown(value: object) -> str:
    """A value as a message shows it: what is long is cut."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not one of those ``allowed`` with a ``ValueError``."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not allowed; use one of {', '.join(map(str, allowed))}")


MANY = 10**6
"""More calls, steps or draws than anyone waits for."""


def check_count(name: str, value: int, least: int = 1, most: int | None = None) -> None:
    """Refuse what is not a whole number of ``least`` or more, up to ``most``."""
    if not fits(value, int) or value < least or (most is not None and value > most):
        up_to = "" if most is None or not fits(value, int) or value < least else f" up to {most}"
        raise ValueError(f"{name}={shown(value)} is not allowed; use a whole number, {least} or more{up_to}")


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
        fits(value, float)
        and abs(value) <= sys.float_info.max
        and (least is None or value >= least)
        and (above is None or value > above)
        and (below is None or value < below)
        and (most is None or value <= most)
    )
    if not inside:
        raise ValueError(f"{name}={value!r} is not allowed; use a number, {' and '.join(bounds)}")


def check_seed(name: str, value: int, most: int = MOST_SEED) -> None:
    """Refuse what is not a whole number from 0 to ``most``."""
    if not fits(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name}={shown(value)} is not allowed; use a whole number from 0 to {most}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    found = get_type_hints(kind)
    return {field.name: found[field.name] for field in fields(kind)}


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of the type that a hint of a field says."""
    origin = get_origin(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if origin is tuple:
        kinds = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return _all_fit(value, kinds[0])
        return len(value) == len(kinds) and all(map(fits, value, kinds))
    if origin in (list, Sequence):
        allowed = list if origin is list else (list, tuple)
        return isinstance(value, allowed) and _all_fit(value, get_args(hint)[0])
    if origin is not None and issubclass(origin, Mapping):
        names, kind = get_args(hint)
        return isinstance(value, Mapping) and _all_fit(list(value), names) and _all_fit(list(value.values()), kind)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _all_fit(values: Sequence[object], hint: Any) -> bool:
    if hint in (int, float, str):  # there may be millions
        allowed = (int, float) if hint is float else hint
        return all(issubclass(kind, allowed) and kind is not bool for kind in set(map(type, values)))
    return all(fits(value, hint) for value in values)


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin in (Union, UnionType):
        return " or ".join(_described(one) for one in get_args(hint))
    if origin is tuple:
        kinds = [_described(kind) for kind in get_args(hint) if kind is not Ellipsis]
        return "a tuple" if not kinds else f"a tuple, each item {kinds[0]}"
    if origin in (list, Sequence):
        return f"a list, each item {_described(get_args(hint)[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return "names, each with a plain value"
    words = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))
