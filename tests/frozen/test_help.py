"""The help of every command is the text that was frozen: names, defaults and explanations."""

import difflib

import pytest

pytest.importorskip("tyro")

from frozen import snapshots
from frozen.machinery import on_purpose


def test_every_case_is_frozen() -> None:
    frozen = {path.name for path in snapshots.FOLDER.glob("*.txt")} - {snapshots.VERSION.name}
    assert frozen == {snapshots.name(case) for case in snapshots.CASES}, on_purpose("help")


@pytest.mark.parametrize("case", snapshots.CASES)
def test_help(case: str) -> None:
    found, frozen = snapshots.measure(case), (snapshots.FOLDER / snapshots.name(case)).read_text()
    if snapshots.same_tyro():
        lines = difflib.unified_diff(frozen.splitlines(), found.splitlines(), "frozen", "found", "", "", 0, "")
        assert found == frozen, "\n".join([on_purpose("help"), *lines])
    assert snapshots.options(found) == snapshots.options(frozen), on_purpose("help")
