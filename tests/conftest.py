import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ENVIRONMENT, SENTENCES, TINY, WORK
from hypothesis import settings

from oneblock.train.stop import SIGNALS

# Times vary with the load of the machine; they are measured in benchmarks, not here.
settings.register_profile("quiet", deadline=None)
settings.load_profile("quiet")

# Whatever processes the tests start, directly or through launch, import what is tested here and nothing installed.
os.environ["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"]


@pytest.fixture
def ok(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """Run a command that must work; its JSON lines on standard output."""

    from oneblock.cli.__main__ import main

    def run(*words: str | Path) -> list[dict[str, Any]]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused with exit code 2; its one message on standard error."""

    from oneblock.cli.__main__ import main

    def run(*words: str | Path, code: int = 2) -> str:
        try:
            found = main([str(word) for word in words])
        except SystemExit as stopped:  # tyro's own way out
            found = stopped.code  # type: ignore[assignment]
        err = capsys.readouterr().err
        assert found == code, err
        assert "Traceback" not in err
        return " ".join(err.split())

    return run


@pytest.fixture
def trained(tmp_path: Path, ok: Callable[..., list[dict[str, Any]]]) -> Path:
    """A finished run of two blocks."""
    ok("train", "images", "--out", tmp_path / "run", *TINY, *WORK)
    return tmp_path / "run"


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A text of its own, and a cache of its own for its tokens."""
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path / "data"))
    path = tmp_path / "cats.txt"
    path.write_text(SENTENCES * 60)
    return f"file:{path}"


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """None is ignored, as SIGINT is in a background job of a shell script and SIGHUP under nohup."""
    usual = {one: signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL for one in SIGNALS}
    before = {one: signal.signal(one, handler) for one, handler in usual.items()}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)
