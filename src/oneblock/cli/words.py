"""From the words of a command line to the frozen dataclass that holds a verb's options."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tyro

from oneblock.presets.bytes import TASK, is_byte_run
from oneblock.presets.door import open_plan
from oneblock.train.shards import is_run

GONE = {
    "stride": "blocks train one after the other, or in turns that are measured in time: --order turns --turn-seconds N"
}
"""Options of earlier versions, and what to use instead."""
SWITCHES = ("capture", "compile")
"""Options that stand alone for ``on``."""
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def parse(command: type[Any] | Mapping[str, type[Any]], verb: str, words: Sequence[str]) -> Any:
    """The options of ``oneblock VERB WORDS``.

    Args:
        command: their class; or, of a verb that opens a model, the class for each task.

    Raises:
        ValueError: the words name a directory without a run, or an option that its task does not have.
        SystemExit: tyro's way out, after help or a wrong value.
    """
    if isinstance(command, Mapping):
        command, words = _of_task(command, verb, words)
        words = ["--help"] if _asks(words) else words  # tyro's help leaves out a positional that it has seen
    words = _switched(words)
    for name in filter(None, map(_name, words)):
        if name in GONE and name not in _options(command):
            raise ValueError(f"--{name} is gone: {GONE[name]}")
    return tyro.cli(command, prog=f"oneblock {verb}", args=words, config=CONFIG)


def _switched(words: Sequence[str]) -> list[str]:
    """The words with ``on`` behind a switch that stands alone."""
    found: list[str] = []
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        found.append(word)
        if word.removeprefix("--") in SWITCHES and following.startswith("--"):
            found.append("on")
    return found


def _of_task(commands: Mapping[str, type[Any]], verb: str, words: Sequence[str]) -> tuple[type[Any], list[str]]:
    """The class for the task of the run that ``words`` name, and the words with its directory first: behind an option
    that takes any number of values, it would be one of these."""
    options = {task: _options(command) for task, command in commands.items()}
    place = _directory(words, {name: hint for of_task in options.values() for name, hint in of_task.items()})
    if _asks(words) and (place is None or not _is_run(words[place])):
        _help(commands, verb)
    if place is None:
        raise ValueError(f"{verb} needs the directory of a run or of a merged model: oneblock {verb} DIR")
    directory, others = words[place], [*words[:place], *words[place + 1 :]]
    task = TASK if is_byte_run(Path(directory)) else open_plan(Path(directory)).task
    if task not in commands:
        raise ValueError(
            f"{directory} is a run of task {task!r}, which oneblock {verb} does not support; it supports "
            f"{', '.join(commands)}"
        )
    for name in filter(None, map(_name, others)):
        allowed = [other for other, of_task in options.items() if name in of_task]
        if name not in options[task] and allowed and not _asks(words):
            raise ValueError(f"--{name} is an option for {', '.join(allowed)}; the task of this run is {task}")
    return commands[task], [directory, *others]


def _is_run(word: str) -> bool:
    return is_run(Path(word)) or is_byte_run(Path(word))


def _asks(words: Sequence[str]) -> bool:
    return bool({"-h", "--help"} & set(words))


def _options(command: Any) -> dict[str, Any]:
    """The options of a class, with their types; those of dataclasses inside it too."""
    found: dict[str, Any] = {}
    hints = get_type_hints(command)
    for field in fields(command):
        hint = hints[field.name]
        if is_dataclass(hint):
            found |= _options(hint)
        else:
            found[field.name.replace("_", "-")] = hint
    return found


def _name(word: str) -> str | None:
    """The option that a word names: ``--sample-seed`` and ``--sample_seed=3`` are sample-seed."""
    return word[2:].partition("=")[0].replace("_", "-") if word.startswith("--") else None


def _directory(words: Sequence[str], options: Mapping[str, Any]) -> int | None:
    """The place of the first word that is neither an option nor the value of one; among any number of values, of the
    first run's directory."""
    taken, many = 0, False
    for place, word in enumerate(words):
        name = _name(word)
        if name is not None:
            hint = options.get(name)
            several = get_origin(hint) is tuple
            many = several and Ellipsis in get_args(hint)
            count = len(words) if many else len(get_args(hint)) if several else 1
            taken = 0 if hint is bool or "=" in word or name == "help" else count
        elif word.startswith("-") and not taken:
            continue
        elif taken and not (many and _is_run(word)):
            taken -= 1
        else:
            return place
    return None


def _help(commands: Mapping[str, type[Any]], verb: str) -> None:
    """Show the options of every task, and end."""
    for task, command in commands.items():
        print(f"\noneblock {verb} of a run of task {task}\n")
        try:
            tyro.cli(command, prog=f"oneblock {verb}", args=["--help"], config=CONFIG)
        except SystemExit:
            pass
    sys.exit(0)
