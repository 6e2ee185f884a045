"""The README's commands, run one after the other as they are printed: with less work alone, and a text of one's own."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import SENTENCES

README = (Path(__file__).parents[2] / "README.md").read_text()
VERBS = README.split("## On the command line")[1].split("\n## ")[0]
SMALL = ["--width", "16", "--heads", "2", "--threads", "1"]
LESS = {
    "train images": [*SMALL, "--batch-size", "16", "--budget", "600"],
    "sample runs/digits/model": ["--per-class", "1"],
    "evaluate runs/digits/model": ["--num-samples", "100"],
    "audit runs/digits/model": ["--chains", "20", "--cycles", "2"],
    "report": ["--samples", "1"],
    "train text": [*SMALL, "--budget", "600"],
    "compare text": [*SMALL, "--budget", "600", "--seeds", "1", "--windows", "8", "--arms", "branched"],
}
"""What a command begins with -> words that follow the printed ones."""
Ok = Callable[..., list[dict[str, Any]]]


def blocks() -> list[list[str]]:
    found = re.findall(r"```\n(.*?)```", VERBS, flags=re.DOTALL)
    return [re.findall(r"^oneblock (.*?)(?:\s+#.*)?$", block, flags=re.MULTILINE) for block in found]


def run(commands: list[str], ok: Ok, *more: str) -> None:
    for command in commands:
        less = [words for start, words in LESS.items() if command.startswith(start)]
        ok(*shlex.split(command), *(less[0] if less else []), *(more if command.split()[1] == "text" else []))


def test_they_were_found() -> None:
    printed = [command for block in blocks() for command in block]
    assert len(printed) == 16 and all(any(one.startswith(start) for one in printed) for start in LESS)


def test_digits(tmp_path: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    run(blocks()[0], ok)
    assert (tmp_path / "digits.png").is_file() and (tmp_path / "runs" / "digits" / "report.html").is_file()
    assert len(list((tmp_path / "runs" / "digits" / "model").glob("block-*.safetensors"))) == 3


def test_jobs(tmp_path: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    run(blocks()[1], ok)
    assert {row["state"] for row in ok("status", "runs/jobs", "--json")} == {"done"}


def test_text(tmp_path: Path, ok: Ok, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    Path(text.removeprefix("file:")).write_text(SENTENCES * 700)
    run(blocks()[2], ok, "--data", text)
    assert len(list((tmp_path / "runs" / "compare-text").glob("*/result.json"))) == 1
