"""``oneblock launch``."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.data import ImageData
from oneblock.launch.local import Event
from oneblock.launch.slurm import Parameter
from oneblock.launch.start import commands, launch
from oneblock.train.machine import Machine
from oneblock.train.parallel import Kind


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
    per_gpu: int = 1
    """jobs that share a GPU at most; small ones leave most of it idle"""
    torchrun: int = 0
    """start each block with torchrun and this many processes (0: without)"""
    slurm: bool = False
    """submit an array to Slurm instead"""
    slurm_options: tuple[str, ...] = ()
    """submitit's parameters for --slurm, e.g. timeout_min=1440 gpus_per_node=1 slurm_partition=long"""
    dry_run: bool = False
    """print the commands, one for each block, and start nothing"""
    retries: int = 3
    """how often a job may die without a new checkpoint before it is given up"""
    parallel: Kind = "ddp"
    """what torchrun's processes share out: the batch alone, or weights, gradients and optimizer states too"""
    scratch: Path | None = None
    """where the copy of a remote directory lies on the machine of a job (default: in the temporary directory)"""
    backbone: str = ""
    """module:Class of the network, for a run that trains your own"""
    accept_data: bool = False
    """jobs go on though the data have changed since the plan was made, with a note in the run's record"""
    json: bool = False
    """print one JSON object per event"""
    data: ImageData = field(default_factory=lambda: ImageData(data=""))
    machine: Machine = field(default_factory=Machine)

    def run(self) -> None:
        if self.dry_run:
            self._print()
            return
        events = launch(
            self.run_dir,
            local=self.local,
            per_gpu=self.per_gpu,
            torchrun=self.torchrun,
            slurm=self.slurm,
            slurm_options=dict(map(_parameter, self.slurm_options)),
            retries=self.retries,
            parallel=self.parallel,
            scratch=self.scratch,
            data=self.data,
            machine=self.machine,
            backbone=self.backbone,
            accept_data=self.accept_data,
            on_event=self._show,
        )
        if not self.slurm:
            console.say(f"trained; next: oneblock merge {self.run_dir}", self.json)
        elif self.json:
            console.emit({event.job: event.slurm_id for event in events})
        else:
            console.say(f"submitted {', '.join(f'{event.job} as {event.slurm_id}' for event in events)}")

    def _print(self) -> None:
        found = commands(
            self.run_dir,
            local=self.local,
            per_gpu=self.per_gpu,
            torchrun=self.torchrun,
            slurm=self.slurm,
            parallel=self.parallel,
            scratch=self.scratch,
            data=self.data,
            machine=self.machine,
            backbone=self.backbone,
            accept_data=self.accept_data,
        )
        for command in found:
            print(shlex.join(command.words))

    def _show(self, event: Event) -> None:
        if event.kind == "submitted":  # all are shown together
            return
        if self.json:
            console.emit({"job": event.job, "event": event.kind, "code": event.code})
        else:
            more = "" if event.code in (None, 0) else f" (exit code {event.code}, see {event.log})"
            console.say(f"{event.job} {event.kind}{more}")


def _parameter(text: str) -> tuple[str, Parameter]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"slurm_options={text!r} is not a parameter; write name=value, e.g. timeout_min=1440")
    if re.fullmatch(r"-?\d+(\.\d+)?", value):
        return name, float(value) if "." in value else int(value)
    return name, value
