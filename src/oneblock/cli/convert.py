"""``oneblock convert``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.data import ImageData
from oneblock.launch.mirror import is_remote, send_plan
from oneblock.presets.conversion import Conversion, converting, train_converted
from oneblock.presets.places import plan_record
from oneblock.presets.run import make_plan
from oneblock.train.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Train on a network of another library, as blocks, experts or specialists for bands of noise.

    The network comes from this machine's disk, from its configuration and its safetensors; nothing is fetched and no
    code that lies there is run. The run keeps a copy of it. The same command resumes a run that was stopped.
    """

    source: Positional[str]
    """transformers:DIR, diffusers:DIR (of a model or a pipeline), timm:DIR, or timm:NAME for fresh weights"""
    out: str
    """directory of the run; with --strategy plan-only also an fsspec address (s3://..., gs://..., sftp://...)"""
    strategy: Literal["all", "one-block", "plan-only"] = "all"
    """all blocks in this process; one of them; or write the plan and train nothing (for `oneblock job` and
    `oneblock launch`)"""
    block: str | None = None
    """which block to train with --strategy one-block (0 is the noisiest)"""
    accept_data: bool = False
    """go on with a run though its data have changed, with a note in the run's record"""
    json: bool = False
    """print one JSON object per row instead of progress"""
    tensorboard: bool = False
    """also write TensorBoard events"""
    conversion: Conversion = field(default_factory=Conversion)
    data: ImageData = field(default_factory=lambda: ImageData(data=""))
    machine: Machine = field(default_factory=Machine)

    def run(self) -> None:
        told = console.teller(self.json)
        if is_remote(self.out):
            self._plan_elsewhere()
            return
        done = train_converted(
            self.source,
            self.conversion,
            out=self.out,
            data=self.data,
            strategy=self.strategy,
            block=self.block,
            accept_data=self.accept_data,
            machine=self.machine,
            watch=console.watch(self.json, self.tensorboard),
            told=told,
        )
        if self.strategy == "plan-only":
            console.planned(self.out, done.plan, self.json)
        else:
            console.trained(self.out, done, self.block, self.json, f"oneblock export {self.out} --out DIR")

    def _plan_elsewhere(self) -> None:
        if self.strategy != "plan-only":
            raise ValueError(
                f"out={self.out!r} is not a path; plan with --strategy plan-only, then train with oneblock job"
            )
        found = converting(self.source, self.conversion, self.data, told=console.teller(self.json))
        plan, _ = make_plan(found.recipe, found.data, found.backbone, teacher=found.teacher)
        send_plan(plan, self.out, plan_record(plan, found.data), found.backbone)
        console.planned(self.out, plan, self.json)
