"""`job`, `launch`, `status` and `merge --partial`: what a run's directory holds is all that they share."""

import fcntl
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY, WORK
from fsspec.implementations.memory import MemoryFileSystem

import oneblock as ob
from oneblock.cli.__main__ import main
from oneblock.cpus import available_cpus
from oneblock.launch.mirror import Mirror
from oneblock.report.status import duration
from oneblock.train.block import BlockLearner
from oneblock.train.checkpoint import Stamp, checkpoints, load_checkpoint, save_checkpoint
from oneblock.train.learner import Learned, NonFiniteError, learn
from oneblock.train.record import Heartbeat, Recorder, read_heartbeat
from oneblock.train.step import StepReport

pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")
Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
TRAIN = ("train", "images", *TINY, *WORK, "--out")
PLAN_ONLY = ("--strategy", "plan-only")


@pytest.fixture
def planned(tmp_path: Path, ok: Ok) -> Path:
    """A run of two blocks of which there is only the plan."""
    ok(*TRAIN, tmp_path / "planned", *PLAN_ONLY)
    return tmp_path / "planned"


def final(run: Path, job: str) -> bytes:
    return checkpoints(run / job)[-1].read_bytes()


def one_block(run: Path, block: int, ok: Ok) -> None:
    ok(*TRAIN, run, "--strategy", "one-block", "--block", str(block))


def test_jobs_of_a_plan_are_the_blocks_of_a_run(planned: Path, tmp_path: Path, ok: Ok) -> None:
    assert [path.name for path in planned.iterdir()] == ["plan.json"]
    plan = (planned / "plan.json").read_bytes()
    for block in (1, 0):
        row = ok("job", planned, "--block", str(block), "--threads", "1", "--json")[-1]
        assert (row["run"], row["job"]) == (str(planned), f"block-{block}")
        one_block(tmp_path / "alone", block, ok)
        assert final(planned, f"block-{block}") == final(tmp_path / "alone", f"block-{block}")
        beat = read_heartbeat(planned / f"block-{block}")
        assert beat is not None
        assert (beat.step, beat.num_steps, beat.state, beat.process) == (4, 4, "done", os.getpid())
    assert (planned / "plan.json").read_bytes() == plan
    before = (planned / "block-0" / "metrics.jsonl").read_bytes()
    assert [row["job"] for row in ok("job", planned, "--block", "0", "--json")] == ["block-0"]  # nothing left to do
    assert (planned / "block-0" / "metrics.jsonl").read_bytes() == before


def test_the_trunk_comes_before_its_blocks(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    run = tmp_path / "run"
    ok(*TRAIN, run, "--branch", "0.5", *PLAN_ONLY)
    assert "train that block first" in refused("job", run, "--block", "1")
    ok("job", run, "--block", "-1", "--threads", "1")
    ok("job", run, "--block", "1", "--threads", "1")
    ok(*TRAIN, tmp_path / "turns", "--branch", "0.5")
    assert final(run, "block-1") == final(tmp_path / "turns", "block-1")


def test_what_a_job_refuses(planned: Path, tmp_path: Path, refused: Refused) -> None:
    assert "block=2 does not exist; use 0 (noisiest) to 1" in refused("job", planned, "--block", "2")
    assert "job 'trunk' does not exist in this plan; use one of block-0" in refused("job", planned, "--block", "-1")
    assert "--block" in refused("job", planned)
    said = refused("job", tmp_path, "--block", "0")
    assert f"{tmp_path} has no plan.json; give the directory of a run (its --out)" in said
    for kind in "ab":
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (8, 8), 10 * i).save(tmp_path / "data" / kind / f"{i}.png")
    said = refused("job", planned, "--block", "0", "--data", f"folder:{tmp_path}/data")
    assert "the plan was made for" in said
    assert "use the same files, size and channels" in said
    assert [path.name for path in planned.iterdir()] == ["plan.json"]


def test_a_job_that_another_process_trains_has_an_exit_code_of_its_own(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (planned / "block-0").mkdir()
    with open(planned / "block-0" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["job", str(planned), "--block", "0", "--threads", "1"]) == 75
    assert "block-0 is being trained by another process; wait for it or stop it" in capsys.readouterr().err


def test_a_job_at_an_address_leaves_there_what_others_need(planned: Path, tmp_path: Path, ok: Ok) -> None:
    files = MemoryFileSystem()
    files.store.clear()
    Mirror("memory://run", planned).push_plan()
    ok("job", "memory://run", "--block", "1", "--scratch", tmp_path / "here", "--threads", "1")
    one_block(tmp_path / "alone", 1, ok)
    (name,) = [name for name in files.find("/run") if "step-" in name]
    assert files.cat_file(name) == final(tmp_path / "alone", "block-1")
    states = ok("status", "memory://run", "--json")
    assert [(state["job"], state["step"], state["state"]) for state in states] == [
        ("block-0", 0, "not started"),
        ("block-1", 4, "done"),
    ]
    assert states[1]["seen_seconds_ago"] < 600
    (model,) = ok("merge", "memory://run", "--out", tmp_path / "model", "--partial", "--json")
    assert len(model["problems"]) == 1
    files.store.clear()


def test_a_job_at_an_address_fetches_the_block_that_it_goes_on_from(
    tmp_path: Path, ok: Ok, refused: Refused, text: str
) -> None:
    files = MemoryFileSystem()
    files.store.clear()
    words = ("--depth", "2", "--width", "16", "--heads", "2", "--blocks", "2", "--length", "16", "--budget", "128")
    relay = ("--relay", "relay", "--relay-across", "--batch-size", "4", "--threads", "1")
    ok("train", "masked-text", "--data", text, *words, *relay, "--out", tmp_path / "run", "--strategy", "plan-only")
    Mirror("memory://run", tmp_path / "run").push_plan()
    job = ("job", "memory://run", "--data", text, "--threads", "1", "--block")
    message = refused(*job, "1", "--scratch", tmp_path / "one")
    assert "block-1 goes on from the states of block 0" in message
    for block in ("0", "1"):
        ok(*job, block, "--scratch", tmp_path / f"machine-{block}")
    assert (tmp_path / "machine-1" / "block-0").is_dir()
    files.store.clear()


def test_a_plan_at_an_address_is_a_run_that_has_not_started(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    files = MemoryFileSystem()
    files.store.clear()
    words = ("train", "images", *TINY, *WORK, "--out", "memory://planned")
    ok(*words, "--strategy", "plan-only")
    assert [state["state"] for state in ok("status", "memory://planned", "--json")] == ["not started"] * 2
    assert "belongs to another plan" in refused(*words, "--strategy", "plan-only", "--seed", "1")
    assert "is not a path; plan with --strategy plan-only" in refused(*words)
    name = "/planned/block-0/step-000000002.safetensors"
    files.store[name] = files.store["/planned/plan.json"]
    state = ok("status", "memory://planned", "--json")[0]
    assert (state["saved"], state["state"]) == (0, "damaged")
    assert "memory://planned/block-0/step-000000002.safetensors is damaged" in state["problems"][0]
    save_checkpoint(tmp_path / Path(name).name, {"a": torch.zeros(99)}, Stamp(state["plan"], "block-0", 2, 4))
    files.pipe_file(name, (tmp_path / Path(name).name).read_bytes())
    state = ok("status", "memory://planned", "--json")[0]  # a checkpoint, and nothing that tells when it came
    assert (state["saved"], state["seen_seconds_ago"], state["state"]) == (2, None, "silent")
    files.store.clear()


def test_blocks_that_share_are_launched_together_or_not_at_all(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    for shared in ("joint", "synced"):
        ok(
            *("train", "images", *TINY, *WORK, "--out", tmp_path / shared, "--shared", shared),
            *("--strategy", "plan-only"),
        )
    assert "train in one process; use oneblock train images --shared joint" in refused("launch", tmp_path / "joint")
    for words in (["--slurm"], ["--torchrun", "2"], ["--local", "1"]):
        assert "must run at the same time on this machine" in refused("launch", tmp_path / "synced", *words)
    words = ("--strategy", "plan-only", "--optimizer", "adamw8bit")
    ok("train", "images", *TINY, *WORK, "--out", tmp_path / "eight", *words)
    said = refused("launch", tmp_path / "eight", "--torchrun", "2", "--parallel", "fsdp")
    assert "cannot shard the moments of optimizer='adamw8bit'" in said
    assert "must meet: set MASTER_ADDR" in refused("job", tmp_path / "synced", "--block", "0", "--threads", "1")


def test_a_job_that_fails_says_so_in_its_heartbeat(
    planned: Path, refused: Refused, ok: Ok, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Recorder, report: StepReport) -> None:
        add(self, report)
        raise OSError(28, "No space left on device")

    add = Recorder.add
    monkeypatch.setattr(Recorder, "add", fail)
    assert "No space left" in refused("job", planned, "--block", "0", "--threads", "1", code=1)
    (state, _) = ok("status", planned, "--json")
    assert state["state"] == "failed: [Errno 28] No space left on device"
    assert (state["step"], state["saved"]) == (1, 1)


def test_a_failure_is_seen_at_the_address_too(
    planned: Path, tmp_path: Path, refused: Refused, ok: Ok, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_three(learners: Sequence[BlockLearner], *words: Any) -> Learned:
        if learners[0].step == 2:
            raise NonFiniteError("loss is nan")
        return learn(learners, *words)

    files = MemoryFileSystem()
    files.store.clear()
    Mirror("memory://run", planned).push_plan()
    monkeypatch.setattr("oneblock.train.stepper.learn", fail_at_three)
    refused("job", "memory://run", "--block", "1", "--scratch", tmp_path / "here", "--threads", "1", code=1)
    state = ok("status", "memory://run", "--json")[1]
    assert (state["step"], state["state"]) == (2, "failed: loss is nan")
    files.store.clear()


def beat(run: Path, job: str, **changes: Any) -> None:
    usual = {
        "job": job, "step": 2, "num_steps": 4, "loss": 0.5, "steps_per_second": 0.25, "time": time.time(),
        "host": "elsewhere", "process": 1, "state": "running",
    }  # fmt: skip
    (run / job).mkdir(exist_ok=True)
    (run / job / "heartbeat.json").write_text(json.dumps(asdict(Heartbeat(**{**usual, **changes}))))


@pytest.mark.parametrize(
    ("changes", "state", "speed", "left"),
    [
        ({}, "running", 0.25, (4 - 2) / 0.25),
        ({"time": time.time() + 86400}, "running", 0.25, 8.0),
        ({"steps_per_second": None}, "running", None, None),
        ({"time": time.time() - 7200}, "silent", None, None),
        ({"state": "stopped"}, "stopped", None, None),
        ({"state": "failed", "error": "disk full"}, "failed: disk full", None, None),
        ({"state": "done", "step": 4}, "running", 0.25, 0.0),  # its last checkpoint is not there yet
    ],
)
def test_a_heartbeat_tells_where_a_job_stands(
    planned: Path, ok: Ok, changes: dict[str, Any], state: str, speed: float | None, left: float | None
) -> None:
    beat(planned, "block-0", **changes)
    first, second = ok("status", planned, "--json")
    assert (first["state"], first["steps_per_second"], first["seconds_left"]) == (state, speed, left)
    assert (first["job"], first["saved"], first["num_steps"]) == ("block-0", 0, 4)
    assert (first["step"], first["loss"], first["host"]) == (changes.get("step", 2), 0.5, "elsewhere")
    ago = max(0.0, time.time() - changes.get("time", time.time()))
    assert ago - 5 <= first["seen_seconds_ago"] <= ago + 60
    assert (second["state"], second["step"], second["host"]) == ("not started", 0, "")
    assert (second["loss"], second["seen_seconds_ago"]) == (None, None)


def test_checkpoints_count_for_more_than_signs_of_life(trained: Path, ok: Ok) -> None:
    beat(trained, "block-0", state="failed", error="afterwards", time=time.time() - 7200)
    (trained / "block-1" / "heartbeat.json").unlink()
    (last,) = checkpoints(trained / "block-1")[-1:]
    tensors, stamp = load_checkpoint(last, ob.read_plan(trained).hash, "block-1")
    save_checkpoint(last.with_name("step-000000003.safetensors"), tensors, replace(stamp, step=3))
    last.unlink()
    first, second = ok("status", trained, "--json")
    assert (first["state"], first["step"], first["saved"]) == ("done", 4, 4)
    assert (second["state"], second["step"], second["saved"]) == ("running", 3, 3)  # the checkpoint is a sign too
    old = time.time() - 600
    os.utime(checkpoints(trained / "block-1")[-1], (old, old))
    assert ok("status", trained, "--json")[1]["state"] == "silent"
    beat(trained, "block-1", step=2)  # a new start has written none since the checkpoint
    second = ok("status", trained, "--json")[1]
    assert (second["state"], second["step"], second["seconds_left"]) == ("running", 3, (4 - 3) / 0.25)


def test_the_table_of_states(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beat(planned, "block-0", time=time.time() - 1000, steps_per_second=0.01)
    assert main(["status", str(planned)]) == 0
    text = capsys.readouterr().out
    assert "block-0" in text
    assert "2/4" in text
    assert "17 min ago" in text
    assert "silent" in text
    assert "not started" in text
    assert [duration(s) for s in (0, 119, 121, 7199, 7200, 86400 * 2)] == [
        "0 s", "119 s", "2 min", "120 min", "2.0 h", "2.0 d",
    ]  # fmt: skip


def test_merging_what_exists(trained: Path, tmp_path: Path, ok: Ok, refused: Refused) -> None:
    ok("merge", trained, "--json")
    shutil.rmtree(trained / "block-1")
    (merged,) = ok("merge", trained, "--partial", "--json")
    assert merged["blocks"] == 1
    assert merged["problems"] == ["block 1 has no checkpoint (train it with --block 1)"]
    model = trained / "model"
    assert sorted(path.name for path in model.glob("*.safetensors")) == ["block-0.safetensors"]
    index = json.loads((model / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"block-0.safetensors"}
    said = refused("sample", model, "--out", tmp_path / "x.png", "--per-class", "1", "--steps", "4")
    assert "block-1.safetensors does not exist" in said
    shutil.rmtree(trained / "block-0")
    said = refused("merge", trained, "--partial")
    assert "block 0 has no checkpoint" in said
    assert "block 1 has no checkpoint" in said


def test_merging_what_is_not_finished(
    planned: Path, ok: Ok, refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop_at_two(report: StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "add", lambda self, report: stop_at_two(report))
        refused("job", planned, "--block", "0", "--threads", "1", code=130)
    assert "block 0 stands at step 2 of 4 (resume it)" in refused("merge", planned)
    assert main(["merge", str(planned), "--partial"]) == 0
    said = capsys.readouterr().err
    assert "block 0 stands at step 2 of 4 (resume it)" in said
    assert "block 1 has no checkpoint (train it with --block 1)" in said
    assert f"merged 1 of 2 blocks into {planned / 'model'}; it cannot be sampled yet: train block 1 and merge" in said
    assert "next: oneblock sample" not in said
    hash = ok("merge", planned, "--partial", "--json")[0]["plan"]
    shard, stamp = load_checkpoint(planned / "model" / "block-0.safetensors", hash, "block-0")
    state, _ = load_checkpoint(checkpoints(planned / "block-0")[-1], hash, "block-0")
    assert (stamp.step, stamp.num_steps) == (2, 4)
    assert shard["blocks.0.head.out.weight"].equal(state["ema/head.out.weight"])


def lines(capsys: pytest.CaptureFixture[str], *words: object) -> list[list[str]]:
    """What ``launch --dry-run`` prints, as words behind the interpreter."""
    assert main(["launch", *map(str, words), "--dry-run"]) == 0
    found = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert all(words[0] == sys.executable for words in found)
    return [words[1:] for words in found]


def test_a_dry_run_prints_a_command_for_each_block(
    planned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    common = ["-m", "oneblock.cli", "job", str(planned), "--block"]
    assert lines(capsys, planned, "--threads", "3") == [
        [*common, "0", "--threads", "3"],
        [*common, "1", "--threads", "3"],
    ]
    share = str(max(1, available_cpus() // 2))
    assert lines(capsys, planned)[1] == [*common, "1", "--threads", share]
    assert lines(capsys, planned, "--local", "1")[0] == [*common, "0", "--threads", str(available_cpus())]
    assert lines(capsys, planned, "--slurm")[0] == [*common, "0"]
    more = ("--save-every", "7", "--checkpointing", "--data", "folder:a b", "--scratch", "/fast disk")
    assert lines(capsys, planned, "--slurm", *more)[1] == [
        *common, "1", "--checkpointing", "--save-every", "7", "--data", "folder:a b", "--scratch", "/fast disk",
    ]  # fmt: skip
    assert lines(capsys, planned, "--accept-data", "--threads", "1")[1] == [
        *common,
        "1",
        "--threads",
        "1",
        "--accept-data",
    ]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *common]
    assert lines(capsys, planned, "--torchrun", "2", "--parallel", "fsdp", "--threads", "1") == [
        [*torchrun, block, "--threads", "1", "--parallel", "fsdp"] for block in ("0", "1")
    ]
    assert [path.name for path in planned.iterdir()] == ["plan.json"]


def test_a_branched_run_has_its_trunk_first(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    ok(*TRAIN, tmp_path, "--branch", "0.5", *PLAN_ONLY)
    printed = lines(capsys, tmp_path, "--threads", "1")
    assert [words[words.index("--block") + 1] for words in printed] == ["trunk", "0", "1"]


def test_launched_blocks_are_those_trained_in_turn(trained: Path, planned: Path, ok: Ok) -> None:
    events = ok("launch", planned, "--local", "2", "--threads", "1", "--json")
    assert {(event["job"], event["event"], event["code"]) for event in events} == {
        (f"block-{block}", event, code) for block in (0, 1) for event, code in (("started", None), ("finished", 0))
    }
    assert [final(planned, f"block-{block}") for block in (0, 1)] == [
        final(trained, f"block-{block}") for block in (0, 1)
    ]
    assert [state["state"] for state in ok("status", planned, "--json")] == ["done", "done"]


def test_blocks_do_not_start_without_their_trunk(
    tmp_path: Path, ok: Ok, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok(*TRAIN, tmp_path / "run", "--branch", "0.5", *PLAN_ONLY)
    monkeypatch.setattr("oneblock.launch.command.sys.executable", "/bin/false")
    said = refused("launch", tmp_path / "run", "--retries", "0", code=1)
    assert f"trunk could not be trained; see {tmp_path}/run/trunk/log.txt, then launch again" in said
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["plan.json", "trunk"]


def test_all_jobs_that_were_lost_are_named(planned: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneblock.launch.command.sys.executable", "/bin/false")
    said = refused("launch", planned, "--retries", "0", code=1)
    assert "block-0 given up (exit code 1, see" in said
    assert "block-1 could not be trained" in said or "block-1, block-0 could not" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--local", "-1"], "local=-1, torchrun=0, retries=3: use 0 or more of each"),
        (["--retries", "-1"], "use 0 or more of each"),
        (
            ["--slurm", "--slurm-options", "timeout_min"],
            "slurm_options='timeout_min' is not a parameter; write name=value",
        ),
        (["--slurm"], "cannot use Slurm here"),
        (["--device", "cuda"], "2 jobs with 1 GPUs each need more than the 1 that are here; use a smaller --local"),
        (["--device", "cuda", "--local", "1", "--torchrun", "2"], "1 jobs with 2 GPUs each need more than the 1"),
        (["--device", "cuda:1"], "device='cuda:1'"),
    ],
)
def test_what_launch_refuses(
    planned: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setenv("PATH", str(planned))
    assert message in refused("launch", planned, *words)
    assert [path.name for path in planned.iterdir()] == ["plan.json"], "nothing was started"
