"""Settings as words of the command line."""

from __future__ import annotations

from dataclasses import fields, replace
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


def training_words(recipe: Any, usual: Any, *, end_to_end: bool, blocks: int, checkpointing: bool) -> list[str]:
    """The words after ``oneblock train VERB`` that train ``recipe`` in this way: those of the fields that differ from
    the verb's ``usual`` recipe, then what decides the memory. The data are not among them."""
    words = changed_words(replace(recipe, blocks=usual.blocks), usual)
    if end_to_end:
        words += ["--strategy", "end-to-end"]
    elif not recipe.layers:
        words += ["--blocks", str(blocks)]
    return words + (["--checkpointing"] if checkpointing else [])
