"""Blocks that share trained parts: a plan may ask for it, and then blocks do talk to each other.

Stem and head are shared: everything that is not a layer. ``"synced"``: every block trains its own, and every k steps
all take the mean of their weights (local SGD: Stich, Algorithm 1, https://arxiv.org/abs/1805.09767); in one process,
or in one for each block, joined by torch.distributed. ``"joint"``: there is one stem and one head, which the blocks
train in turn, a step each, with their moments and average (as in the code of DiffusionBlocks,
https://arxiv.org/abs/2506.14202); in one process. Both start from the stem and head of block 0. All blocks are at the
same step, so a run goes on from the newest step that all of them have saved.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from oneblock.optim.adamw import state_tensors
from oneblock.plan import Shared
from oneblock.projection import PROJECTION
from oneblock.train.block import BlockLearner
from oneblock.train.checkpoint import (
    CheckpointError,
    checkpoint_path,
    checkpoint_step,
    checkpoints,
    job_folder,
    latest,
    set_aside,
)
from oneblock.train.loop import BlockJob, Run
from oneblock.train.parallel import any_process
from oneblock.train.step import JobSpec, StepReport
from oneblock.train.stop import asked

Done = TypeVar("Done")


def train_together(
    run: Run, specs: Sequence[JobSpec], start: Path | None = None, apart: bool = False
) -> Generator[StepReport, None, None]:
    """Train the jobs of a plan that shares stem and head, step by step; yields after every step of every job.

    Args:
        specs: all blocks of the plan, or with ``apart`` the one of this process.
        start: directory of the job that they start as copies of.
        apart: every block has a process of its own, which has joined the others' process group as rank ``block``.

    Closing the generator saves all blocks at the step where they stand, unless they are apart: then they stop where
    they meet, with a checkpoint, once a signal has asked one of them (``train.stop``).

    Raises:
        ValueError: the blocks' checkpoints have no step in common.
    """
    every = cast(int, run.plan.recipe["sync_every"])
    if apart and run.keep < 2:
        raise ValueError(
            f"keep={run.keep}: blocks in processes of their own may be one checkpoint apart; keep 2 or more"
        )
    jobs = [BlockJob(run, spec, start) for spec in specs]
    with ExitStack() as locks:
        for job in jobs:
            locks.enter_context(job.lock())
            locks.callback(job.release)
        _restore(run, jobs, apart)
        at = jobs[0].step
        try:
            while at < specs[0].last_step:
                reports = take_turns([job.learner for job in jobs], [job.advance for job in jobs], run.plan.shared)
                at += 1
                if run.plan.shared == "synced" and at % every == 0:
                    average([job.learner for job in jobs], apart)
                if at % run.save_every == 0 or at == specs[0].last_step:
                    for job in jobs:
                        job.save()
                yield from (report for each in reports for report in each)
                if apart and at % every == 0 and any_process(asked()):
                    for job in jobs:
                        job.save()
                    raise KeyboardInterrupt
        except GeneratorExit:
            if not apart:
                for job in jobs:
                    job.save()
            raise


def take_turns(learners: Sequence[BlockLearner], steps: Iterable[Callable[[], Done]], shared: Shared) -> list[Done]:
    """One step of every block, in order; jointly trained parts go from each to the next, and at the end to all.

    Args:
        steps: of each of ``learners``; what they give is returned.
    """
    done = []
    for i, step in enumerate(steps):
        if shared == "joint" and i:
            _hand_over(learners[i - 1], learners[i])
        done.append(step())
    if shared == "joint":
        for learner in learners[:-1]:
            _hand_over(learners[-1], learner)
    return done


@torch.no_grad()
def _hand_over(source: BlockLearner, target: BlockLearner) -> None:
    """Copy stem and head, their averages and moments."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, p in _shared(target).items():
        given = source.weights[name]
        pairs += [(p, given), (target.averages[name], source.averages[name])]
        theirs, ours = state_tensors(source.optimizer, given), state_tensors(target.optimizer, p)
        if theirs.keys() == ours.keys():
            pairs += [(ours[key], t) for key, t in theirs.items()]
        else:  # one of them has not had a gradient yet
            moments = source.optimizer.state.get(given, {})
            target.optimizer.state[p] = {key: t.clone() for key, t in moments.items()}
    torch._foreach_copy_([into for into, _ in pairs], [given for _, given in pairs])


@torch.no_grad()
def average(learners: Sequence[BlockLearner], apart: bool = False) -> None:
    """Stem and head of all blocks become their mean; with ``apart`` over the processes of the group, a block each."""
    parts = [_shared(learner) for learner in learners]
    for name, first in parts[0].items():
        if apart:
            dist.all_reduce(first)
            first /= dist.get_world_size()
        else:
            mean = torch.stack([part[name] for part in parts]).mean(0)
            for part in parts:
                part[name].copy_(mean)


def _shared(learner: BlockLearner) -> dict[str, Tensor]:
    return {name: p for name, p in learner.weights.items() if not name.startswith(("layers.", PROJECTION))}


def _restore(run: Run, jobs: Sequence[BlockJob], apart: bool) -> None:
    step = _common_step(run, [job.spec for job in jobs], apart)
    for job in jobs:
        job.restore(step)
        learner, first_step = job.learner, job.spec.first_step
        if step is None and job.start is None:
            _begin_as_block_0(run, learner)
        if run.plan.shared == "joint":
            own = learner.step - first_step
            for p in _shared(learner).values():
                if p in learner.optimizer.state:  # moved by every block since the blocks began
                    learner.optimizer.state[p]["step"].fill_(first_step + own * len(jobs))


@torch.no_grad()
def _begin_as_block_0(run: Run, learner: BlockLearner) -> None:
    first = dict(run.blockwise.denoiser(0).backbone.named_parameters())
    for name, p in _shared(learner).items():
        p.copy_(first[name])
        learner.averages[name].copy_(first[name])


def _common_step(run: Run, specs: Sequence[JobSpec], apart: bool) -> int | None:
    """The newest step of which every block has an intact checkpoint; None when no block has one."""
    found = [_intact_steps(run, spec) for spec in specs]
    if apart:
        gathered: list[list[set[int]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, found)
        found = [steps for theirs in gathered for steps in theirs]
    common = set.intersection(*found)
    if not common and any(found):
        raise ValueError(
            f"the blocks in {run.directory} have no step in common (they have {', '.join(map(_listed, found))}); "
            "restore the checkpoints of one step, or delete all block directories to start again"
        )
    return max(common, default=None)


def _intact_steps(run: Run, spec: JobSpec) -> set[int]:
    directory = job_folder(run.directory, spec.name)
    latest(directory, run.plan.hash)  # refuses those of another plan
    steps = set()
    for step in map(checkpoint_step, checkpoints(directory)):
        try:
            latest(directory, run.plan.hash, step)
        except CheckpointError as error:
            run.warn(str(error))
            set_aside(checkpoint_path(directory, step))
        else:
            steps.add(step)
    return steps


def _listed(steps: Iterable[int]) -> str:
    return "/".join(map(str, sorted(steps))) or "none"
