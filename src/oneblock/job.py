"""One job of a planned run, on any machine: from its plan, the data and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from oneblock.backbone import BuildBackbone, refuse_while_loading
from oneblock.launch.mirror import Mirror, is_remote
from oneblock.plan import Plan
from oneblock.presets.data import Data
from oneblock.presets.door import read_plan
from oneblock.presets.run import open_run
from oneblock.presets.teacher import Teacher
from oneblock.train.drive import BARS, Watch, drive
from oneblock.train.evolve import job_update
from oneblock.train.machine import HERE, Machine
from oneblock.train.parallel import ALONE, Kind, Ranks, group_of_blocks, process_group
from oneblock.train.shown import shown
from oneblock.train.strategy import job_name, job_specs


@dataclass(frozen=True, kw_only=True)
class JobDone:
    """A job that has been trained to its end.

    Args:
        run: the run's directory or address; ``plan`` is its hash.
        first: this process speaks for all that trained the block together.
        exchanged: bytes that each of these sent in a step, where they share the members of a population; else 0.
    """

    run: str
    job: str
    plan: str
    seconds: float
    first: bool
    exchanged: int = 0


def run_job(
    run_dir: str | Path,
    block: int | str,
    *,
    data: Data | None = None,
    parallel: Kind = "ddp",
    scratch: Path | None = None,
    machine: Machine = HERE,
    backbone: BuildBackbone | None = None,
    accept_data: bool = False,
    teacher: Teacher | None = None,
    watch: Watch = BARS,
) -> JobDone:
    """Train one block of a planned run to its end; the same call goes on where it was stopped.

    In a process that torchrun has started, its processes share every batch of the block. The blocks of a plan with
    ``shared="synced"`` must be trained at the same time and meet at MASTER_ADDR and MASTER_PORT.

    Args:
        run_dir: directory with plan.json, or its fsspec address: then the job trains in a local copy, which sends what
            is new.
        block: 0 (the noisiest) to B - 1, or ``"trunk"`` (-1), the block that a branched run trains first.
        data: where the data of the plan lie here, or the Dataset itself if they are the user's own.
        parallel: what torchrun's processes share out: the batch alone, or weights, gradients and moments too.
        scratch: where the copy of a remote directory lies; None is in the temporary directory.
        backbone: the user's own network, of a plan that names one.
        accept_data: go on though the data have changed since the plan was made, with a note in the run's record.
        teacher: of a plan that has one (``presets.run.train``).

    Raises:
        ValueError: something does not fit the plan, the data for example, of which the files that differ are named;
            nothing was trained.
        BusyError: another process trains this job.
        NonFiniteError: a loss was not finite.
    """
    refuse_while_loading("run_job")
    with _ranks(parallel, machine) as ranks:
        mirror = Mirror(str(run_dir), scratch) if is_remote(str(run_dir)) else None
        if mirror is not None and os.environ.get("LOCAL_RANK", "0") == "0":
            _fetch(mirror, block)
        ranks.wait()
        directory = mirror.local if mirror else Path(run_dir)
        plan = read_plan(directory)
        job = job_name(plan, block)
        with shown() if watch.bars else nullcontext():
            run = open_run(plan, directory, data, machine, ranks, backbone, watch.warn, accept_data, teacher)
        if mirror is not None:
            watch = replace(watch, sent=_both(mirror.push_if_due, watch.sent))
        with _blocks(plan, job, ranks, run.device):
            seconds = drive(run, job, watch=watch)
        update = job_update(plan, next(spec for spec in job_specs(plan) if spec.name == job), ranks)
        if mirror is not None and ranks.first:
            mirror.push(job)
    exchanged = 0 if update is None else update.exchanged
    return JobDone(run=str(run_dir), job=job, plan=plan.hash, seconds=seconds, first=ranks.first, exchanged=exchanged)


def _fetch(mirror: Mirror, block: int | str) -> None:
    """What a job needs: its own files, those of the trunk that it may start from, and of the block that must come
    before it."""
    plan = read_plan(mirror.pull())
    mirror.pull_network()
    name = job_name(plan, block)
    mirror.pull(name, *(spec.name for spec in job_specs(plan) if spec.block is None), *_waited_for(plan, name))


def _waited_for(plan: Plan, name: str) -> list[str]:
    """The block that must have been trained before the job ``name``, if there is one."""
    return [f"block-{spec.block - 1}" for spec in job_specs(plan) if spec.name == name and spec.before and spec.block]


Sent = Callable[[str, bool], None]


def _both(push: Sent, other: Sent | None) -> Sent:
    def sent(job: str, last: bool) -> None:
        push(job, last)
        if other is not None:
            other(job, last)

    return sent


@contextmanager
def _ranks(parallel: Kind, machine: Machine) -> Iterator[Ranks]:
    """The processes that torchrun has started; alone without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE
        return
    device = machine.torch_device()
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    with process_group(parallel, device) as ranks:
        yield ranks


def _blocks(plan: Plan, job: str, ranks: Ranks, device: torch.device) -> AbstractContextManager[None]:
    """The processes of all blocks, where those share trained parts."""
    blocks = {spec.name: spec.block for spec in job_specs(plan)}
    block = blocks.get(job)
    if plan.shared != "synced" or block is None:
        return nullcontext()
    if ranks is not ALONE:
        raise ValueError("torchrun cannot start a block that is synced with others; start it without")
    return group_of_blocks(block, plan.num_blocks, device)
