"""Heartbeats; the rows of metrics are tested with the loop that fills them."""

import json
import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oneblock.train import record
from oneblock.train.record import HEARTBEAT_FILE, Recorder, read_heartbeat
from oneblock.train.step import StepReport


class Clock:
    """Stands in for the module ``time`` where heartbeats are written."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1.7e9

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(record, "time", clock)
    return clock


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for job in ("block-0", "block-1"):
        (tmp_path / job).mkdir()
    return tmp_path


def report(step: int, job: str = "block-1", **changes: Any) -> StepReport:
    usual = SimpleNamespace(
        job=job, block=1, first_step=0, step=step, num_steps=100, loss=1.0 / step, plain=0.5, grad_norm=0.1,
        learning_rate=1e-3, layer_evaluations=32, work=32 * step,
    )  # fmt: skip
    return StepReport(**{**vars(usual), **changes})


def test_the_first_step_is_a_sign_of_life(directory: Path) -> None:
    before = time.time()
    Recorder(directory).add(report(7))
    beat = read_heartbeat(directory / "block-1")
    assert beat is not None
    assert before <= beat.time <= time.time()
    assert (beat.job, beat.step, beat.num_steps, beat.loss) == ("block-1", 7, 100, 1.0 / 7)
    assert (beat.host, beat.process) == (socket.gethostname(), os.getpid())
    assert (beat.state, beat.error, beat.steps_per_second) == ("running", "", None)
    assert [path.name for path in (directory / "block-1").iterdir()] == [HEARTBEAT_FILE]
    assert read_heartbeat(directory / "block-0") is None


def test_speed_is_by_the_clock_that_never_jumps(directory: Path, clock: Clock) -> None:
    recorder = Recorder(directory, beat_seconds=5.0)
    recorder.add(report(10))
    clock.now += 8.0
    clock.wall -= 86400.0
    recorder.add(report(30))
    beat = read_heartbeat(directory / "block-1")
    assert beat is not None
    assert beat.steps_per_second == (30 - 10) / 8.0
    assert beat.time == 1.7e9 - 86400.0


def test_signs_come_no_more_often_than_asked(directory: Path, clock: Clock) -> None:
    recorder = Recorder(directory, beat_seconds=5.0)
    seen = []
    for step in range(1, 13):
        recorder.add(report(step))
        beat = read_heartbeat(directory / "block-1")
        assert beat is not None
        seen.append(beat.step)
        clock.now += 2.0
    assert seen == [1, 1, 1, 4, 4, 4, 7, 7, 7, 10, 10, 10]


def test_each_job_has_a_heartbeat_and_a_speed_of_its_own(directory: Path, clock: Clock) -> None:
    recorder = Recorder(directory, beat_seconds=5.0)
    for step, job in ((1, "block-0"), (51, "block-1"), (11, "block-0"), (52, "block-1")):
        recorder.add(report(step, job))
        clock.now += 10.0
    speeds = {}
    for job in ("block-0", "block-1"):
        beat = read_heartbeat(directory / job)
        assert beat is not None
        speeds[job] = beat.steps_per_second
    assert speeds == {"block-0": 10 / 20.0, "block-1": 1 / 20.0}


def test_jobs_that_wait_for_their_turn_give_signs_of_life(directory: Path, clock: Clock) -> None:
    """As they stood, with their last speed; a job that is done says so for good."""
    recorder = Recorder(directory, beat_seconds=5.0)
    for step, job in ((10, "block-0"), (20, "block-0"), (1, "block-1"), (2, "block-1")):
        recorder.add(report(step, job))
        clock.now += 10.0
        clock.wall += 10.0
    beat = read_heartbeat(directory / "block-0")
    assert beat is not None
    assert (beat.step, beat.state, beat.steps_per_second, beat.time) == (20, "running", 1.0, 1.7e9 + 30.0)
    recorder.add(report(100, "block-0"))
    clock.now, clock.wall = clock.now + 10.0, clock.wall + 10.0
    recorder.add(report(3, "block-1"))
    done = read_heartbeat(directory / "block-0")
    assert done is not None and (done.state, done.time) == ("done", 1.7e9 + 40.0)


def test_the_last_step_is_done_at_once(directory: Path) -> None:
    recorder = Recorder(directory, beat_seconds=1e9)
    recorder.add(report(99))
    recorder.add(report(100))
    recorder.close(RuntimeError("too late to matter"))
    beat = read_heartbeat(directory / "block-1")
    assert beat is not None
    assert (beat.step, beat.state, beat.error) == (100, "done", "")


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (None, "stopped", ""),
        (KeyboardInterrupt("Ctrl-C"), "stopped", ""),
        (OSError(28, "No space left on device"), "failed", "[Errno 28] No space left on device"),
    ],
)
def test_how_it_ended_is_said_with_the_last_step(
    directory: Path, error: BaseException | None, state: str, text: str
) -> None:
    recorder = Recorder(directory, beat_seconds=1e9)
    recorder.add(report(1, "block-0"))
    for step in (1, 2, 3):
        recorder.add(report(step, loss=0.25))
    recorder.close(error)
    beat = read_heartbeat(directory / "block-1")
    assert beat is not None
    assert (beat.step, beat.loss, beat.state, beat.error) == (3, 0.25, state, text)
    other = read_heartbeat(directory / "block-0")
    assert other is not None
    assert (other.step, other.state) == (1, state)


def test_a_heartbeat_that_cannot_be_written_stops_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    recorder = Recorder(directory, beat_seconds=0.0)
    recorder.add(report(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        recorder.add(report(2))
    beat = read_heartbeat(directory / "block-1")
    assert beat is not None
    assert beat.step == 1
    (directory / "block-1" / f"{HEARTBEAT_FILE}.partial").mkdir()  # can be neither written nor removed
    recorder.add(report(3))
    recorder.close()


@pytest.mark.parametrize("text", ["", '{"job": "block-1", "st', "[]", "null", '{"job": "block-1"}', '{"jobs": 1}'])
def test_a_torn_or_foreign_heartbeat_is_none(directory: Path, text: str) -> None:
    (directory / "block-1" / HEARTBEAT_FILE).write_text(text)
    assert read_heartbeat(directory / "block-1") is None


def test_a_heartbeat_of_bytes_that_are_no_text_is_none(directory: Path) -> None:
    (directory / "block-1" / HEARTBEAT_FILE).write_bytes(b"\xff\x00\xfe")
    assert read_heartbeat(directory / "block-1") is None


def test_a_heartbeat_is_one_line_of_json(directory: Path) -> None:
    Recorder(directory).add(report(1))
    text = (directory / "block-1" / HEARTBEAT_FILE).read_text()
    assert text.endswith("\n")
    assert json.loads(text)["state"] == "running"
