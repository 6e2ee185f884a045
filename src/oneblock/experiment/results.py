"""Results of runs, each a JSON file in the directory of its run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from oneblock.experiment.summary import Row

RESULT_FILE = "result.json"
OLD_NAMES = {"bits_per_character": "bits_per_byte", "tokens_per_character": "tokens_per_byte"}
"""Of earlier versions -> the same number's name today."""


def recorded(directory: Path, asked: Row) -> Row | None:
    """The result of the run at ``directory``, if there is one that was made as ``asked``."""
    found = directory / RESULT_FILE
    if not found.is_file():
        return None
    row: Row = {OLD_NAMES.get(key, key): value for key, value in json.loads(found.read_text()).items()}
    return row if all(row.get(key) == value for key, value in json.loads(json.dumps(asked)).items()) else None


def record(directory: Path, row: Row) -> Row:
    """Write the result of the run at ``directory``; returns it as it is read back."""
    text = json.dumps(row, indent=2) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    partial = (directory / RESULT_FILE).with_suffix(".partial")
    partial.write_text(text)
    partial.replace(directory / RESULT_FILE)
    plain: Row = json.loads(text)
    return plain


def copied(source: Path, target: Path) -> None:
    """Give the run at ``target`` the files of the one at ``source``, which is the same in all but its name. They are
    linked where the file system can: finished files are replaced, never written into."""
    shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
