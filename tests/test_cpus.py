"""What a process may use, told by files like those of the kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ENVIRONMENT

from oneblock import cpus
from oneblock.train.machine import Machine


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of one's own, none of which has a limit, and eight CPUs."""
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpus, "GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.delenv(cpus.CHOSEN, raising=False)
    return tmp_path


def enter(groups: Path, line: str, folder: str, **files: str) -> None:
    """Put this process into a group, with its files (a dot is written as two underscores)."""
    (groups / "cgroup").write_text(f"{line}\n")
    place = groups / folder
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(text)


def test_without_a_limit_all_that_may_be_used_counts(groups: Path) -> None:
    assert (cpus.cpu_quota(), cpus.available_cpus(), cpus.threads_each(3)) == (None, 8, 2)


@pytest.mark.parametrize(
    ("text", "quota", "share"),
    [("200000 100000", 2.0, 2), ("max 100000", None, 8), ("50000 100000", 0.5, 1), ("1600000 100000", 16.0, 8)],
)
def test_a_quota_of_version_2(groups: Path, text: str, quota: float | None, share: int) -> None:
    enter(groups, "0::/job/step", "job/step")
    (groups / "job" / "cpu.max").write_text(f"{text}\n")  # a group is bound by those that it lies in
    assert (cpus.cpu_quota(), cpus.available_cpus()) == (quota, share)


def test_a_quota_of_version_1(groups: Path) -> None:
    files = {"cpu__cfs_quota_us": "300000\n", "cpu__cfs_period_us": "100000\n"}
    enter(groups, "4:cpu,cpuacct:/job", "cpu,cpuacct/job", **files)
    assert cpus.cpu_quota() == 3.0
    enter(groups, "4:cpu,cpuacct:/job", "cpu,cpuacct/job", cpu__cfs_quota_us="-1\n")
    assert cpus.cpu_quota() is None
    enter(groups, "3:cpuset:/job", "cpuset/job", **files)
    assert cpus.cpu_quota() is None


@pytest.mark.parametrize("text", ["", "1", "a b", "100000 0"])
def test_a_quota_that_cannot_be_read_is_none(groups: Path, text: str) -> None:
    enter(groups, "0::/", ".", cpu__max=text)
    assert cpus.available_cpus() == 8


def test_the_users_choice_stays(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpus.CHOSEN, "3")
    assert cpus.threads_each(2) == 0  # torch follows the variable


def test_affinity_is_respected() -> None:
    one = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + (
        "from oneblock.cpus import available_cpus; sys.exit(available_cpus())"
    )
    assert subprocess.run([sys.executable, "-c", one], env=ENVIRONMENT).returncode == 1


@pytest.mark.parametrize(("chosen", "threads"), [("", 2), ("5", 5)])
def test_a_quota_bounds_the_threads_of_a_training(
    groups: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, threads: int
) -> None:
    before = torch.get_num_threads()
    if chosen:
        monkeypatch.setenv(cpus.CHOSEN, chosen)
    enter(groups, "0::/", ".", cpu__max="200000 100000")
    torch.set_num_threads(5)
    try:
        Machine().torch_device()
        assert torch.get_num_threads() == threads
        Machine(threads=4).torch_device()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
