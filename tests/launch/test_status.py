"""Where jobs stand, in a directory that anyone may have written into."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_run

import oneblock as ob
from oneblock.train.checkpoint import Stamp, checkpoint_path, checkpoint_step, checkpoints, save_checkpoint
from oneblock.train.drive import Watch, drive
from oneblock.train.record import HEARTBEAT_FILE, METRICS_FILE, Heartbeat, last_row
from oneblock.train.strategy import all_blocks


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("status") / "run"
    list(all_blocks(tiny_run(place, save_every=2)))
    return place


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def foreign(path: Path) -> None:
    path.unlink()
    save_file({"a": torch.zeros(3)}, path)


def of_another_plan(path: Path) -> None:
    save_checkpoint(path, {"a": torch.zeros(3)}, Stamp("0" * 16, "block-1", 6, 6))


def of_another_step(path: Path) -> None:
    shutil.copy(path.with_name("step-000000004.safetensors"), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
        (lambda path: path.write_bytes(b"PK" * 500), "is damaged"),
        (foreign, "it is a safetensors file of another program"),
        (of_another_plan, "belongs to plan 0000000000000000"),
        (of_another_step, "its name says step 6, its stamp step 4"),
    ],
)
def test_done_is_not_said_of_a_file_that_is_no_checkpoint(damage: Any, message: str, run: Path) -> None:
    newest = checkpoints(run / "block-1")[-1]
    damage(newest)
    good, bad = ob.status(run)
    assert (good.state, good.saved, good.problems) == ("done", 6, ())
    assert (bad.state, bad.saved) == ("damaged", 4)
    (problem,) = bad.problems
    assert str(newest) in problem and message in problem


@pytest.mark.parametrize(
    "name", ["step-x.safetensors", "step-.safetensors", "step--5.safetensors", "step-9.safetensors/"]
)
def test_what_only_resembles_a_checkpoint(name: str, run: Path) -> None:
    place = run / "block-1" / name
    place.mkdir() if name.endswith("/") else place.write_bytes(b"x")
    assert [job.state for job in ob.status(run)] == ["done", "done"]
    assert "is not a checkpoint" in "".join(file.problem for file in ob.fsck(run).files)


BEAT: dict[str, Any] = {
    "job": "block-1", "step": 3, "num_steps": 6, "loss": 0.5, "steps_per_second": 2.0, "time": 1.7e9, "host": "h",
    "process": 1, "state": "running",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"}, {"step": -1}, {"step": None}, {"loss": [1]}, {"time": "now"}, {"host": 5}, {"state": "fine"},
        {"steps_per_second": -1.0}, {"process": True}, {"error": None}, {"surplus": 1},
    ],
)  # fmt: skip
def test_a_heartbeat_with_a_wrong_value_is_none(change: dict[str, Any], run: Path) -> None:
    Heartbeat(**BEAT)
    checkpoints(run / "block-1")[-1].unlink()
    file = run / "block-1" / HEARTBEAT_FILE
    file.write_text(json.dumps(BEAT))
    assert ob.status(run)[1].host == "h"
    file.write_text(json.dumps({**BEAT, **change}))
    assert ob.status(run)[1].host == ""
    assert not ob.fsck(run).good


ROW = {
    "job": "block-1", "step": 3, "num_steps": 6, "learning_rate": 0.1, "loss": 0.25, "plain": 0.25, "grad_norm": 1.0,
    "layer_evaluations": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00\n", b"[1, 2]\n", b"null\n", b'{"loss": "x"}\n', b"{}\n", b"[" * 100_000 + b"\n",
        b"9" * 5000 + b"\n",
        json.dumps({**ROW, "loss": float("nan")}).encode() + b"\n", json.dumps({**ROW, "step": None}).encode() + b"\n",
        b"x" * 300_000 + b"\n", "\x85\u2028".encode() + b"\n",
    ],
)  # fmt: skip
def test_lines_that_are_not_rows(line: bytes, run: Path) -> None:
    file = run / "block-1" / METRICS_FILE
    good = json.dumps(ROW).encode() + b"\n"
    file.write_bytes(good + line + good.replace(b"0.25", b"0.75") + line)
    assert ob.status(run)[1].loss == 0.75
    assert last_row(file) == {**ROW, "loss": 0.75, "plain": 0.75}
    assert "not rows" in "".join(one.problem for one in ob.fsck(run).files)
    checkpoints(run / "block-1")[-1].unlink()
    damaged = file.read_bytes()
    drive(tiny_run(run, save_every=2), "block-1", watch=Watch(bars=False))
    assert file.with_name(f"{METRICS_FILE}.damaged").read_bytes() == damaged, "what is not a row is kept beside"
    assert ob.status(run)[1].state == "done"


def test_a_path_that_is_no_step_is_named() -> None:
    assert checkpoint_step(checkpoint_path(Path("x"), 12)) == 12
    with pytest.raises(ValueError, match="is not named after a step; a checkpoint is called step-000000500"):
        checkpoint_step(Path("step-x.safetensors"))
