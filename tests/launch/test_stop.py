"""Commands that are stopped from outside, in the middle of whatever they do: what is trained is saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from oneblock.data import TextData
from oneblock.launch.status import status
from oneblock.presets import CausalRecipe, train


@pytest.mark.parametrize(
    ("words", "number", "blocks", "shared"),
    [
        (["launch"], signal.SIGTERM, 2, {}),
        (["job", "--block", "1", "--threads", "1"], signal.SIGUSR1, 1, {}),
        (["launch"], signal.SIGINT, 2, {"shared": "synced", "sync_every": 10}),
        (["launch", "--torchrun", "2", "--local", "1"], signal.SIGHUP, 1, {}),
    ],
)
def test_a_stopped_command_leaves_a_checkpoint(
    words: list[str],
    number: signal.Signals,
    blocks: int,
    shared: dict[str, Any],
    text: str,
    tmp_path: Path,
    usual_signals: None,
) -> None:
    recipe = CausalRecipe(
        size="nano",
        depth=4,
        width=16,
        heads=2,
        blocks=2,
        length=16,
        batch_size=8,
        budget="10M",
        vocabulary="characters",
        **shared,
    )
    train(recipe, data=TextData(data=text), out=tmp_path / "run", strategy="plan-only")
    verb, *options = words
    process = subprocess.Popen(
        [sys.executable, "-m", "oneblock", verb, str(tmp_path / "run"), *options, "--save-every", "1000000"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while sum(job.step > 0 for job in status(tmp_path / "run")) < blocks and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "the same command goes on from the last checkpoint" in said
    stopped = [job for job in status(tmp_path / "run") if job.step > 0]
    assert len(stopped) == blocks
    assert all(job.saved == job.step < job.num_steps for job in stopped)
    assert {job.state for job in stopped} == {"stopped"}
    assert not list((tmp_path / "run").rglob("*.partial"))
    if shared:
        assert len({job.step for job in stopped}) == 1, "where they meet"
