"""Strategies: which jobs of a plan are trained, in which order. Each is a generator of step reports.

End-to-end training is the plan with a single block; there is no second code path for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast, get_args

import torch.distributed as dist

from oneblock.checks import check_choice, check_count, check_fields, check_number
from oneblock.plan import Plan
from oneblock.train.checkpoint import job_folder
from oneblock.train.levels import check_share
from oneblock.train.loop import Idle, Run, train_job
from oneblock.train.shared import train_together
from oneblock.train.step import TRUNK as TRUNK
from oneblock.train.step import JobSpec, OptimizerSettings, StepReport

Reports = Generator[StepReport, None, None]
MOST_STEPS = 999_999_999
"""Of a job: the names of checkpoints have nine digits, by which they are sorted."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much work a plan spends, in layer evaluations (one layer, one sample, forward).

    Args:
        layer_evaluations: of the whole plan; every block gets the same number of steps.
        batch_size: samples per step over the whole noise range: of the trunk, and of a plan with one block.
        block_batch_size: samples per step of a block that owns a band; 0 is ``batch_size`` divided by the number of
            blocks, so that a band sees as many samples per step as it does in a step over the whole range, and the
            same work pays for more steps (docs/log.md: better than equal batches).
        branch: fraction of the budget that trains the trunk on the whole noise range; 0 trains none.
        hold: fraction of a job's steps at constant learning rate, when ``branch`` is 0.
        warmup: fraction of a job's steps of linear warm-up.
    """

    layer_evaluations: int
    batch_size: int
    block_batch_size: int = 0
    branch: float = 0.0
    hold: float = 0.0
    warmup: float = 0.05

    def __post_init__(self) -> None:
        check_fields(self)
        check_count("layer_evaluations", self.layer_evaluations)
        for name in ("branch", "hold", "warmup"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not a fraction; use 0 up to (not including) 1")
        if self.batch_size < 1 or self.block_batch_size < 0:
            raise ValueError(
                f"batch_size={self.batch_size}, block_batch_size={self.block_batch_size} are not batch sizes; use 1 "
                "or more (block_batch_size: 0 for a block's share)"
            )


def plan_budget(plan: Plan) -> Budget:
    """The budget that a plan's recipe holds."""
    return _picked(Budget, plan)


def plan_optimizer(plan: Plan) -> OptimizerSettings:
    """The optimizer settings that a plan's recipe holds."""
    return _picked(OptimizerSettings, plan)


Settings = TypeVar("Settings", Budget, OptimizerSettings)


def _picked(kind: type[Settings], plan: Plan) -> Settings:
    names = list(kind.__dataclass_fields__)
    missing = [name for name in names if name not in plan.recipe]
    if missing:
        raise ValueError(f"the plan's recipe lacks {', '.join(missing)}; restore plan.json from a copy of the run")
    return cast(Callable[..., Settings], kind)(**{name: plan.recipe[name] for name in names})


def job_specs(plan: Plan) -> list[JobSpec]:
    """The jobs of a plan in the order one process would train them: the trunk if there is one, then 0 .. B-1.

    Raises:
        ValueError: when the budget does not pay for a step of each job, branching needs equal blocks, or a block cannot
            draw the share of levels that it should from the whole range.
    """
    budget = plan_budget(plan)
    batch_size = budget.batch_size
    if plan.num_blocks > 1:
        batch_size = budget.block_batch_size or max(1, budget.batch_size // plan.num_blocks)
    trunk_steps = 0
    if budget.branch > 0:
        _check_branch(plan, budget)
        trunk_work = plan.sample_evaluations(plan.layers[0]) * budget.batch_size * plan.step_thirds / 3
        trunk_steps = round(budget.branch * budget.layer_evaluations / trunk_work)
    sample_evaluations = sum(map(plan.sample_evaluations, plan.layers))
    step_work = sample_evaluations * batch_size * plan.step_thirds / 3
    block_steps = round((1.0 - budget.branch) * budget.layer_evaluations / step_work)
    if block_steps < 1 or (budget.branch > 0 and trunk_steps < 1):
        least = math.ceil(step_work)
        passes = "" if plan.step_thirds == 3 else f" x {plan.step_thirds}/3 of a pass"
        raise ValueError(
            f"budget={budget.layer_evaluations} does not pay for one step of every block; use at least "
            f"{least} layer evaluations ({sample_evaluations} for a sample x batch {batch_size}{passes}), more when "
            "branching"
        )
    total = trunk_steps + block_steps
    if total > MOST_STEPS:
        raise ValueError(
            f"layer_evaluations={budget.layer_evaluations} are {total} steps of a block, and steps are counted up to "
            f"{MOST_STEPS}; use a smaller budget or larger batches"
        )
    warmup = max(1, round(budget.warmup * total))
    hold = trunk_steps if trunk_steps else round(budget.hold * total)
    law = plan.partition.law

    def spec(name: str, block: int | None, band: tuple[float, float], first: int, last: int) -> JobSpec:
        layers = plan.layer_range(block or 0)
        return JobSpec(
            name=name,
            block=block,
            layers=layers,
            sample_evaluations=plan.sample_evaluations(len(layers)),
            band=band,
            batch_size=budget.batch_size if block is None else batch_size,
            thirds=plan.step_thirds,
            before=plan.layer_range(block - 1) if plan.in_order and block else range(0),
            first_step=first,
            last_step=last,
            warmup=warmup,
            hold=hold,
        )

    trunk = [spec(TRUNK, None, (law.low, law.high), 0, trunk_steps)] if trunk_steps else []
    blocks = [
        spec(f"block-{b}", b, plan.partition.training_band(b), trunk_steps, total) for b in range(plan.num_blocks)
    ]
    for one in blocks:
        check_share(plan, one)
    return trunk + blocks


def _check_branch(plan: Plan, budget: Budget) -> None:
    if plan.num_blocks == 1:
        raise ValueError(f"branch={budget.branch} needs two blocks or more; use branch=0, or more blocks")
    if len(set(plan.layers)) > 1:
        raise ValueError(
            f"branch={budget.branch} copies one block into all, but layers={plan.layers} are uneven; use equal blocks"
        )


def job_name(plan: Plan, block: int | str) -> str:
    """The job of ``block``: 0 (the noisiest) to B - 1, or ``"trunk"`` (-1), of a branched run; ``ValueError`` for a
    block that the plan does not have."""
    if str(block) in ("-1", TRUNK):
        return TRUNK
    if not str(block).isdecimal():
        raise ValueError(f"block={block!r} does not exist; use 0 (noisiest) to {plan.num_blocks - 1}, or trunk")
    plan.partition.band(int(block))
    return f"block-{int(block)}"


def check_job(plan: Plan, name: str) -> None:
    """Refuse a job that the plan does not have, or that cannot be trained without the others, with a ``ValueError``."""
    names = [spec.name for spec in job_specs(plan)]
    if name not in names:
        raise ValueError(f"job {name!r} does not exist in this plan; use one of {', '.join(names)}")
    apart = plan.shared == "private" or (plan.shared == "synced" and dist.is_initialized())
    if name != TRUNK and not apart:
        raise ValueError(
            f"{name} shares stem and head with the other blocks (shared={plan.shared!r}); train all in one process"
            + (", or all at once with oneblock launch" if plan.shared == "synced" else "")
        )


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Blocks that train in turn in one process, so that all of them advance.

    Args:
        seconds: that a block trains before the next has its turn, and the rest of its step; with 0 it is a step.
        idle: where a block waits for its turn (``train.loop.train_job``).
        clock: seconds that never jump.
    """

    seconds: float = 60.0
    idle: Idle = "host"
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        check_number("turn_seconds", self.seconds, least=0)
        check_choice("idle", self.idle, get_args(Idle))


def check_turns(plan: Plan, turns: Turns | None) -> None:
    """Refuse turns of blocks that take them after every step anyway, or that wait for each other, with a
    ``ValueError``."""
    if turns is not None and plan.in_order:
        raise ValueError(
            "order='turns' lets all blocks advance, but with relay_across=True a block begins when the one before it "
            "has been trained to its end; leave out order, turn_seconds and idle"
        )
    if turns is not None and plan.shared != "private":
        raise ValueError(
            f"order='turns' is for blocks of their own, but these share stem and head (shared={plan.shared!r}): they "
            "take turns after every step, all of them on the device; leave out order, turn_seconds and idle"
        )


def one_block(run: Run, name: str) -> Reports:
    """Train a single job (``"block-2"``, ``"trunk"``) and nothing else.

    Of a plan with ``shared="synced"`` all blocks must be trained at the same time, each in a process that has joined
    the process group of all as rank ``block``.
    """
    check_job(run.plan, name)
    specs = {spec.name: spec for spec in job_specs(run.plan)}
    if name == TRUNK:
        yield from train_job(run, specs[name])
    elif run.plan.shared == "private":
        yield from train_job(run, specs[name], _trunk(run, specs))
    else:
        yield from train_together(run, [specs[name]], _trunk(run, specs), apart=True)


def all_blocks(run: Run, turns: Turns | None = None) -> Reports:
    """Train all jobs in one process; the trunk first and to its end, then each block to its end, or in ``turns``.

    The device holds one block at a time, and so does the process unless blocks wait for their turns. What is learned
    does not depend on the order, and a run may go on in another. Blocks that share trained parts take turns after every
    step, and all stay on the device.
    """
    check_turns(run.plan, turns)
    specs = {spec.name: spec for spec in job_specs(run.plan)}
    if TRUNK in specs:
        yield from train_job(run, specs[TRUNK])
    blocks, trunk = [spec for spec in specs.values() if spec.name != TRUNK], _trunk(run, specs)
    if run.plan.shared != "private":
        yield from train_together(run, blocks, trunk)
    elif turns is None or len(blocks) == 1:
        for spec in blocks:
            yield from train_job(run, spec, trunk)
    else:
        yield from _in_turns(run, blocks, trunk, turns)


class _Turn:
    """Says when the turn that has begun is over."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._end = 0.0
        self.over = False

    def begin(self) -> None:
        self._end = self._turns.clock() + self._turns.seconds
        self.over = False

    def ask(self) -> bool:
        """Whether it is over now."""
        self.over = self._turns.clock() >= self._end
        return self.over


def _in_turns(run: Run, blocks: list[JobSpec], trunk: Path | None, turns: Turns) -> Reports:
    turn = _Turn(turns)
    running = [train_job(run, spec, trunk, turn.ask, turns.idle) for spec in blocks]
    try:
        while running:
            for job in list(running):
                turn.begin()
                for report in job:
                    yield report
                    if turn.over:
                        break
                else:
                    running.remove(job)
    finally:
        for job in running:
            job.close()


def _trunk(run: Run, specs: dict[str, JobSpec]) -> Path | None:
    return job_folder(run.directory, TRUNK) if TRUNK in specs else None
