"""Signals in the middle of a step: it ends, a checkpoint is written, and nothing is lost."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import IMAGES, last_files, tiny_plan, tiny_run, turns

from oneblock.data import MemorySource, Samples
from oneblock.train.checkpoint import checkpoint_step, checkpoints
from oneblock.train.drive import Watch, drive
from oneblock.train.loop import Run
from oneblock.train.stop import SIGNALS, stoppable

QUIET = Watch(bars=False)


class Signalling(MemorySource):
    """Sends this process ``number`` while a step is fetching its batch, the ``at``-th of all."""

    def __init__(self, number: signal.Signals, at: int, times: int = 1) -> None:
        super().__init__(IMAGES)
        self.number, self.at, self.times, self.fetched = number, at, times, 0

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        self.fetched += 1
        if self.fetched == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        return super().batch(step, batch_size, seed)


pytestmark = pytest.mark.usefixtures("usual_signals")


def saved(run: Run) -> dict[str, int]:
    jobs = [job for job in sorted(run.directory.iterdir()) if job.is_dir()]
    return {job.name: checkpoint_step(found[-1]) for job in jobs if (found := checkpoints(job))}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("job", [None, "block-1"])
def test_the_step_ends_and_is_saved(
    number: signal.Signals, job: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    source = Signalling(number, at=6)
    run = tiny_run(tmp_path / "stopped", source=source, save_every=100_000)
    with pytest.raises(KeyboardInterrupt):
        drive(run, job, turns=turns(4), watch=QUIET)
    assert source.fetched == 6
    assert saved(run) == ({"block-0": 4, "block-1": 2} if job is None else {job: 6})
    assert f"{number.name}: stopping after this step" in capsys.readouterr().err
    assert [signal.getsignal(one) for one in SIGNALS] == before
    drive(tiny_run(tmp_path / "stopped"), job, turns=turns(4), watch=QUIET)
    drive(tiny_run(tmp_path / "whole"), job, watch=QUIET)
    assert last_files(tmp_path / "stopped") == last_files(tmp_path / "whole")


@pytest.mark.parametrize("changes", [{"shared": "joint"}, {"shared": "synced", "sync_every": 3}, {"branch": 0.5}])
def test_blocks_that_share_and_trunks_are_saved(changes: dict[str, Any], tmp_path: Path) -> None:
    plan = tiny_plan(**changes)
    run = tiny_run(tmp_path / "stopped", plan, source=Signalling(signal.SIGTERM, at=5), save_every=100_000)
    with pytest.raises(KeyboardInterrupt):
        drive(run, watch=QUIET)
    assert sum(saved(run).values()) in (5, 6), "all blocks that share stand at the same step"
    drive(tiny_run(tmp_path / "stopped", plan), watch=QUIET)
    drive(tiny_run(tmp_path / "whole", plan), watch=QUIET)
    assert last_files(tmp_path / "stopped") == last_files(tmp_path / "whole")


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, source=Signalling(signal.SIGINT, at=3, times=2), save_every=100_000)
    with pytest.raises(KeyboardInterrupt):
        drive(run, "block-0", watch=QUIET)
    assert saved(run) == {}


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as between_steps:
            os.kill(os.getpid(), signal.SIGHUP)
            between_steps()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_train_too(tmp_path: Path) -> None:
    thread = threading.Thread(target=lambda: drive(tiny_run(tmp_path), "block-0", watch=QUIET))
    thread.start()
    thread.join(60)
    assert "block-0" in saved(tiny_run(tmp_path))
