"""Jobs here are commands of the shell, which say in files what they saw."""

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from oneblock.launch import local
from oneblock.launch.command import Command
from oneblock.launch.local import Event, run_commands


def shell(job: str, program: str) -> Command:
    return Command(job=job, words=("/bin/sh", "-c", program))


def kinds(events: list[Event], job: str) -> list[str]:
    return [event.kind for event in events if event.job == job]


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_at_most_so_many_at_a_time_in_the_given_order(tmp_path: Path) -> None:
    tasks = [shell(f"job-{i}", "sleep 0.15") for i in (3, 1, 2, 0)]
    running, most = 0, 0
    order = []
    for event in run_commands(tasks, tmp_path, workers=2):
        running += {"started": 1, "finished": -1}[event.kind]
        most = max(most, running)
        order += [event.job] if event.kind == "started" else []
    assert most == 2
    assert order == ["job-3", "job-1", "job-2", "job-0"]


def test_each_running_job_has_a_slot_of_its_own(tmp_path: Path) -> None:
    say = "echo $SLOT $HOME > {0}/slot-{1}"
    tasks = [shell(f"job-{i}", say.format(tmp_path, i)) for i in range(4)]
    tasks[0] = shell("job-0", f"{say.format(tmp_path, 0)}; until test -e {tmp_path}/slot-3; do sleep 0.02; done")
    list(run_commands(tasks, tmp_path, workers=2, environment=lambda slot: {"SLOT": f"gpu-{slot}"}))
    slots, homes = zip(*[(tmp_path / f"slot-{i}").read_text().split() for i in range(4)], strict=True)
    assert slots == ("gpu-0", "gpu-1", "gpu-1", "gpu-1"), "job-0 holds slot 0 until the others have ended"
    assert set(homes) == {os.environ["HOME"]}, "the rest of the environment is inherited"


def test_a_job_that_dies_is_started_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    events = list(
        run_commands([shell("a", f"test -e {mark} || {{ touch {mark}; kill -9 $$; }}")], tmp_path, 1, 1, patience=0)
    )
    assert kinds(events, "a") == ["started", "restarted", "finished"]
    assert [event.code for event in events] == [None, -9, 0]


def test_a_job_that_another_process_trains_is_waited_for(tmp_path: Path) -> None:
    count = tmp_path / "count"
    program = f"echo x >> {count}; test $(wc -l < {count}) -gt 3 || exit 75"
    events = list(run_commands([shell("a", program), shell("b", "exit 0")], tmp_path, 1, retries=0, patience=0.001))
    assert kinds(events, "a") == ["started", "busy", "finished"]
    assert kinds(events, "b") == ["started", "finished"]
    assert [event.code for event in events if event.kind == "busy"] == [75]


def test_deaths_without_a_new_checkpoint_are_bounded_and_the_others_go_on(tmp_path: Path) -> None:
    tasks = [shell("bad", "exit 7"), shell("good", "exit 0")]
    events = list(run_commands(tasks, tmp_path, workers=1, retries=2, patience=0))
    assert kinds(events, "bad") == ["started", "restarted", "restarted", "given up"]
    assert kinds(events, "good") == ["started", "finished"]
    assert events[3] == Event(job="bad", kind="given up", code=7, log=tmp_path / "bad" / "log.txt")


def test_deaths_count_anew_after_a_new_checkpoint(tmp_path: Path) -> None:
    # dies five times; before the first and the fourth death a checkpoint appears
    program = f"""
        echo x >> {tmp_path}/deaths; count=$(wc -l < {tmp_path}/deaths)
        case $count in 1|4) touch {tmp_path}/a/step-00000000$count.safetensors;; esac
        test $count -gt 5
    """
    events = list(run_commands([shell("a", program)], tmp_path, workers=1, retries=3, patience=0))
    assert kinds(events, "a") == ["started", *["restarted"] * 5, "finished"]
    (tmp_path / "deaths").unlink()
    for path in (tmp_path / "a").glob("step-*"):
        path.unlink()
    events = list(run_commands([shell("a", program)], tmp_path, workers=1, retries=2, patience=0))
    assert kinds(events, "a")[-1] == "given up"
    assert (tmp_path / "deaths").read_text().count("x") == 3


def test_a_command_that_was_asked_wrongly_is_not_repeated(tmp_path: Path) -> None:
    events = list(run_commands([shell("a", "exit 2"), shell("b", "exit 0")], tmp_path, workers=2, patience=0))
    assert kinds(events, "a") == ["started", "given up"]
    assert kinds(events, "b") == ["started", "finished"]


def test_a_new_start_waits_twice_as_long_after_each_death(tmp_path: Path) -> None:
    times = [
        time.monotonic()
        for event in run_commands([shell("a", "exit 1")], tmp_path, 1, retries=2, patience=0.2)
        if event.kind in ("started", "restarted")
    ]
    assert 0.2 <= times[1] - times[0] < 0.4 <= times[2] - times[1]


def test_what_a_job_prints_is_appended_to_its_log(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.txt").write_text("before\n")
    list(run_commands([shell("a", "echo out; echo err >&2; exit 1")], tmp_path, 1, retries=1, patience=0))
    assert (tmp_path / "a" / "log.txt").read_text() == "before\n" + "out\nerr\n" * 2


def test_closing_stops_the_running_jobs_with_sigterm(tmp_path: Path) -> None:
    program = "trap 'touch {0}/stopped-{1}; exit 0' TERM; touch {0}/ready-{1}; while :; do sleep 0.02; done"
    tasks = [shell(f"job-{i}", program.format(tmp_path, i)) for i in range(3)]
    with closing(run_commands(tasks, tmp_path, workers=2)) as events:
        assert [next(events).kind, next(events).kind] == ["started", "started"]
        for i in range(2):
            wait_for_file(tmp_path / f"ready-{i}")
    assert sorted(path.name for path in tmp_path.glob("stopped-*")) == ["stopped-0", "stopped-1"]
    assert not (tmp_path / "ready-2").exists()


def test_a_job_that_ignores_sigterm_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = local._stop
    monkeypatch.setattr(local, "_stop", lambda processes: stop(processes, seconds=0.1))
    program = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; touch {tmp_path}/ready; wait; sleep 60"
    with closing(run_commands([shell("a", program)], tmp_path, workers=1)) as events:
        next(events)
        wait_for_file(tmp_path / "ready")
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while _alive(child):
        assert time.monotonic() < deadline, "the job's child outlived it"
        time.sleep(0.01)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_jobs_are_out_of_reach_of_ctrl_c(tmp_path: Path) -> None:
    program = f"cut -d ' ' -f 5,6 /proc/$$/stat > {tmp_path}/group"
    list(run_commands([shell("a", program)], tmp_path, workers=1))
    group, session = map(int, (tmp_path / "group").read_text().split())
    assert group != os.getpgid(0)
    assert session != os.getsid(0)
