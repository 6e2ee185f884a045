"""What is shown while data are read: nothing of short work, a line that changes on a terminal, some lines in a file."""

import io
import sys
import warnings

import pytest

from oneblock.data.progress import inform, listening, note, tell
from oneblock.train import shown as module
from oneblock.train.shown import EVERY, PATIENCE, Shown, shown


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
        shown.progress(done, total, f"{unit} of folder:x")
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
    assert lines[0] == "read 46 of 1000 images of folder:x, 23 per second, 2 s"
    assert lines[-1] == "read 1000 of 1000 images of folder:x, 22 per second, 45 s"
    assert "\r" not in stream.getvalue()


def test_a_terminal_has_one_line_that_changes() -> None:
    stream, clock = Terminal(), Clock()
    shown = Shown(stream, clock)
    read(shown, clock, 45)
    shown.note("done")
    assert stream.getvalue().count("\n") == 2 and 100 < stream.getvalue().count("\r") < 300
    assert stream.getvalue().endswith("read 1000 of 1000 images of folder:x, 22 per second, 45 s\x1b[K\ndone\n")


def test_a_note_does_not_write_into_the_line() -> None:
    stream, clock = Terminal(), Clock()
    shown = Shown(stream, clock)
    shown.progress(1, 9, "images")
    clock.now += 3
    shown.progress(2, 9, "images")
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


def test_the_first_listener_hears(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[object] = []
    with listening(lambda *words: heard.append(words), heard.append), shown():
        inform("a")
        note("b")
        tell(1, 2, "images")
    assert heard == ["a", "b", (1, 2, "images")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("progress", [True, False])
def test_progress_need_not_be_shown(
    progress: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "SHOWN", Shown(clock=clock))
    with shown(progress), shown():
        tell(1, 9, "images")
        clock.now += 9
        tell(2, 9, "images")
        inform("a")
    assert capsys.readouterr().err == "read 2 of 9 images, 0 per second, 9 s\n" * progress + "a\n"


def test_without_a_listener_problems_are_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inform("a")
        tell(1, 2, "images")
        note("b")
    assert [(str(one.message), one.filename) for one in caught] == [("b", __file__)], "at the line of the user"
    assert capsys.readouterr() == ("", "")


def test_standard_error_is_looked_up_late(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown()
    print("before", file=sys.stderr)
    shown.note("a")
    assert capsys.readouterr().err == "before\na\n"
