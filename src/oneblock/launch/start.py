"""All jobs of a planned run: started here, or handed to Slurm. They never talk, and each could be started by hand."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from oneblock.backbone import refuse_while_loading
from oneblock.checks import check_count
from oneblock.cpus import threads_each
from oneblock.data import ImageData, TextData
from oneblock.launch.command import Command, job_command
from oneblock.launch.local import Event, run_commands
from oneblock.launch.mirror import Mirror, is_remote
from oneblock.launch.slurm import Parameter, submit
from oneblock.launch.words import changed_words
from oneblock.plan import Plan
from oneblock.presets.door import read_plan
from oneblock.presets.kept import keeps_network
from oneblock.train.machine import HERE, Machine
from oneblock.train.parallel import Kind
from oneblock.train.stop import caught
from oneblock.train.strategy import job_specs, plan_optimizer

Stages = list[list[Command]]
"""Commands that may run at the same time, in order: the trunk's if there is one, then those of all blocks, or of one
block after the other where these wait for each other."""


def launch(
    run_dir: str | Path,
    *,
    local: int = 0,
    per_gpu: int = 1,
    torchrun: int = 0,
    slurm: bool = False,
    slurm_options: Mapping[str, Parameter] | None = None,
    retries: int = 3,
    parallel: Kind = "ddp",
    scratch: Path | None = None,
    data: str | ImageData | TextData | None = None,
    machine: Machine = HERE,
    backbone: str = "",
    accept_data: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[Event]:
    """Start the jobs of a planned run, one for each block, and wait until they have trained; the trunk of a branched
    run comes first, and blocks that go on from the states of the one before come in order. With ``slurm`` they are
    submitted as an array, and nobody waits.

    Args:
        run_dir: directory with plan.json, or its fsspec address.
        local: processes of this machine at the same time; 0 is one for each block.
        per_gpu: jobs that share a GPU at most: small ones leave most of it idle. Their memory adds up.
        torchrun: start each block with torchrun and this many processes; 0 is without.
        slurm_options: parameters of submitit, e.g. ``{"timeout_min": 1440, "slurm_partition": "long"}``.
        retries: times that a job may die without a new checkpoint before it is given up.
        parallel: what torchrun's processes share out (``train.parallel``).
        scratch: where the copy of a remote directory lies on the machine of a job.
        data: where the data of the plan lie on the machine of a job, when it is not where they usually do.
        backbone: ``"module:Class"``, of a run that trains a network of one's own.
        accept_data: jobs go on though the data have changed since the plan was made (``run_job``).
        on_event: told of every event when it happens.

    Returns:
        What happened; with ``slurm`` the id of every job.

    Raises:
        ValueError: the jobs cannot be started like this; none was started.
        OSError: jobs were given up; names them and their logs.
    """
    refuse_while_loading("launch")
    _check_counts(local=local, torchrun=torchrun, retries=retries)
    jobs = _Jobs(str(run_dir), local, torchrun, slurm, parallel, scratch, data, machine, backbone, accept_data, per_gpu)
    directory = jobs.directory()
    plan = read_plan(directory)
    stages = jobs.stages(plan)
    if slurm:
        return _submit(stages, directory, jobs, slurm_options or {}, on_event)
    meeting = _meeting() if plan.shared == "synced" else {}
    # refused, if at all, before anything starts
    slots = [jobs.environment(slot) | meeting for slot in range(jobs.workers(max(map(len, stages))))]
    return _run(stages, directory, jobs, retries, slots, on_event)


def commands(
    run_dir: str | Path,
    *,
    local: int = 0,
    per_gpu: int = 1,
    torchrun: int = 0,
    slurm: bool = False,
    parallel: Kind = "ddp",
    scratch: Path | None = None,
    data: str | ImageData | TextData | None = None,
    machine: Machine = HERE,
    backbone: str = "",
    accept_data: bool = False,
) -> list[Command]:
    """What ``launch`` would start, in order; nothing is started. Arguments and errors are those of ``launch``."""
    _check_counts(local=local, torchrun=torchrun)
    jobs = _Jobs(str(run_dir), local, torchrun, slurm, parallel, scratch, data, machine, backbone, accept_data, per_gpu)
    return [command for stage in jobs.stages(read_plan(jobs.directory())) for command in stage]


@dataclass(frozen=True)
class _Jobs:
    """How the jobs of a run are started; arguments of ``launch``."""

    run_dir: str
    local: int
    torchrun: int
    slurm: bool
    parallel: Kind
    scratch: Path | None
    data: str | ImageData | TextData | None
    machine: Machine
    backbone: str
    accept_data: bool = False
    per_gpu: int = 1

    def directory(self) -> Path:
        """The run's directory on this machine."""
        return Mirror(self.run_dir, self.scratch).pull() if is_remote(self.run_dir) else Path(self.run_dir)

    def stages(self, plan: Plan) -> Stages:
        self._check(plan)
        self._check_per_gpu(plan)
        self._check_own(plan)
        specs = job_specs(plan)
        machine = replace(self.machine, threads=self._threads(1 if plan.in_order else len(specs)))
        words = changed_words(machine, Machine())
        if self.data:
            data = ImageData(data=self.data) if isinstance(self.data, str) else self.data
            words += changed_words(data, type(data)(data=""))
        words += ["--parallel", self.parallel] if self.torchrun else []
        words += ["--scratch", str(self.scratch)] if self.scratch else []
        words += ["--backbone", self.backbone] if self.backbone else []
        words += ["--accept-data"] if self.accept_data else []
        blocks = [spec for spec in specs if spec.block is not None]
        together = [[spec] for spec in blocks] if plan.in_order else [blocks]
        stages = ([spec for spec in specs if spec.block is None], *together)
        return [[job_command(spec.name, self.run_dir, words, self.torchrun) for spec in one] for one in stages if one]

    def workers(self, jobs: int) -> int:
        """How many of the processes run at the same time."""
        return min(self.local or jobs, jobs)

    def environment(self, slot: int) -> dict[str, str]:
        """Variables of the job in ``slot``: each sees as many GPUs as it has processes, of its own as far as there are
        enough, and shared by at most ``per_gpu`` jobs."""
        if not self.machine.device.startswith("cuda"):
            return {}
        if self.machine.device != "cuda":
            raise ValueError(
                f"device={self.machine.device!r} is a single GPU, but every job gets its own; use --device cuda, "
                "and CUDA_VISIBLE_DEVICES to say which"
            )
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = seen.split(",") if seen else [str(i) for i in range(torch.cuda.device_count())]
        need = max(1, self.torchrun)
        places = len(devices) // need
        if slot >= places * self.per_gpu:
            shared = f", shared by {self.per_gpu} jobs at most," if self.per_gpu > 1 else ""
            raise ValueError(
                f"{slot + 1} jobs with {need} GPUs each{shared} need more than the {len(devices)} that are here; use a "
                "smaller --local or --torchrun, or a larger --per-gpu"
            )
        first = slot % places * need
        return {"CUDA_VISIBLE_DEVICES": ",".join(devices[first : first + need])}

    def _check_per_gpu(self, plan: Plan) -> None:
        """Only GPUs that are given to jobs can be shared, and not by processes that NCCL synchronises."""
        check_count("per_gpu", self.per_gpu)
        if self.per_gpu == 1:
            return
        if self.slurm or not self.machine.device.startswith("cuda"):
            where = "Slurm gives jobs their GPUs" if self.slurm else f"device={self.machine.device!r} is none"
            raise ValueError(
                f"per_gpu={self.per_gpu} shares out the GPUs of this machine, but {where}; use --per-gpu 1, or "
                "--device cuda without --slurm"
            )
        if plan.shared == "synced":
            raise ValueError(
                f"per_gpu={self.per_gpu}, but the blocks of {self.run_dir} are synced (shared='synced'), and NCCL "
                "cannot do this with two processes on one GPU; use --per-gpu 1"
            )

    def _check(self, plan: Plan) -> None:
        """Blocks that share trained parts need each other; not every optimizer can be sharded."""
        if self.torchrun and self.parallel == "fsdp" and plan_optimizer(plan).optimizer == "adamw8bit":
            raise ValueError(
                f"parallel='fsdp' cannot shard the moments of optimizer='adamw8bit', which {self.run_dir} is planned "
                "with; use --parallel ddp"
            )
        if plan.shared == "joint":
            raise ValueError(
                f"the blocks of {self.run_dir} share one stem and head (shared='joint') and train in one process; use "
                f"oneblock train {'images' if plan.task == 'image' else plan.task} --shared joint"
            )
        apart = self.slurm or self.torchrun or self.workers(plan.num_blocks) < plan.num_blocks
        if plan.shared == "synced" and apart:
            raise ValueError(
                f"the {plan.num_blocks} blocks of {self.run_dir} are synced (shared='synced') and must run at the same "
                "time on this machine; leave out --slurm, --torchrun and --local"
            )

    def _check_own(self, plan: Plan) -> None:
        """What is the user's own must have a name by which another process finds it."""
        name, data = str(plan.architecture.get("name")), str(plan.recipe.get("data"))
        if ":" in name and not (self.backbone or keeps_network(self.directory())):
            raise ValueError(
                f"the network of {self.run_dir} is your own, {name}; every job must be told where it is: give "
                f"--backbone {name}"
            )
        given = self.data if isinstance(self.data, str) or self.data is None else self.data.data
        if data.startswith("dataset:") and not given:
            raise ValueError(
                f"the data of {self.run_dir} are your own ({data}), and no other process can open them; train its jobs "
                "in Python, oneblock.run_job(run_dir, block, data=...)"
            )

    def _threads(self, jobs: int) -> int:
        """CPU threads of a process: its share of those that this one may use, unless the user or Slurm sets them."""
        if self.machine.threads or self.slurm:
            return self.machine.threads
        return threads_each(self.workers(jobs) * max(1, self.torchrun))


def _check_counts(**counts: int) -> None:
    if min(counts.values()) < 0:
        given = ", ".join(f"{name}={count}" for name, count in counts.items())
        raise ValueError(f"{given}: use 0 or more of each")


def _submit(
    stages: Stages,
    directory: Path,
    jobs: _Jobs,
    options: Mapping[str, Parameter],
    on_event: Callable[[Event], None],
) -> list[Event]:
    # nodes read and write it: the copy of a remote directory lies on this machine alone
    folder = Path.cwd() / "slurm" if is_remote(jobs.run_dir) else directory / "slurm"
    ids = submit(stages, folder, options)
    events = [Event(job=job, kind="submitted", slurm_id=found) for job, found in ids.items()]
    for event in events:
        on_event(event)
    return events


def _run(
    stages: Stages,
    directory: Path,
    jobs: _Jobs,
    retries: int,
    slots: list[dict[str, str]],
    on_event: Callable[[Event], None],
) -> list[Event]:
    seen: list[Event] = []
    with caught(signal.default_int_handler):  # jobs are stopped, each with a checkpoint
        for stage in stages:
            events = run_commands(stage, directory, jobs.workers(len(stage)), retries, slots.__getitem__)
            with closing(events):
                for event in events:
                    seen.append(event)
                    on_event(event)
            lost = [event for event in seen if event.kind == "given up"]
            if lost:
                names, logs = (
                    ", ".join(column) for column in zip(*((one.job, str(one.log)) for one in lost), strict=True)
                )
                raise OSError(f"{names} could not be trained; see {logs}, then launch again")
    return seen


def _meeting() -> dict[str, str]:
    """Where processes of this machine meet: a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
