"""``oneblock job``: one block of a planned run, on any machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.data import ImageData
from oneblock.job import run_job
from oneblock.presets.tasks import load_backbone
from oneblock.train.machine import Machine
from oneblock.train.parallel import Kind


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train one block of a run, from its plan, the data and nothing else; the same command goes on after a stop.

    Started by torchrun, its processes share every batch of the block (--parallel).
    """

    run_dir: Positional[str]
    """directory with plan.json, or its fsspec address (s3://..., gs://..., sftp://...)"""
    block: str
    """which block (0 is the noisiest; trunk, or -1, is the one that a branched run trains first)"""
    parallel: Kind = "ddp"
    """what torchrun's processes share out: the batch alone, or weights, gradients and optimizer states too"""
    scratch: Path | None = None
    """where the copy of a remote directory lies on this machine (default: in the temporary directory)"""
    backbone: str = ""
    """module:Class of the network, for a run that trains your own"""
    accept_data: bool = False
    """go on though the data have changed since the plan was made, with a note in the run's record"""
    json: bool = False
    """print one JSON object per row instead of progress"""
    tensorboard: bool = False
    """also write TensorBoard events"""
    data: ImageData = field(default_factory=lambda: ImageData(data=""))
    machine: Machine = field(default_factory=Machine)

    def run(self) -> None:
        done = run_job(
            self.run_dir,
            self.block,
            data=self.data,
            parallel=self.parallel,
            scratch=self.scratch,
            machine=self.machine,
            accept_data=self.accept_data,
            backbone=load_backbone(self.backbone) if self.backbone else None,
            watch=console.watch(self.json, self.tensorboard),
        )
        if self.json and done.first:
            more = {"exchanged": done.exchanged} if done.exchanged else {}
            console.emit(
                {"run": done.run, "job": done.job, "plan": done.plan, "seconds": round(done.seconds, 1), **more}
            )
        elif done.first:
            sent = f"; each process sent {done.exchanged} bytes of fitness in a step" if done.exchanged else ""
            console.say(f"trained {done.job} in {done.seconds:.0f} s{sent}")
