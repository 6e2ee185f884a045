import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from tiny import relay_plan, tiny_plan
from torch.utils.data import TensorDataset

from oneblock.data import ImageData, TextData
from oneblock.launch import start
from oneblock.launch.command import Command
from oneblock.launch.local import Event
from oneblock.launch.mirror import send_plan
from oneblock.launch.start import commands, launch
from oneblock.plan import write_plan
from oneblock.presets import ImageRecipe, train
from oneblock.presets.tasks import load_backbone
from oneblock.train.machine import Machine


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A run of two blocks of which there is only the plan."""
    write_plan(tiny_plan(), tmp_path / "run")
    return tmp_path / "run"


def shell(monkeypatch: pytest.MonkeyPatch, program: Callable[[str], str]) -> None:
    """Commands of the shell in the place of training."""

    def command(job: str, *_: object) -> Command:
        return Command(job=job, words=("/bin/sh", "-c", program(job)))

    monkeypatch.setattr(start, "job_command", command)


def options(run: Path, **given: object) -> list[str]:
    """What the command of block 1 is told besides the block."""
    words = commands(run, **{"machine": Machine(threads=1), **given})[1].words  # type: ignore[arg-type]
    assert words[:4] == (sys.executable, "-m", "oneblock.cli", "job")
    assert words[4:7] == (str(run), "--block", "1")
    return list(words[7:])


def test_what_the_jobs_are_told(planned: Path) -> None:
    one = ["--threads", "1"]
    assert [command.job for command in commands(planned)] == ["block-0", "block-1"]
    assert options(planned) == one
    assert options(planned, data=ImageData(data="folder:x", image_size=8, cache=False, max_pixels=99)) == [
        *one, "--data", "folder:x", "--image-size", "8", "--max-pixels", "99", "--no-cache",
    ]  # fmt: skip
    assert options(planned, data="folder:x") == [*one, "--data", "folder:x"]
    assert options(planned, data=TextData(data="", data_dir=Path("texts"))) == [*one, "--data-dir", "texts"]
    assert options(planned, scratch=Path("here")) == [*one, "--scratch", "here"]
    assert options(planned, backbone="own:Own", parallel="fsdp") == [*one, "--backbone", "own:Own"]
    assert [path.name for path in planned.iterdir()] == ["plan.json"]


def test_threads_are_shared_out(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("oneblock.cpus.available_cpus", lambda: 8)
    assert options(planned, machine=Machine()) == ["--threads", "4"]
    assert options(planned, machine=Machine(), local=1) == ["--threads", "8"]
    assert options(planned, machine=Machine(), slurm=True) == []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert options(planned, machine=Machine()) == []


def test_events_are_told_and_given(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell(monkeypatch, lambda job: f"echo {job}")
    told: list[Event] = []
    events = launch(planned, local=1, on_event=told.append)
    assert events == told
    assert [(event.job, event.kind) for event in events] == [
        ("block-0", "started"), ("block-0", "finished"), ("block-1", "started"), ("block-1", "finished"),
    ]  # fmt: skip
    assert [event.log and event.log.read_text() for event in events[::2]] == ["block-0\n", "block-1\n"]


def test_it_works_in_a_thread(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell(monkeypatch, lambda job: "true")
    found: list[Event] = []
    thread = threading.Thread(target=lambda: found.extend(launch(planned)))
    thread.start()
    thread.join(30)
    assert len(found) == 4


def test_a_lost_job_is_an_error_and_blocks_wait_for_their_trunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(tiny_plan(branch=0.5), tmp_path / "run")
    trunk = commands(tmp_path / "run")[0].job
    shell(monkeypatch, lambda job: f"touch {tmp_path}/{job}; exit {2 * (job == trunk)}")
    told: list[Event] = []
    with pytest.raises(OSError, match=rf"^{trunk} could not be trained; see .*log\.txt, then launch again"):
        launch(tmp_path / "run", on_event=told.append)
    assert [event.kind for event in told] == ["started", "given up"]
    assert not (tmp_path / "block-0").exists()


def test_blocks_that_go_on_from_the_one_before_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plan(relay_plan(relay_across=True, branch=0.5), tmp_path / "run")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("oneblock.cpus.available_cpus", lambda: 8)
    first, *_ = commands(tmp_path / "run")
    assert first.words[-2:] == ("--threads", "8")
    shell(monkeypatch, lambda job: f"sleep {int(job == 'block-0') * 0.2}; exit {2 * (job == 'block-1')}")
    told: list[Event] = []
    with pytest.raises(OSError, match=r"^block-1 could not be trained"):
        launch(tmp_path / "run", on_event=told.append)
    assert [(event.job, event.kind) for event in told] == [
        ("trunk", "started"), ("trunk", "finished"), ("block-0", "started"), ("block-0", "finished"),
        ("block-1", "started"), ("block-1", "given up"),
    ]  # fmt: skip


def test_slurm_gives_ids(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def submit(stages: list[list[Command]], folder: Path, parameters: object) -> dict[str, str]:
        asked.extend([len(stages), folder, parameters])
        return {command.job: f"7_{i}" for i, command in enumerate(stages[0])}

    monkeypatch.setattr(start, "submit", submit)
    events = launch(planned, slurm=True, slurm_options={"timeout_min": 5})
    assert [(event.job, event.kind, event.slurm_id) for event in events] == [
        ("block-0", "submitted", "7_0"),
        ("block-1", "submitted", "7_1"),
    ]
    assert asked == [1, planned / "slurm", {"timeout_min": 5}]


def test_a_run_at_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryFileSystem()
    memory.store.clear()
    send_plan(tiny_plan(), "memory://launched")
    shell(monkeypatch, lambda job: "true")
    events = launch("memory://launched", scratch=tmp_path / "here")
    assert {event.log for event in events} == {tmp_path / "here" / f"block-{b}" / "log.txt" for b in (0, 1)}
    memory.store.clear()


def test_what_is_ones_own_needs_a_name(tmp_path: Path) -> None:
    recipe = ImageRecipe(depth=4, width=16, heads=2, blocks=2, batch_size=8, budget=6 * 8 * 4)
    dataset = TensorDataset(torch.zeros(32, 1, 8, 8), torch.arange(32) % 10)
    train(recipe, out=tmp_path / "data", data=dataset, strategy="plan-only")
    with pytest.raises(
        ValueError, match=r"no other process can open them; train its jobs in Python, oneblock\.run_job"
    ):
        launch(tmp_path / "data")
    train(recipe, out=tmp_path / "both", data=dataset, backbone=own.Own, strategy="plan-only")
    with pytest.raises(ValueError, match=r"is your own, own:Own; every job must be told .*: give --backbone own:Own"):
        commands(tmp_path / "both")


def test_a_program_that_is_imported_for_its_network_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(own.__file__).read_text()
    (tmp_path / "unguarded.py").write_text(f"{source}\n\nfrom oneblock import launch\n\nlaunch('run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match="launch is called while unguarded:Own is imported for its network; put the call below `if __n"
    ):
        load_backbone("unguarded:Own")
    with pytest.raises(ValueError, match=r"backbone='own:f\.<locals>\.Own' stands inside a function; move it"):
        load_backbone("own:f.<locals>.Own")
    assert load_backbone("own:Own") is own.Own


def slots(machine: Machine, torchrun: int, per_gpu: int = 1) -> start._Jobs:
    return start._Jobs("run", 0, torchrun, False, "ddp", None, None, machine, "", per_gpu=per_gpu)


def test_each_slot_sees_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    two_each = slots(Machine(device="cuda"), 2)
    assert two_each.environment(0) == {"CUDA_VISIBLE_DEVICES": "4,5"}
    assert two_each.environment(1) == {"CUDA_VISIBLE_DEVICES": "6,7"}
    with pytest.raises(ValueError, match="3 jobs with 2 GPUs each need more than the 4 that are here"):
        two_each.environment(2)
    assert slots(Machine(), 2).environment(7) == {}


def test_jobs_share_gpus_only_when_all_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    shared = slots(Machine(device="cuda"), 0, per_gpu=2)
    assert [shared.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["3", "1", "3", "1"]
    with pytest.raises(
        ValueError, match=r"5 jobs with 1 GPUs each, shared by 2 jobs at most, need .* larger --per-gpu"
    ):
        shared.environment(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    pairs = slots(Machine(device="cuda"), 2, per_gpu=2)
    assert [pairs.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0,1", "0,1"]
    with pytest.raises(ValueError, match="3 jobs with 2 GPUs each"):
        pairs.environment(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ValueError, match="1 jobs with 2 GPUs each"):
        pairs.environment(0)


def test_two_blocks_are_launched_on_one_gpu(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    shell(monkeypatch, lambda job: "echo $CUDA_VISIBLE_DEVICES")
    cuda = Machine(device="cuda", threads=1)
    with pytest.raises(ValueError, match="2 jobs with 1 GPUs each need more than the 1 that are here"):
        launch(planned, machine=cuda)
    events = launch(planned, machine=cuda, per_gpu=2)
    assert {event.log.read_text() for event in events if event.log and event.kind == "finished"} == {"6\n"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"per_gpu": 0}, "per_gpu=0 is not allowed; use a whole number, 1 or more"),
        ({"per_gpu": 2}, "per_gpu=2 shares out the GPUs of this machine, but device='cpu' is none; use --per-gpu 1"),
        ({"per_gpu": 2, "slurm": True, "machine": Machine(device="cuda")}, "but Slurm gives jobs their GPUs; use --pe"),
    ],
)
def test_gpus_that_cannot_be_shared(planned: Path, given: dict[str, Any], message: str) -> None:
    for start_or_show in (launch, commands):
        with pytest.raises(ValueError, match=message):
            start_or_show(planned, **given)
    assert [path.name for path in planned.iterdir()] == ["plan.json"]


def test_blocks_that_are_synced_share_no_gpu(tmp_path: Path) -> None:
    write_plan(tiny_plan(shared="synced"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"are synced .*, and NCCL cannot do this with two processes on one GPU; use"):
        launch(tmp_path / "run", machine=Machine(device="cuda"), per_gpu=2)
