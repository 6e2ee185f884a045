import shlex
import sys

import pytest

from oneblock.launch.command import job_command


@pytest.mark.parametrize(("job", "block"), [("block-0", "0"), ("block-12", "12"), ("trunk", "trunk")])
def test_a_job_is_a_command_with_a_run_and_a_block(job: str, block: str) -> None:
    made = job_command(job, "runs/a")
    assert made.job == job
    assert made.words[0] == sys.executable
    assert shlex.join(made.words[1:]) == f"-m oneblock.cli job runs/a --block {block}"


def test_options_are_passed_on_behind_the_block() -> None:
    made = job_command("block-1", "s3://bucket/a b", ["--threads", "2"])
    assert shlex.join(made.words[1:]) == "-m oneblock.cli job 's3://bucket/a b' --block 1 --threads 2"


def test_torchrun_starts_the_same_words() -> None:
    made = job_command("block-1", "run", ["--parallel", "fsdp"], processes=4)
    assert made.words[0] == sys.executable
    assert shlex.join(made.words[1:]) == (
        "-m torch.distributed.run --standalone --nproc-per-node 4 -m oneblock.cli job run --block 1 --parallel fsdp"
    )
