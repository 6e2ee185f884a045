from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from tiny import tiny_plan

from oneblock.launch.mirror import Mirror, is_remote, listing
from oneblock.plan import PLAN_FILE, read_plan, write_plan
from oneblock.train.checkpoint import (
    Stamp,
    checkpoint_path,
    checkpoint_step,
    checkpoints,
    keep_last,
    latest,
    read_stamp,
    save_checkpoint,
)

PLAN = tiny_plan()


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """The file system of memory://, empty before and after."""
    files = MemoryFileSystem()
    for clear in (files.store.clear, files.pseudo_dirs.clear):
        clear()
    files.pseudo_dirs.append("")
    yield files
    files.store.clear()


@pytest.fixture(params=["memory", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path, memory: MemoryFileSystem) -> str:
    """A remote run with a plan and nothing else."""
    place = "memory://runs/one" if request.param == "memory" else f"file://{tmp_path}/remote/one"
    write_plan(PLAN, tmp_path / "planned")
    mirror = Mirror(place, tmp_path / "planned")
    mirror.push_plan()
    return place


def save(directory: Path, step: int, job: str = "block-1") -> Path:
    path = checkpoint_path(directory / job, step)
    save_checkpoint(path, {"weights/a": torch.full((50,), float(step))}, Stamp(PLAN.hash, job, step, 9))
    return path


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def spy(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[tuple[str, str]]:
    """Calls of methods of the memory file system, with the name of the remote file."""
    calls: list[tuple[str, str]] = []
    for name in names:
        method = getattr(MemoryFileSystem, name)

        def call(self: Any, *words: Any, name: str = name, method: Any = method, **options: Any) -> Any:
            remote = words[1] if name == "put_file" else words[0]
            calls.append((name, str(remote).rsplit("/", 1)[-1]))
            return method(self, *words, **options)

        monkeypatch.setattr(MemoryFileSystem, name, call)
    return calls


def test_addresses_and_paths() -> None:
    assert is_remote("s3://bucket/run")
    assert is_remote("file:///runs/one")
    assert not is_remote("/runs/one")
    assert not is_remote("runs/one")


def test_what_is_pushed_is_pulled_elsewhere(address: str, tmp_path: Path) -> None:
    here, there = Mirror(address, tmp_path / "here"), Mirror(address, tmp_path / "there")
    assert here.pull() == tmp_path / "here"
    save(here.local, 3)
    (here.local / "block-1" / "metrics.jsonl").write_text("{}\n")
    (here.local / "block-1" / "heartbeat.json").write_text("{}\n")
    for name in ("lock", "log.txt", "step-000000004.safetensors.partial"):
        (here.local / "block-1" / name).write_text("stays here")
    here.push("block-1")
    there.pull("block-1")
    assert read_plan(there.local) == PLAN
    sent = {
        "plan.json",
        *(f"block-1/{name}" for name in ("step-000000003.safetensors", "metrics.jsonl", "heartbeat.json")),
    }
    assert set(files(there.local)) == sent
    assert all(files(there.local)[name] == files(here.local)[name] for name in sent)


def test_only_the_asked_jobs_are_pulled(address: str, tmp_path: Path) -> None:
    here, there = Mirror(address, tmp_path / "here"), Mirror(address, tmp_path / "there")
    for job in ("block-0", "block-1", "trunk"):
        save(here.local, 1, job)
        here.push(job)
    there.pull("block-1", "trunk", "block-7")
    assert sorted(path.name for path in there.local.iterdir()) == ["block-1", PLAN_FILE, "trunk"]


def test_old_checkpoints_vanish_only_after_the_new_one_is_there(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(PLAN, tmp_path)
    mirror = Mirror("memory://run", tmp_path)
    mirror.push_plan()
    for step in (1, 2):
        save(tmp_path, step)
    mirror.push("block-1")
    save(tmp_path, 3)
    keep_last(tmp_path / "block-1", 2, 3)
    calls = spy(monkeypatch, "put_file", "rm")
    mirror.push("block-1")
    assert calls == [("put_file", "step-000000003.safetensors"), ("rm", "step-000000001.safetensors")]
    assert [name.rsplit("/", 1)[-1] for name in sorted(memory.ls("/run/block-1", detail=False))] == [
        "step-000000002.safetensors",
        "step-000000003.safetensors",
    ]


def test_an_empty_copy_deletes_nothing(address: str, tmp_path: Path) -> None:
    here, there = Mirror(address, tmp_path / "here"), Mirror(address, tmp_path / "there")
    save(here.local, 1)
    here.push("block-1")
    there.pull()
    there.push("block-1")
    there.pull("block-1")
    assert [path.name for path in checkpoints(there.local / "block-1")] == ["step-000000001.safetensors"]


def test_a_process_thought_dead_deletes_nothing_of_its_successor(address: str, tmp_path: Path) -> None:
    dead, successor = Mirror(address, tmp_path / "dead"), Mirror(address, tmp_path / "successor")
    for step in (1, 2):
        save(dead.local, step)
    for step in (8, 9):
        save(successor.local, step)
    successor.push("block-1")
    dead.push("block-1")
    there = Mirror(address, tmp_path / "there").pull("block-1")
    assert [checkpoint_step(path) for path in checkpoints(there / "block-1")] == [1, 2, 8, 9]
    successor.push("block-1")
    there = Mirror(address, tmp_path / "later").pull("block-1")
    assert [checkpoint_step(path) for path in checkpoints(there / "block-1")] == [8, 9]


def test_only_what_is_new_is_sent(memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plan(PLAN, tmp_path / "here")
    here, there = Mirror("memory://run", tmp_path / "here"), Mirror("memory://run", tmp_path / "there")
    here.push_plan()
    calls = spy(monkeypatch, "put_file")
    save(here.local, 1)
    here.push("block-1")
    here.push("block-1")
    assert calls == [("put_file", "step-000000001.safetensors")]
    there.pull("block-1")
    there.push_if_due("block-1")
    assert calls == [("put_file", "step-000000001.safetensors")], "what was fetched is not sent back"
    save(there.local, 2)
    there.push_if_due("block-1")
    assert calls[1:] == [("put_file", "step-000000002.safetensors")]
    save(there.local, 2)  # written again, as after a damaged checkpoint was passed over
    there.push_if_due("block-1")
    assert calls[2:] == [("put_file", "step-000000002.safetensors")]


def test_heartbeats_are_sent_now_and_then(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(PLAN, tmp_path)
    patient = Mirror("memory://run", tmp_path, every_seconds=1e9)
    hasty = Mirror("memory://run", tmp_path, every_seconds=-1.0)
    (tmp_path / "block-1").mkdir()
    (tmp_path / "block-1" / "heartbeat.json").write_text("{}")
    calls = spy(monkeypatch, "put_file")
    patient.push_if_due("block-1")
    assert calls == []
    hasty.push_if_due("block-1")
    assert calls == [("put_file", "heartbeat.json")]


def test_a_checkpoint_that_was_cut_short_on_its_way_is_passed_over(memory: MemoryFileSystem, tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path / "here")
    here = Mirror("memory://run", tmp_path / "here")
    here.push_plan()
    for step in (1, 2):
        save(here.local, step)
    here.push("block-1")
    remote = "/run/block-1/step-000000002.safetensors"
    memory.pipe_file(remote, memory.cat_file(remote)[:-7])
    there = Mirror("memory://run", tmp_path / "there").pull("block-1")
    found = latest(there / "block-1", PLAN.hash)
    assert found is not None
    assert found[1].step == 1
    assert "step-000000002.safetensors is damaged" in found[2][0]
    # where an intact copy lies, the cut one does not take its place unseen
    assert latest(here.local / "block-1", PLAN.hash)[1].step == 2  # type: ignore[index]


def test_a_fetch_that_is_cut_short_leaves_no_checkpoint(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(PLAN, tmp_path / "here")
    here = Mirror("memory://run", tmp_path / "here")
    here.push_plan()
    save(here.local, 1)
    here.push("block-1")

    get_file = MemoryFileSystem.get_file

    def cut(self: Any, source: str, target: str) -> None:
        get_file(self, source, target)
        if "step-" in source:
            Path(target).write_bytes(Path(target).read_bytes()[:10])
            raise ConnectionError("gone")

    there = Mirror("memory://run", tmp_path / "there")
    monkeypatch.setattr(MemoryFileSystem, "get_file", cut)
    with pytest.raises(ConnectionError):
        there.pull("block-1")
    assert checkpoints(there.local / "block-1") == []


def test_progress_is_read_without_fetching_checkpoints(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(PLAN, tmp_path)
    mirror = Mirror("memory://run", tmp_path)
    mirror.push_plan()
    save(tmp_path, 4)
    for name in ("heartbeat.json", "metrics.jsonl"):
        (tmp_path / "block-1" / name).write_text(name)
    mirror.push("block-1")
    calls = spy(monkeypatch, "get_file", "cat_file")
    with listing("memory://run") as directory:
        assert read_plan(directory) == PLAN
        assert [path.name for path in checkpoints(directory / "block-1")] == ["step-000000004.safetensors"]
        assert (directory / "block-1" / "heartbeat.json").read_text() == "heartbeat.json"
        assert (directory / "block-1" / "metrics.jsonl").read_text() == "metrics.jsonl"
        assert read_stamp(directory / "block-1" / "step-000000004.safetensors", PLAN.hash, "block-1").step == 4
    assert {name for kind, name in calls if kind == "get_file"} == {PLAN_FILE, "heartbeat.json", "metrics.jsonl"}
    assert not directory.exists()
    with listing(str(tmp_path)) as directory:
        assert directory == tmp_path


def test_each_run_has_a_copy_of_its_own(memory: MemoryFileSystem, tmp_path: Path) -> None:
    places = []
    for address, seed in (("memory://a", 0), ("memory://b", 0), ("memory://a", 1)):
        memory.store.pop("/a/plan.json", None)  # the same address again, with another plan
        plan = tmp_path / f"{address[-1]}-{seed}"
        write_plan(tiny_plan(seed=seed), plan)
        Mirror(address, plan).push_plan()
        places.append(Mirror(address).local)
    assert len(set(places)) == 3
    assert Mirror("memory://a").local == places[2]
    with pytest.raises(ValueError, match="/a belongs to another plan; use another address"):
        Mirror("memory://a", tmp_path / "a-0").push_plan()


def test_addresses_that_cannot_be_used(memory: MemoryFileSystem, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot open nowhere://run \(.*nowhere.*\); install what is named"):
        Mirror("nowhere://run", tmp_path)
    with pytest.raises(ValueError, match=r"memory://run has no plan\.json; give the directory of a run \(its --out\)"):
        Mirror("memory://run")
