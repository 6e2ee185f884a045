"""No cluster: `sbatch` here is a script that keeps what it is given, `srun` is there and never called."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oneblock.launch.command import Command, job_command
from oneblock.launch.slurm import Submission, submit

pytest.importorskip("submitit")
Scripts = Callable[[], list[str]]
PARAMETERS = {"timeout_min": 90, "gpus_per_node": 2, "mem_gb": 0.5, "slurm_partition": "long"}


def commands(*jobs: str) -> list[Command]:
    return [job_command(job, "run") for job in jobs]


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripts:
    """Puts a Slurm on the PATH; gives the scripts that were submitted, in order. The first job has id 100."""
    kept, programs = tmp_path / "kept", tmp_path / "bin"
    for place in (kept, programs):
        place.mkdir()
    (programs / "srun").write_text("#!/bin/sh\nexit 1\n")
    (programs / "sbatch").write_text(
        f"#!/bin/sh\ncount=$(ls {kept} | wc -l)\n"
        'if grep -q "partition=closed" "$1"; then echo "sbatch: error: invalid partition" >&2; exit 1; fi\n'
        f'cp "$1" {kept}/$count.sh\necho "Submitted batch job $((100 + count))"\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return lambda: [path.read_text() for path in sorted(kept.iterdir())]


def options(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script, re.MULTILINE))


def test_blocks_are_one_array(tmp_path: Path, scripts: Scripts) -> None:
    ids = submit([commands("block-0", "block-1", "block-2")], tmp_path / "slurm", PARAMETERS)
    assert ids == {"block-0": "100_0", "block-1": "100_1", "block-2": "100_2"}
    (script,) = scripts()
    found = options(script)
    assert found["array"] == "0-2%3"
    assert (found["time"], found["gpus-per-node"], found["mem"], found["partition"]) == ("90", "2", "512MB", "long")
    assert found["job-name"] == "oneblock"
    assert found["signal"] == "USR2@90"
    assert "dependency" not in found
    last = script.strip().splitlines()[-1]
    assert last.startswith("srun ")
    assert f"{sys.executable} -u -m submitit.core._submit {tmp_path}/slurm" in last


def test_each_element_of_the_array_has_the_command_of_its_block(tmp_path: Path, scripts: Scripts) -> None:
    made = commands("block-0", "block-1", "block-2")
    submit([made], tmp_path / "slurm", {})
    for index, one in enumerate(made):
        with open(tmp_path / "slurm" / f"100_{index}_submitted.pkl", "rb") as file:
            submission = pickle.load(file)
        assert submission.function.command == one.words
        assert submission._timeout_countdown > 1000, "many time limits make one training"


def test_blocks_wait_for_the_trunk(tmp_path: Path, scripts: Scripts) -> None:
    ids = submit([commands("trunk"), commands("block-0", "block-1")], tmp_path / "slurm", {"timeout_min": 5})
    assert ids == {"trunk": "100", "block-0": "101_0", "block-1": "101_1"}
    trunk, blocks = map(options, scripts())
    assert "array" not in trunk
    assert "dependency" not in trunk
    assert blocks["array"] == "0-1%2"
    assert blocks["dependency"] == "afterok:100"


def test_what_cannot_be_submitted(tmp_path: Path, scripts: Scripts) -> None:
    for parameters, message in (
        ({"timeout": 5}, "timeout"),
        ({"slurm_colour": "red"}, "Unknown argument 'colour'"),
        ({"timeout_min": "long"}, '"timeout_min" expected type'),
        ({"slurm_partition": "closed"}, "invalid partition"),
    ):
        with pytest.raises(ValueError, match=r"cannot use Slurm here (?s:.*); look at --slurm-options, or use") as said:
            submit([commands("block-0", "block-1")], tmp_path / "slurm", parameters)
        assert message in str(said.value)
    assert scripts() == []


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r'cannot use Slurm here \(Could not detect "srun".*; .* or use --local'):
        submit([commands("block-0")], tmp_path / "slurm", {})


def test_absent_submitit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"--slurm needs submitit; pip install 'oneblock\[slurm\]'"):
        submit([commands("block-0")], tmp_path / "slurm", {})


def test_a_submission_ends_as_its_command_does(tmp_path: Path) -> None:
    Submission(("/bin/sh", "-c", f"touch {tmp_path}/done"))()
    assert (tmp_path / "done").exists()
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        Submission(("/bin/sh", "-c", "exit 3"))()


def test_before_slurm_takes_the_job_away_it_saves_and_is_queued_again(tmp_path: Path) -> None:
    """The warning goes to the job and to its command, as Slurm sends it; only the job may answer."""
    program = (
        f"trap 'sleep 0.2; touch {tmp_path}/saved; exit 130' TERM; echo $$ > {tmp_path}/part; "
        f"mv {tmp_path}/part {tmp_path}/ready; while :; do sleep 0.02; done"
    )
    submission = Submission(("/bin/sh", "-c", program))
    queued = []

    def taken(number: int, frame: object) -> None:
        queued.append(submission.checkpoint())
        assert (tmp_path / "saved").exists(), "the job leaves before its command has saved"
        raise SystemExit(-1)

    def warn() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(int((tmp_path / "ready").read_text()), signal.SIGUSR2)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGUSR2)

    previous = signal.signal(signal.SIGUSR2, taken)
    slurm = threading.Thread(target=warn)
    try:
        slurm.start()
        with pytest.raises(SystemExit):
            submission()
    finally:
        slurm.join()
        signal.signal(signal.SIGUSR2, previous)
    again = pickle.loads(pickle.dumps(queued[0])).function
    assert isinstance(again, Submission)
    assert again.command == submission.command


def test_a_submission_that_has_not_started_is_queued_as_it_is() -> None:
    assert Submission(("true",)).checkpoint().function.command == ("true",)
