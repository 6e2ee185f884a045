"""Stopping and going on gives the same bytes as never stopping, however the stop came about."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import last_files, tiny_classify_plan, tiny_plan, tiny_run, turns

from oneblock.plan import Plan
from oneblock.train.checkpoint import checkpoints
from oneblock.train.step import OptimizerSettings
from oneblock.train.strategy import all_blocks

PROGRAM = """
import sys
from pathlib import Path
from oneblock.train.strategy import all_blocks
from tiny import tiny_plan, tiny_run, turns
run = tiny_run(Path(sys.argv[1]), tiny_plan(budget=120 * 8 * 4, branch=0.5), save_every=7)
for report in all_blocks(run, turns(10)):
    print(report.step, flush=True)
"""


EIGHT_BITS = {"width": 32, "branch": 0.5, "optimizer": OptimizerSettings(optimizer="adamw8bit", accumulate=2)}


def train_in_pieces(directory: Path, plan: Plan, pieces: tuple[int, ...]) -> None:
    """Train ``plan`` at a stretch into ``whole`` and with stops after ``pieces`` steps into ``parts``."""
    private = plan.shared == "private"
    list(all_blocks(tiny_run(directory / "whole", plan)))
    for steps in pieces:
        reports = all_blocks(tiny_run(directory / "parts", plan, save_every=2), turns(2) if private else None)
        for _, _report in zip(range(steps), reports, strict=False):
            pass
        reports.close()


@pytest.mark.parametrize(
    "changes",
    [{}, {"branch": 0.5, "weighting": "normalised"}, {"inputs": "scaled", "modulated": True, "shared": "joint"}],
)
def test_a_classifier_in_pieces_equals_one_in_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    train_in_pieces(tmp_path, tiny_classify_plan(**changes), (3, 2, 99))
    whole = last_files(tmp_path / "whole")
    assert {"block-0", "block-1"} <= set(whole)
    assert last_files(tmp_path / "parts") == whole


@pytest.mark.parametrize(
    "changes",
    [{}, {"branch": 0.5}, {"flip": True, "optimizer": OptimizerSettings(accumulate=2, precision="bf16")}, EIGHT_BITS],
)
def test_a_run_in_pieces_equals_a_run_in_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    if changes is EIGHT_BITS:
        pytest.importorskip("torchao")
    plan = tiny_plan(**changes)
    whole = tiny_run(tmp_path / "whole", plan, checkpointing=changes is EIGHT_BITS)
    list(all_blocks(whole, turns(2)))
    for pieces in (1, 3, 2, 1, 5, 99):  # save_every=2 leaves some stops between two checkpoints
        part = tiny_run(tmp_path / "parts", plan, save_every=2, checkpointing=changes is EIGHT_BITS)
        reports = all_blocks(part, turns(2, "disk" if changes is EIGHT_BITS else "host"))
        for _, _report in zip(range(pieces), reports, strict=False):
            pass
        reports.close()
    assert last_files(tmp_path / "parts") == last_files(tmp_path / "whole")


def start(directory: Path) -> "subprocess.Popen[str]":
    here = Path(__file__).parents[1]
    path = os.pathsep.join([str(here.parent / "src"), str(here)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_sigkill_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    calm = start(tmp_path / "calm")
    calm.communicate()
    assert calm.returncode == 0
    moments = random.Random(0)
    for _ in range(3):
        process = start(tmp_path / "stormy")
        assert process.stdout is not None
        for _ in range(moments.randint(5, 60)):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    done = start(tmp_path / "stormy")
    steps = done.communicate()[0].split()
    assert done.returncode == 0
    assert 0 < len(steps) < 240, "the last start went on from a checkpoint"
    assert set(last_files(tmp_path / "calm")) == {"trunk", "block-0", "block-1"}
    assert last_files(tmp_path / "stormy") == last_files(tmp_path / "calm")


def test_what_a_kill_leaves_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, save_every=2)
    reports = all_blocks(run)
    for _ in range(4):
        next(reports)
    reports.close()
    (tmp_path / "block-0" / "step-000000005.safetensors.partial").write_bytes(b"half a file")
    list(all_blocks(run))
    whole = tiny_run(tmp_path / "whole")
    list(all_blocks(whole))
    (tmp_path / "block-0" / "step-000000005.safetensors.partial").unlink()
    assert last_files(tmp_path / "whole")["block-0"] == checkpoints(tmp_path / "block-0")[-1].read_bytes()
