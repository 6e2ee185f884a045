"""What is shown while data are read: nothing of short work, a line that changes on a terminal, some lines in a file."""

import io
import sys
import warnings

import pytest

from oneblock.data.progress import heard_by, note, problem, tell
from oneblock.train.shown import EVERY, PATIENCE, Shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def read(shown: Shown, clock: Clock, seconds: float, total: int = 1000, unit: str = "images") -> None:
    """Tell of ``total`` images that take ``seconds`` together."""
    for done in range(1, total + 1):
        shown.progress("folder:x", done, total, unit)
        clock.now += seconds / total


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_short_work_is_not_shown(stream: io.StringIO) -> None:
    clock = Clock()
    shown = Shown(stream, clock)
    read(shown, clock, PATIENCE * 0.9, unit="files")
    read(shown, clock, PATIENCE * 0.9)
    assert stream.getvalue() == ""


def test_a_file_gets_a_line_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    read(Shown(stream, clock), clock, 45)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 + int((45 - PATIENCE) / EVERY)
    assert lines[0] == "folder:x: 46 of 1000 images, 23 per second, 2 s"
    assert lines[-1] == "folder:x: 1000 of 1000 images, 22 per second, 45 s"
    assert "\r" not in stream.getvalue()


def test_a_terminal_has_one_line_that_changes() -> None:
    stream, clock = Terminal(), Clock()
    shown = Shown(stream, clock)
    read(shown, clock, 45)
    shown.note("done")
    assert stream.getvalue().count("\n") == 2 and 100 < stream.getvalue().count("\r") < 300
    assert stream.getvalue().endswith("folder:x: 1000 of 1000 images, 22 per second, 45 s\x1b[K\ndone\n")


def test_a_note_does_not_write_into_the_line() -> None:
    stream, clock = Terminal(), Clock()
    shown = Shown(stream, clock)
    shown.progress("x", 1, 9, "images")
    clock.now += 3
    shown.progress("x", 2, 9, "images")
    shown.note("said")
    assert stream.getvalue().endswith("2 of 9 images, 1 per second, 3 s\x1b[K\nsaid\n")


def test_notes_are_said_once() -> None:
    stream = io.StringIO()
    shown = Shown(stream)
    for message in ("a", "b", "a"):
        shown.note(message)
    assert stream.getvalue() == "a\nb\n"


def test_other_processes_of_torchrun_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setenv("RANK", "1")
    Shown(stream).note("a")
    assert stream.getvalue() == ""


def test_the_first_listener_hears() -> None:
    streams = io.StringIO(), io.StringIO()
    outer, inner = map(Shown, streams)
    with heard_by(outer), heard_by(inner), heard_by(None):
        note("a")
        problem("b")
    assert [stream.getvalue() for stream in streams] == ["a\nb\n", ""]


def test_without_a_listener_problems_are_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with heard_by(None):
            note("a")
            tell("x", 1, 2, "images")
            problem("b")
    assert [(str(one.message), one.filename) for one in caught] == [("b", __file__)], "at the line of the user"
    assert capsys.readouterr() == ("", "")


def test_standard_error_is_looked_up_late(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown()
    print("before", file=sys.stderr)
    shown.note("a")
    assert capsys.readouterr().err == "before\na\n"
