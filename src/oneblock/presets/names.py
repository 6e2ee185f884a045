"""Names of classes: a plan holds those of its data, and users say them in the place of numbers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from operator import index
from typing import cast
from unicodedata import normalize

from oneblock.plan import Plain, Plan
from oneblock.presets.base import ImageFacts

SHOWN = 20
"""Names that a message lists at most."""


def numbers(count: int) -> tuple[str, ...]:
    """What so many classes without names are called."""
    return tuple(map(str, range(count)))


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of labels 0, 1, ...; one that stands before it already gets the label behind it."""
    return tuple(f"{name} ({label})" if name in names[:label] else name for label, name in enumerate(names))


def class_setting(facts: ImageFacts) -> dict[str, Plain]:
    """``classes`` for the recipe of a plan: nothing where they are called by their numbers."""
    named = facts.classes and tuple(facts.classes) != numbers(facts.num_classes)
    return {"classes": list(unique_names(facts.classes))} if named else {}


def limit_setting(facts: ImageFacts) -> dict[str, Plain]:
    """``max_pixels`` for the recipe of a plan: nothing where it is the usual one."""
    return {} if facts.max_pixels == ImageFacts.max_pixels else {"max_pixels": facts.max_pixels}


def has_names(plan: Plan) -> bool:
    """Whether a plan holds names of its classes; one of an earlier version does not."""
    return bool(plan.classes)


def class_names(plan: Plan) -> tuple[str, ...]:
    """One name for each class of a plan for images or for their classes: that of the data, or the class's number."""
    count = cast(int, plan.architecture.get("num_classes", 0))
    if not has_names(plan):
        return numbers(count)
    names = plan.classes
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"classes={list(names)} in the recipe of the plan do not name its {count} classes, each once; restore the "
            "plan from a copy of the run"
        )
    return names


def without_names(plan: Plan) -> Plan:
    """The plan that an earlier version would have made, which knew no names."""
    return replace(plan, recipe={key: value for key, value in plan.recipe.items() if key != "classes"})


def class_labels(plan: Plan, asked: Sequence[int | str]) -> list[int]:
    """The labels of classes, each given by its name or its number; a text is looked for among the names first.

    Raises:
        ValueError: one does not exist; the nearest names are listed.
    """
    names = class_names(plan)
    if not names:
        raise ValueError(f"classes={list(asked)} are asked for, but the plan has no classes; leave them out")
    known = {normalize("NFC", name): label for label, name in reversed(list(enumerate(names)))}
    labels = [
        known[normalize("NFC", one)] if isinstance(one, str) and normalize("NFC", one) in known else _number(one)
        for one in asked
    ]
    found = [label for label in labels if label is not None and label < len(names)]
    if len(found) < len(labels):
        unknown = [
            one if label is None else label
            for one, label in zip(asked, labels, strict=True)
            if label is None or label >= len(names)
        ]
        raise ValueError(f"classes={unknown} do not exist; use {_allowed(plan, unknown)}")
    return found


def _number(one: int | str) -> int | None:
    """The number that is meant, from 0 on; None if it is none."""
    text = one.strip() if isinstance(one, str) else str(index(one)) if hasattr(one, "__index__") else ""
    if isinstance(one, bool):
        return None
    return int(text) if text.isascii() and text.isdecimal() else None


def _allowed(plan: Plan, unknown: Sequence[int | str]) -> str:
    names = class_names(plan)
    if not has_names(plan):
        return f"0 to {len(names) - 1}" + ("; the plan holds no names" if any(map(_is_word, unknown)) else "")
    lower = {name.lower(): name for name in reversed(names)}
    words = [str(one).lower() for one in unknown]
    near = [lower[close] for word in words for close in difflib.get_close_matches(word, lower, 3, 0.5)]
    if near:
        return f"0 to {len(names) - 1} or a name; the nearest are {', '.join(dict.fromkeys(near))}"
    more = "" if len(names) <= SHOWN else f" and {len(names) - SHOWN} more"
    return f"0 to {len(names) - 1} or a name: {', '.join(names[:SHOWN])}{more}"


def _is_word(one: int | str) -> bool:
    return isinstance(one, str) and _number(one) is None
