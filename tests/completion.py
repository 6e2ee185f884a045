"""The options that commands really have. ``python tests/completion.py`` writes them for completion to read."""

import json
from importlib import import_module

import tyro

from oneblock.cli.__main__ import VERBS, parsing
from oneblock.cli.completion import FILE


def options_of(verb: tuple[str, ...]) -> dict[str, list[str] | None]:
    """Of each option the values to choose from; None if it takes none."""
    module, name, _ = VERBS[verb]
    command = getattr(import_module(f"oneblock.cli.{module}"), name)
    found: dict[str, list[str] | None] = {}
    for action in tyro.extras.get_parser(command, config=parsing())._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                found[option] = None if action.nargs == 0 else list(map(str, action.choices or ()))
    return found


if __name__ == "__main__":
    lines = [f"  {json.dumps(' '.join(verb))}: {json.dumps(options_of(verb))}" for verb in VERBS]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
