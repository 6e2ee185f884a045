"""The commands that README and docs print are ones that the command line takes."""

import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tyro

from oneblock.cli.__main__ import VERBS
from oneblock.cli.words import CONFIG

ROOT = Path(__file__).parents[2]
# the log tells what was run at its time, with options that may have gone since
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "log.md")]
FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command that is more than the name of a verb."""
    text = page.read_text()
    fenced = [line for block in FENCED.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCED.sub("", text))]
    for line in [*fenced, *inline]:
        if line.startswith("oneblock ") and tuple(line.split()[1:]) not in VERBS:
            yield shlex.split(re.sub(r"\s#.*|[\[\]]", "", line))[1:]


ALL = [(page.name, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    ("page", "words"), ALL, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_a_printed_command_is_taken(page: str, words: list[str]) -> None:
    verb, (module, name, _) = next((verb, at) for verb, at in VERBS.items() if tuple(words[: len(verb)]) == verb)
    command: Any = getattr(import_module(f"oneblock.cli.{module}"), name)
    several = command.values() if isinstance(command, dict) else [command]
    assert any(takes(kind, words[len(verb) :]) for kind in several), f"{page}: oneblock {' '.join(words)}"


def takes(command: Any, words: list[str]) -> bool:
    try:
        tyro.cli(command, args=words, config=CONFIG)
    except SystemExit:
        return False
    return True


@pytest.mark.slow
def test_the_bytes_of_choose_are_those_that_its_commands_print(ok: Callable[..., list[dict[str, Any]]]) -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    text = (ROOT / "docs" / "choose.md").read_text()
    row = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)
    table = {name: cells for name, *cells in row.findall(text)}
    planned = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("oneblock plan")]
    assert len(planned) == 2 and len(table) > 10
    for column, words in enumerate(planned):
        (found,) = ok(*words, "--json")
        rows = {row["name"]: row for row in (*found["costs"], *found["rivals"])}
        for name, cells in table.items():
            assert cells[column] == (written(rows[name]) if name in rows else "-"), name


def written(row: dict[str, Any]) -> str:
    device, host, bus = (f"{size / 2**30:.2f}" for size in (row["peak"]["total"], row["host"], row["bus"]))
    return f"{device} + {host} host, {bus} bus" if row["host"] else device


def test_they_were_found() -> None:
    assert {words[0] for _, words in ALL} == {verb[0] for verb in VERBS} - {"demo"}
    assert not takes(import_module("oneblock.cli.train").TrainImages, ["--data", "digits"]), "without --out"
