"""Settings as words of the command line."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def changed_words(settings: Any, usual: Any) -> list[str]:
    """The command-line words for the fields of a dataclass that differ from those of ``usual``."""
    words: list[str] = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        if value != getattr(usual, item.name):
            given = value if isinstance(value, tuple) else () if isinstance(value, bool) else (value,)
            words += [f"--{'no-' if value is False else ''}{item.name.replace('_', '-')}", *map(str, given)]
    return words
