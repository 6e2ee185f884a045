"""Results of runs, each a JSON file in the directory of its run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from oneblock.experiment.summary import Row
from oneblock.plain import read_plain, write_whole

RESULT_FILE = "result.json"
OLD_NAMES = {"bits_per_character": "bits_per_byte", "tokens_per_character": "tokens_per_byte"}
"""Of earlier versions -> the same number's name today."""
OLD_ANSWERS = {"token_calls": "calls", "token_path": "path", "token_pool": "pool", "token_draws": "draws"}
"""The same of how blocks were asked for tokens, under ``answers``."""


def recorded(directory: Path, arm: str, asked: Row) -> Row | None:
    """The result of the run of ``arm`` at ``directory``, if there is one that was made as ``asked``."""
    found = directory / RESULT_FILE
    if not found.is_file():
        return None
    row, wanted = read_result(found), {"arm": arm, **json.loads(json.dumps(asked))}
    return row if all(row.get(key) == value for key, value in wanted.items()) else None


def read_result(path: Path) -> Row:
    """The row of a result's file; ``ValueError`` if it is not one: it is not scored again unasked, as it may be another
    program's."""
    try:
        values = read_plain(path)
    except ValueError as error:
        raise ValueError(f"{error}; delete it, and the run is scored again") from error
    if not isinstance(values, dict) or not isinstance(values.get("answers", {}), dict):
        raise ValueError(f"{path} is not the result of a run; delete it, and the run is scored again")
    return _as_today(values)


def _as_today(row: Row) -> Row:
    """A row under the names of today."""
    named = {OLD_NAMES.get(key, key): value for key, value in row.items()}
    answers: Row = named.get("answers", {})
    if OLD_ANSWERS.keys() & answers.keys():
        asked = {"noise_seed": 0} | {OLD_ANSWERS.get(key, key): value for key, value in answers.items()}
        # the usual pool was evidence for every network whose pool can be chosen, which is what auto means for these
        named["answers"] = asked | ({"pool": "auto"} if asked.get("pool") == "evidence" else {})
    return named


def record(directory: Path, row: Row) -> Row:
    """Write the result of the run at ``directory``; returns it as it is read back."""
    text = json.dumps(row, indent=2) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / RESULT_FILE, text)
    plain: Row = json.loads(text)
    return plain


def copied(source: Path, target: Path) -> None:
    """Give the run at ``target`` the files of the one at ``source``, which is the same in all but its name, and not its
    result. They are linked where the file system can: finished files are replaced, never written into."""
    without = shutil.ignore_patterns(RESULT_FILE)
    shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True, ignore=without)


def _link(source: str, target: str) -> None:
    if os.path.exists(target) and os.path.samefile(source, target):
        return
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
