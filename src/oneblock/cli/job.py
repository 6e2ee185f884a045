"""``oneblock job``: one block of a planned run, on any machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch
from tyro.conf import Positional

from oneblock.cli import console
from oneblock.cli.options import DataOptions, MachineOptions, check_data
from oneblock.cli.text import plan_text, text_batches
from oneblock.cli.train import Sent, start_run, train
from oneblock.data import Batches, EncodedSource
from oneblock.launch.mirror import Mirror, is_remote
from oneblock.plan import Plan, read_plan
from oneblock.presets import image_shape, is_text
from oneblock.train.parallel import ALONE, Ranks, group_of_blocks, process_group
from oneblock.train.strategy import TRUNK, job_name


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train one block of a run, from its plan, the data and nothing else; the same command goes on after a stop.

    Started by torchrun, its processes share every batch of the block (--parallel).
    """

    run_dir: Positional[str]
    """directory with plan.json, or its fsspec address (s3://..., gs://..., sftp://...)"""
    block: int
    """which block (0 is the noisiest; -1 is the trunk of a branched run)"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """what torchrun's processes share out: the batch alone, or weights, gradients and optimizer states too"""
    scratch: Path | None = None
    """where the copy of a remote directory lies on this machine (default: in the temporary directory)"""
    json: bool = False
    """print one JSON object per row instead of progress"""
    tensorboard: bool = False
    """also write TensorBoard events"""
    data: DataOptions = field(default_factory=lambda: DataOptions(data=""))
    machine: MachineOptions = field(default_factory=MachineOptions)

    def run(self) -> None:
        with self._ranks() as ranks:
            mirror = Mirror(self.run_dir, self.scratch) if is_remote(self.run_dir) else None
            if mirror is not None and os.environ.get("LOCAL_RANK", "0") == "0":
                mirror.pull(job_name(read_plan(mirror.pull()), self.block), TRUNK)
            ranks.wait()
            directory = mirror.local if mirror else Path(self.run_dir)
            plan = read_plan(directory)
            job = job_name(plan, self.block)
            images = plan_source(plan, self.data)
            run = start_run(plan, directory, images, self.machine, ranks)
            sent: Sent | None = mirror.push_if_due if mirror else None
            with self._blocks(plan, ranks):
                seconds = train(run, job, json=self.json, tensorboard=self.tensorboard, sent=sent)
            if mirror is not None and ranks.first:
                mirror.push(job)
        if self.json and ranks.first:
            console.emit({"run": self.run_dir, "job": job, "plan": plan.hash, "seconds": round(seconds, 1)})
        elif ranks.first:
            console.say(f"trained {job} in {seconds:.0f} s")

    @contextmanager
    def _ranks(self) -> Iterator[Ranks]:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            yield ALONE
            return
        with process_group(self.parallel, self._device()) as ranks:
            yield ranks

    def _blocks(self, plan: Plan, ranks: Ranks) -> AbstractContextManager[None]:
        if plan.shared != "synced" or self.block < 0:
            return nullcontext()
        if ranks is not ALONE:
            raise ValueError("torchrun cannot start a block that is synced with others; start it without")
        return group_of_blocks(self.block, plan.num_blocks, self.machine.torch_device())

    def _device(self) -> torch.device:
        device = self.machine.torch_device()
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        return device


def plan_source(plan: Plan, options: DataOptions) -> Batches:
    """The training samples of a plan, wherever they lie here."""
    if is_text(plan):
        return text_batches(plan, plan_text(plan, "train", options.data, options.data_dir))
    return plan_images(plan, options)


def plan_images(plan: Plan, options: DataOptions) -> EncodedSource:
    """The training images of a plan: the data set that it names unless ``options`` names where it lies here.

    Raises:
        ValueError: they are not the images that the plan was made for.
    """
    channels, size, _ = image_shape(plan)
    options = replace(options, data=options.data or cast(str, plan.recipe["data"]))
    if options.autoencoder is None:
        options = replace(options, image_size=options.image_size or size, channels=options.channels or channels)
    images = options.open("train")
    check_data(plan, images)
    return images
