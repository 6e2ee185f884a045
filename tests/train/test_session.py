import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_run

from oneblock.train.drive import Watch, drive
from oneblock.train.session import SESSIONS_FILE, add_session, command, in_session, read_sessions, this_session
from oneblock.version import VERSION

QUIET = Watch(bars=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/venv/bin/oneblock", "train", "images", "--out", "my runs"], "oneblock train images --out 'my runs'"),
        (["/src/oneblock/__main__.py", "status", "x"], "oneblock status x"),
        (["examples/images.py", "3"], "python examples/images.py 3"),
        (["-c", "x"], ""),
        ([""], ""),
        ([], ""),
    ],
)
def test_the_command_is_what_a_shell_takes(monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.setattr(sys, "argv", words)
    assert command() == said


def test_every_job_has_a_session_that_has_ended(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    seconds = drive(run, watch=QUIET)
    for job in ("block-0", "block-1"):
        (found,) = read_sessions(tmp_path / job)
        assert found.seconds is not None and 0 <= found.seconds <= seconds + 1
        assert found.resident_bytes is None or found.resident_bytes > 2**20
        assert found.versions == {
            "oneblock": VERSION,
            "python": sys.version.split()[0],
            "torch": str(torch.__version__),
        }
        assert (found.gpu, found.gpu_bytes, found.threads) == ("", None, torch.get_num_threads())
    assert not (tmp_path / SESSIONS_FILE).exists()


def test_a_job_with_nothing_left_to_do_has_no_new_one(tmp_path: Path) -> None:
    drive(tiny_run(tmp_path), watch=QUIET)
    before = (tmp_path / "block-0" / SESSIONS_FILE).read_text()
    drive(tiny_run(tmp_path), watch=QUIET)
    assert (tmp_path / "block-0" / SESSIONS_FILE).read_text() == before


def test_a_stopped_job_has_two_sessions(tmp_path: Path) -> None:
    def at(job: str, step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(tiny_run(tmp_path), "block-0", watch=replace(QUIET, every=2, at=at))
    (first,) = read_sessions(tmp_path / "block-0")
    assert first.seconds is not None, "it was stopped, and has said so"
    drive(tiny_run(tmp_path), "block-0", watch=QUIET)
    assert [one.seconds is not None for one in read_sessions(tmp_path / "block-0")] == [True, True]


def test_a_killed_process_leaves_its_beginning(tmp_path: Path) -> None:
    session = this_session({"task": "images"})
    add_session(tmp_path, session)
    (found,) = read_sessions(tmp_path)
    assert found == session and found.seconds is None
    add_session(tmp_path, session.ended())
    (found,) = read_sessions(tmp_path)
    assert found.seconds is not None and found.about == {"task": "images"}


def test_lines_that_are_none_are_left_out(tmp_path: Path) -> None:
    with in_session(tmp_path / "new"):
        pass
    path = tmp_path / "new" / SESSIONS_FILE
    (known,) = read_sessions(tmp_path / "new")
    odd = ["{", "[]", "7", json.dumps({"began": 1}), json.dumps({**asdict(known), "threads": "two"})]
    path.write_text("\n".join([*odd, path.read_text()]) + '{"began": 1.0, "pro')
    assert read_sessions(tmp_path / "new") == [known]
    assert read_sessions(tmp_path) == []


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / SESSIONS_FILE).mkdir()
    with in_session(tmp_path):
        pass
