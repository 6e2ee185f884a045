"""What comparisons have in common: arms, budgets and seeds make runs, and every run one row of results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, Generic, TypeVar

from oneblock.cli import console
from oneblock.cli.options import MachineOptions, ModelOptions, parse_count
from oneblock.cli.train import start_run, train
from oneblock.data import Batches
from oneblock.plan import Plan
from oneblock.presets import plan_augment, plan_budget, plan_optimizer, training_peak
from oneblock.rivals import Rival, RivalSettings, train_rival
from oneblock.train.checkpoint import checkpoints
from oneblock.train.loop import Run
from oneblock.train.record import Recorder
from oneblock.train.strategy import job_specs

Row = dict[str, Any]
Data = TypeVar("Data")
Samples = TypeVar("Samples", bound=Batches)
AnyModel = TypeVar("AnyModel", bound=ModelOptions)
RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a comparison."""

    arm: str
    budget: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.budget}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Comparison(Generic[Data]):
    """Options of every comparison; a verb says which arms there are, on which data, and what a run is."""

    arms: tuple[str, ...]
    model: ModelOptions

    out: Path
    """directory of the comparison"""
    seeds: int = 3
    """runs per arm, with seeds --seed, --seed + 1, ..."""
    budgets: str = ""
    """several budgets with commas, e.g. 200k,800k: shows where the arms' curves cross (default: --budget alone)"""
    workers: int = 1
    """runs at the same time, each in a process of its own with its share of the CPU threads"""
    json: bool = False
    """print one JSON object instead of tables"""
    machine: MachineOptions = field(default_factory=MachineOptions)

    def run(self) -> None:
        rows = compare(self)
        shown, pictures = self.summaries(rows), self.draw(rows)
        if self.json:
            console.emit({"runs": rows, "summary": shown, "pictures": [str(path) for path in pictures]})
            return
        self.report(rows)
        for path in pictures:
            console.say(f"picture: {path}")

    def check(self, cells: Sequence[Cell], data: Data) -> None:
        """Refuse bad options before any work."""
        branched = [arm for arm in self.arms if arm.startswith("branched")]
        if branched and not self.model.branch:
            raise ValueError(f"arm {branched[0]!r} needs --branch above 0, e.g. 0.5; or leave it out of --arms")
        for cell in cells:
            for plan in self.plans(cell, data):
                job_specs(plan, plan_budget(plan))

    def open(self) -> Data:
        """The training data."""
        raise NotImplementedError

    def plans(self, cell: Cell, data: Data) -> list[Plan]:
        """The plans of one run: a single one, or one for each network of an ensemble, which differ in their seeds."""
        raise NotImplementedError

    def summaries(self, rows: Sequence[Row]) -> list[Row]:
        """Means and spreads over the seeds."""
        raise NotImplementedError

    def report(self, rows: Sequence[Row]) -> None:
        """Print tables."""
        raise NotImplementedError

    def draw(self, rows: Sequence[Row]) -> list[Path]:
        """Write pictures."""
        raise NotImplementedError

    def row(self, cell: Cell) -> Row:
        """Train, score and record one run."""
        raise NotImplementedError

    def line(self, row: Row) -> str:
        """The scores of a run in a few words."""
        raise NotImplementedError


def compare(options: Comparison[Data]) -> list[Row]:
    """Train and score every run that has no result yet; all results, in the order of budgets, seeds and arms."""
    cells = _cells(options)
    options.check(cells, options.open())
    done: dict[Cell, Row] = {}
    for cell, row in _run_all(options, cells):
        done[cell] = row
        console.say(f"{len(done)}/{len(cells)} {cell.name}: {options.line(row)}", options.json)
    return [{**done[cell], "budget": cell.budget, "run": cell.name} for cell in cells]


def cell_model(model: AnyModel, cell: Cell) -> AnyModel:
    """``model`` with the budget and the seed of a run. Every arm holds the learning rate as long as the branched one
    trains its seed block, which no other has."""
    branch = model.branch if cell.arm == "branched" else 0.0
    return replace(model, budget=cell.budget, seed=cell.seed, hold=model.hold or model.branch, branch=branch)


def _cells(options: Comparison[Data]) -> list[Cell]:
    if options.seeds < 1 or options.workers < 1 or not options.arms:
        raise ValueError(
            f"seeds={options.seeds}, workers={options.workers}, arms={options.arms}: use at least one of each"
        )
    budgets = [b.strip() for b in options.budgets.split(",") if b.strip()] or [options.model.budget]
    for budget in budgets:
        parse_count(budget)
    seeds = range(options.model.seed, options.model.seed + options.seeds)
    return [Cell(arm=arm, budget=budget, seed=seed) for budget in budgets for seed in seeds for arm in options.arms]


def _run_all(options: Comparison[Data], cells: Sequence[Cell]) -> Iterator[tuple[Cell, Row]]:
    if options.workers == 1:
        for cell in cells:
            yield cell, options.row(cell)
        return
    threads = options.machine.threads or max(1, (os.cpu_count() or 1) // options.workers)
    quiet = replace(options, json=True, machine=replace(options.machine, threads=threads))
    context = get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context, initializer=_end_with_parent) as pool:
        pending = {pool.submit(_row, quiet, cell): cell for cell in cells}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _row(options: Comparison[Data], cell: Cell) -> Row:
    return options.row(cell)


def _end_with_parent() -> None:
    """A worker whose parent was killed would train on unseen; end it too."""
    parent = parent_process()
    assert parent is not None, "only a worker process has a parent"

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def train_cell(options: Comparison[Data], cell: Cell, plans: Sequence[Plan], source: Batches) -> tuple[list[Run], Row]:
    """Train one run, each network of an ensemble in a directory of its own; what it needs, and what every row says of
    it."""
    directory = options.out / cell.name
    places = [directory / f"network-{i}" for i in range(len(plans))] if len(plans) > 1 else [directory]
    jobs = [job for plan in plans for job in job_specs(plan, plan_budget(plan))]
    fresh = not any(checkpoints(place / job.name) for place in places for job in jobs)
    runs = [start_run(plan, place, source, options.machine) for plan, place in zip(plans, places, strict=True)]
    seconds = sum(train(run, None, label=cell.name, quiet=options.json) for run in runs)
    blocks = [run.blockwise.denoiser(b) for run in runs for b in range(run.plan.num_blocks)]
    return runs, {
        "arm": cell.arm,
        "seed": cell.seed,
        "layers": [layers for plan in plans for layers in plan.layers],
        "parameters": sum(p.numel() for block in blocks for p in block.backbone.parameters()),
        "layer_evaluations": sum(job.evaluations for job in jobs),
        "train_seconds": seconds if fresh else None,
        "peak_bytes": training_peak(plans[0], options.machine.checkpointing).total,
        "peak_bytes_checkpointing": training_peak(plans[0], True).total,
    }


def rival_settings(plan: Plan, device: str) -> RivalSettings:
    """The budget, batch and rates of ``plan`` for a rival."""
    budget, optimizer = plan_budget(plan), plan_optimizer(plan)
    return RivalSettings(
        budget=budget.layer_evaluations,
        batch_size=budget.batch_size,
        optimizer=replace(optimizer, accumulate=1),  # micro-batches change memory, not what is learned
        warmup=budget.warmup,
        hold=budget.hold,
        seed=plan.seed,
        device=device,
    )


def train_rival_cell(
    options: Comparison[Any], cell: Cell, plan: Plan, rival: Rival[Samples], source: Samples, settings: RivalSettings
) -> Row:
    """Train a rival in its run's directory, from where that stands; its work, and the seconds if it began here."""
    directory, machine, augment = options.out / cell.name, options.machine, plan_augment(plan)
    stages = rival.stages(source, settings, augment is not None)
    fresh = not any(checkpoints(directory / stage.part) for stage in stages)
    reports = train_rival(
        rival,
        source,
        settings,
        directory,
        augment,
        fingerprint=plan.hash,
        save_every=machine.save_every,
        keep=machine.keep,
        warn=lambda message: console.say(f"oneblock: {message}; going on from an earlier checkpoint"),
    )
    began = time.perf_counter()
    recorder = Recorder(directory)
    with closing(reports):
        try:
            for report in reports:
                recorder.add(report)
        except BaseException as error:
            recorder.close(error)
            raise
    return {
        "layer_evaluations": sum(sum(stage.costs) for stage in stages),
        "train_seconds": time.perf_counter() - began if fresh else None,
    }


def recorded(directory: Path, asked: Row) -> Row | None:
    """The result of the run at ``directory``, if there is one that was made as ``asked``."""
    found = directory / RESULT_FILE
    if not found.is_file():
        return None
    row: Row = json.loads(found.read_text())
    return row if all(row.get(key) == value for key, value in json.loads(json.dumps(asked)).items()) else None


def record(directory: Path, row: Row) -> Row:
    """Write the result of the run at ``directory``; returns it as it is read back."""
    text = json.dumps(row, indent=2) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    partial = (directory / RESULT_FILE).with_suffix(".partial")
    partial.write_text(text)
    partial.replace(directory / RESULT_FILE)
    plain: Row = json.loads(text)
    return plain
