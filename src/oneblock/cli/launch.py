"""``oneblock launch``."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from tyro.conf import Positional

from oneblock.cli import console
from oneblock.cli.options import DataOptions, MachineOptions, changed_words
from oneblock.launch.command import Task, task
from oneblock.launch.local import Event, run_tasks
from oneblock.launch.mirror import Mirror, is_remote
from oneblock.plan import Plan, read_plan
from oneblock.presets import plan_budget, plan_optimizer
from oneblock.train.checkpoint import job_folder
from oneblock.train.strategy import TRUNK, job_specs


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Start the jobs of a planned run, one for each block, and nothing more: they never talk, and each could be started
    by hand with `oneblock job`. A branched run's trunk comes first.

    Make the plan with `oneblock train images --strategy plan-only --out DIR ...`.
    """

    run_dir: Positional[str]
    """directory with plan.json, or its fsspec address (s3://..., gs://..., sftp://...)"""
    local: int = 0
    """processes of this machine at the same time (0: one for each block)"""
    torchrun: int = 0
    """start each block with torchrun and this many processes (0: without)"""
    slurm: bool = False
    """submit an array to Slurm instead"""
    slurm_options: tuple[str, ...] = ()
    """submitit's parameters for --slurm, e.g. timeout_min=1440 gpus_per_node=1 slurm_partition=long"""
    dry_run: bool = False
    """print the commands, one for each block, and start nothing"""
    retries: int = 3
    """times that a job may die without a new checkpoint before it is given up"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """what torchrun's processes share out: the batch alone, or weights, gradients and optimizer states too"""
    scratch: Path | None = None
    """where the copy of a remote directory lies on the machine of a job (default: in the temporary directory)"""
    json: bool = False
    """print one JSON object per event"""
    data: DataOptions = field(default_factory=lambda: DataOptions(data=""))
    machine: MachineOptions = field(default_factory=MachineOptions)

    def run(self) -> None:
        if self.local < 0 or self.torchrun < 0 or self.retries < 0:
            raise ValueError(
                f"local={self.local}, torchrun={self.torchrun}, retries={self.retries}: use 0 or more of each"
            )
        directory = Mirror(self.run_dir, self.scratch).pull() if is_remote(self.run_dir) else Path(self.run_dir)
        plan = read_plan(directory)
        self._check(plan)
        stages = self.stages(plan)
        if self.dry_run:
            for one in (one for stage in stages for one in stage):
                print(shlex.join(one.command))
        elif self.slurm:
            self._submit(stages, directory)
        else:
            self._run(stages, directory, _meeting() if plan.shared == "synced" else {})

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
                "oneblock train images --shared joint"
            )
        apart = self.slurm or self.torchrun or self._workers(plan.num_blocks) < plan.num_blocks
        if plan.shared == "synced" and apart:
            raise ValueError(
                f"the {plan.num_blocks} blocks of {self.run_dir} are synced (shared='synced') and must run at the same "
                "time on this machine; leave out --slurm, --torchrun and --local"
            )

    def stages(self, plan: Plan) -> list[list[Task]]:
        """Jobs that may run at the same time, in order: the trunk if there is one, then all blocks."""
        jobs = [spec.name for spec in job_specs(plan, plan_budget(plan))]
        machine = replace(self.machine, threads=self._threads(len(jobs)))
        words = changed_words(machine, MachineOptions()) + changed_words(self.data, DataOptions(data=""))
        words += ["--parallel", self.parallel] if self.torchrun else []
        words += ["--scratch", str(self.scratch)] if self.scratch else []
        stages = ([job for job in jobs if job == TRUNK], [job for job in jobs if job != TRUNK])
        return [[task(job, self.run_dir, words, self.torchrun) for job in stage] for stage in stages if stage]

    def _workers(self, jobs: int) -> int:
        return min(self.local or jobs, jobs)

    def _threads(self, jobs: int) -> int:
        """CPU threads of a process: its share of the machine, unless the user or Slurm says."""
        if self.machine.threads or self.slurm:
            return self.machine.threads
        return max(1, (os.cpu_count() or 1) // (self._workers(jobs) * max(1, self.torchrun)))

    def _submit(self, stages: list[list[Task]], directory: Path) -> None:
        from oneblock.launch.slurm import submit

        # nodes read and write it: the copy of a remote directory lies on this machine alone
        folder = Path.cwd() / "slurm" if is_remote(self.run_dir) else directory / "slurm"
        ids = submit(stages, folder, dict(map(_parameter, self.slurm_options)))
        if self.json:
            console.emit(ids)
        else:
            console.say(f"submitted {', '.join(f'{job} as {id}' for job, id in ids.items())}")

    def _run(self, stages: list[list[Task]], directory: Path, meeting: dict[str, str]) -> None:
        lost: list[str] = []
        slots = range(self._workers(max(map(len, stages))))
        environments = [
            self._environment(slot) | meeting for slot in slots
        ]  # refused, if at all, before anything starts
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the jobs as Ctrl-C does
        try:
            for stage in stages:
                workers = self._workers(len(stage))
                events = run_tasks(stage, directory, workers, self.retries, environments.__getitem__)
                with closing(events):
                    for event in events:
                        self._show(event, directory)
                        lost += [event.job] if event.kind == "given up" else []
                if lost:
                    break
        finally:
            signal.signal(signal.SIGTERM, previous)
        if lost:
            logs = ", ".join(str(job_folder(directory, job) / "log.txt") for job in lost)
            raise OSError(f"{', '.join(lost)} could not be trained; see {logs}, then launch again")
        console.say(f"trained; next: oneblock merge {self.run_dir}", self.json)

    def _environment(self, slot: int) -> dict[str, str]:
        """Each slot sees GPUs of its own, as many as it has processes."""
        if not self.machine.device.startswith("cuda"):
            return {}
        if self.machine.device != "cuda":
            raise ValueError(
                f"device={self.machine.device!r} is one GPU, and every job gets its own; use --device cuda, and "
                "CUDA_VISIBLE_DEVICES to say which"
            )
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = seen.split(",") if seen else [str(i) for i in range(torch.cuda.device_count())]
        need = max(1, self.torchrun)
        mine = devices[slot * need : (slot + 1) * need]
        if len(mine) < need:
            raise ValueError(
                f"{slot + 1} jobs with {need} GPUs each need more than the {len(devices)} that are here; use a smaller "
                "--local or --torchrun"
            )
        return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}

    def _show(self, event: Event, directory: Path) -> None:
        if self.json:
            console.emit({"job": event.job, "event": event.kind, "code": event.code})
        else:
            log = job_folder(directory, event.job) / "log.txt"
            more = "" if event.code in (None, 0) else f" (exit code {event.code}, see {log})"
            console.say(f"{event.job} {event.kind}{more}")


def _meeting() -> dict[str, str]:
    """Where processes of this machine meet: a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}


def _parameter(text: str) -> tuple[str, str | int | float]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"slurm_options={text!r} is no parameter; write name=value, e.g. timeout_min=1440")
    if re.fullmatch(r"-?\d+(\.\d+)?", value):
        return name, float(value) if "." in value else int(value)
    return name, value
