"""The options that commands really have. ``python tests/completion.py`` writes them for completion to read."""

import json
import warnings
from importlib import import_module
from typing import Any

import tyro

from oneblock.cli.__main__ import VERBS
from oneblock.cli.completion import FILE
from oneblock.cli.words import CONFIG


def options_of(verb: tuple[str, ...]) -> dict[str, list[str] | None]:
    """Of each option the values to choose from; None if it takes none. Of a verb that opens a model
    those of all tasks."""
    module, name, _ = VERBS[verb]
    command = getattr(import_module(f"oneblock.cli.{module}"), name)
    found: dict[str, list[str] | None] = {}
    for kind in command.values() if isinstance(command, dict) else [command]:
        for action in _parser(kind)._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help":
                    # sorted: typing forgets the order of some choices
                    choices = sorted({*(found.get(option) or ()), *map(str, action.choices or ())})
                    found[option] = None if action.nargs == 0 else choices
    return found


def _parser(command: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # nothing else of tyro gives the options as data
        return tyro.extras.get_parser(command, config=CONFIG)


if __name__ == "__main__":
    lines = [f"  {json.dumps(' '.join(verb))}: {json.dumps(options_of(verb))}" for verb in VERBS]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
