"""The help of every command, as text of a fixed width without colours."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout
from unittest.mock import patch

import tyro
from frozen.machinery import HERE

from oneblock.cli.__main__ import VERBS, main

FOLDER = HERE / "help"
VERSION = FOLDER / "tyro.txt"
CASES = ("", *(" ".join(verb) for verb in VERBS))
PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


def name(case: str) -> str:
    return f"{case.replace(' ', '-') or 'oneblock'}.txt"


def measure(case: str) -> str:
    """What ``oneblock CASE --help`` prints, without spaces at the ends of lines."""
    out = io.StringIO()
    with patch.dict(os.environ, PLAIN), redirect_stdout(out):
        try:
            code: object = main([*case.split(), "--help"])
        except SystemExit as stopped:  # tyro's own way out
            code = stopped.code
    assert not code, f"oneblock {case} --help ends with {code}"
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip() + "\n"


def same_tyro() -> bool:
    """Whether tyro is the version that laid out the frozen text."""
    return VERSION.read_text().strip() == tyro.__version__


def options(text: str) -> list[str]:
    """The options that a help text lists, in its order."""
    return re.findall(r"^\s*(?:-\w, )?(--[a-z0-9-]+)", text, re.MULTILINE)
