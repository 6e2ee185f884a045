"""A grid of runs: arms x budgets x seeds on one data set, all scored the same way, one row of results for each.

A comparison that was stopped goes on where it stood, and a result that was recorded for the same plan and the same
scoring is taken as it is. Everything that can be refused is refused before any work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, Generic, TypeVar

from oneblock.cpus import threads_each
from oneblock.experiment.base import AnyRecipe, Case, Cell, Contender, Experiment, Known
from oneblock.experiment.curves import curve_summaries
from oneblock.experiment.results import copied, record, recorded
from oneblock.experiment.summary import Row, Scores, summaries
from oneblock.plan import Plan, write_plan
from oneblock.presets.base import Recipe, parse_count
from oneblock.presets.cost import training_peak
from oneblock.presets.data import Data
from oneblock.presets.names import without_names
from oneblock.presets.resume import former_name, former_plan
from oneblock.presets.run import start_run
from oneblock.presets.tasks import block_parameters
from oneblock.train.checkpoint import checkpoints, job_folder
from oneblock.train.drive import BARS, Watch, drive
from oneblock.train.loop import Run
from oneblock.train.machine import HERE, Machine
from oneblock.train.session import in_session
from oneblock.train.strategy import job_specs


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results as data.

    Args:
        rows: one for each run, in the order of budgets, seeds and arms (``experiment.summary``).
    """

    task: str
    out: Path
    rows: list[Row]
    scores: Scores

    @property
    def summaries(self) -> list[Row]:
        """Means and spreads over the seeds; one row per arm and budget."""
        return summaries(self.rows, self.scores)

    @property
    def curves(self) -> list[Row]:
        """Quality against sampling work over the seeds (``experiment.curves``), if it was asked for."""
        return curve_summaries(self.rows)


@dataclass(frozen=True, kw_only=True)
class Grid(Generic[AnyRecipe, Known]):
    """The runs of a comparison (``compare``)."""

    experiment: Experiment[AnyRecipe, Known]
    recipe: AnyRecipe
    data: Data | None
    held_out: Data | None
    out: Path
    machine: Machine = HERE
    watch: Watch = BARS
    cells: Sequence[Cell] = field(default=())

    def open(self) -> Known:
        """The data, under the name that they have in runs which are there already."""
        known: Any = self.experiment.open(self.recipe, self.data, self.held_out)
        name = former_name(self.out, known.facts.fingerprint)
        found: Known = known if name is None else replace(known, facts=replace(known.facts, data=name))
        return found

    def plans(self, cell: Cell, known: Known) -> list[Plan]:
        """The plans of one run. All arms hold the learning rate for the share of their steps that the branched one
        spends on its trunk."""
        recipe = self.recipe
        recipe = replace(recipe, budget=cell.budget, seed=cell.seed, hold=recipe.hold or recipe.branch)
        arm = self.experiment.arms[cell.arm]
        found = arm.plans(self.experiment.fitted(recipe, known), known.facts)
        if arm.rival is not None:  # it knows no names of classes
            return [without_names(plan) for plan in found]
        runs = places(self.out / cell.name, len(found))
        return [former_plan(plan, place) for plan, place in zip(found, runs, strict=True)]

    def contender(self, cell: Cell, plans: Sequence[Plan]) -> Contender[Known] | None:
        """The rival of a run; None if its plans say how it is trained."""
        rival = self.experiment.arms[cell.arm].rival
        return None if rival is None else rival(self.experiment, plans[0])

    def check(self, known: Known) -> dict[Cell, list[Plan]]:
        """Refuse bad settings before any work; the plans of every run."""
        for arm in dict.fromkeys(cell.arm for cell in self.cells):
            if self.experiment.arms[arm].branched and not self.recipe.branch:
                raise ValueError(f"arm {arm!r} needs --branch above 0, e.g. 0.5; or leave it out of --arms")
        found: dict[Cell, list[Plan]] = {}
        for cell in self.cells:
            found[cell] = self.plans(cell, known)
            for plan in found[cell]:
                job_specs(plan)
            contender = self.contender(cell, found[cell])
            if contender is not None:
                contender.check(known, self.machine)
        self.experiment.check(found, known)
        return found

    def row(self, cell: Cell, plans: Sequence[Plan], known: Known) -> Row:
        """Train, score and record one run, unless that has been done."""
        asked, directory = self.experiment.asked(cell.arm, plans), self.out / cell.name
        found = recorded(directory, cell.arm, asked)
        if found is not None:
            return found
        watch = replace(self.watch, label=cell.name)
        case = Case(cell=cell, plans=plans, known=known, directory=directory, machine=self.machine, watch=watch)
        contender = self.contender(cell, plans)
        if contender is not None:
            return record(directory, {**contender.row(case), **asked})
        runs, row = train_plans(case)
        return record(directory, {**row, **asked, **self.experiment.score(case, runs)})

    def twins(self, plans: Mapping[Cell, Sequence[Plan]]) -> dict[Cell, Cell]:
        """Runs whose result another run gives: two arms with the same plans and scoring are the same run."""
        first: dict[str, Cell] = {}
        found: dict[Cell, Cell] = {}
        for cell, several in plans.items():
            if self.contender(cell, several) is None:
                key = repr(([plan.hash for plan in several], self.experiment.asked(cell.arm, several)))
                if key in first:
                    found[cell] = first[key]
                first.setdefault(key, cell)
        return found

    def run(self, workers: int) -> Iterator[tuple[Cell, Row]]:
        """Every run as it is finished."""
        known = self.open()
        plans = self.check(known)
        with in_session(self.out, {"task": self.experiment.task, "runs": [cell.name for cell in self.cells]}):
            yield from self._run(plans, known, workers)

    def _run(self, plans: Mapping[Cell, Sequence[Plan]], known: Known, workers: int) -> Iterator[tuple[Cell, Row]]:
        twins = self.twins(plans)
        alone = {cell: several for cell, several in plans.items() if cell not in twins}
        if workers == 1:
            rows: Iterator[tuple[Cell, Row]] = (
                (cell, self.row(cell, several, known)) for cell, several in alone.items()
            )
        else:
            rows = self._run_apart(alone, workers)
        for cell, row in rows:
            yield cell, row
            for twin in (twin for twin, first in twins.items() if first == cell):
                yield twin, self._copied(twin, cell, plans[twin], row)

    def _copied(self, twin: Cell, first: Cell, plans: Sequence[Plan], row: Row) -> Row:
        directory = self.out / twin.name
        found = recorded(directory, twin.arm, self.experiment.asked(twin.arm, plans))
        if found is not None:
            return found
        for plan, place in zip(plans, places(directory, len(plans)), strict=True):
            write_plan(plan, place)
        copied(self.out / first.name, directory)
        return record(directory, {**row, "arm": twin.arm})

    def _run_apart(self, plans: Mapping[Cell, Sequence[Plan]], workers: int) -> Iterator[tuple[Cell, Row]]:
        """Runs at the same time, each in a process with its share of the CPU threads."""
        threads = self.machine.threads or threads_each(workers)
        quiet = replace(self, watch=Watch(bars=False), machine=replace(self.machine, threads=threads))
        yield from finished_apart(
            workers, {cell: (_row, cell, several) for cell, several in plans.items()}, _enter, quiet
        )


Key = TypeVar("Key")


def finished_apart(
    workers: int, calls: Mapping[Key, tuple[Any, ...]], enter: Callable[[Any], None], given: Any
) -> Iterator[tuple[Key, Any]]:
    """What calls return that are made at the same time in processes of their own, as they end.

    Args:
        calls: by any name a function and its arguments.
        enter: called in each process first, with ``given``.
    """
    with ProcessPoolExecutor(workers, get_context("spawn"), enter, (given,)) as pool:
        pending = {pool.submit(*call): key for key, call in calls.items()}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_ENTERED: list[tuple[Grid[Any, Any], Any]] = []
"""In a worker process: the grid that it works for, and its data."""


def _enter(grid: Grid[Any, Any]) -> None:
    """A worker opens the data once."""
    end_with_parent()
    _ENTERED.append((grid, grid.open()))


def end_with_parent() -> None:
    """If the parent of this worker is killed, the worker ends too, instead of training on unseen."""
    parent = parent_process()
    assert parent is not None, "only a worker process has a parent"

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _row(cell: Cell, plans: Sequence[Plan]) -> Row:
    grid, known = _ENTERED[0]
    return grid.row(cell, plans, known)


def cells(recipe: Recipe, arms: Sequence[str], budgets: Sequence[int | str], seeds: int) -> list[Cell]:
    """All runs, in the order of budgets, seeds (``recipe.seed``, the next, ...) and arms. An arm or a budget that is
    named twice is refused: its runs would count as more seeds."""
    _check_once("arms", list(arms), list(arms))
    _check_once("budgets", list(budgets), [parse_count(budget) for budget in budgets])
    numbers = range(recipe.seed, recipe.seed + seeds)
    return [Cell(arm=arm, budget=str(budget), seed=seed) for budget in budgets for seed in numbers for arm in arms]


def _check_once(name: str, named: Sequence[int | str], meant: Sequence[int | str]) -> None:
    """Refuse two of ``named`` that mean the same."""
    first: dict[int | str, int | str] = {}
    for one, key in zip(named, meant, strict=True):
        if key in first:
            same = f"{one!r} is named twice" if first[key] == one else f"{first[key]!r} and {one!r} are the same"
            raise ValueError(f"{name}: {same}; name each once, and use seeds=... for more runs of each")
        first[key] = one


def places(directory: Path, networks: int) -> list[Path]:
    """Directories of the networks of a run; a single network has that of the run."""
    return [directory / f"network-{i}" for i in range(networks)] if networks > 1 else [directory]


def train_plans(case: Case[Any]) -> tuple[list[Run], Row]:
    """Train the networks of a run, those of an ensemble each in a directory of its own; what scoring needs, and what
    every row says of a run."""
    plans, cell = case.plans, case.cell
    found = places(case.directory, len(plans))
    jobs = [job for plan in plans for job in job_specs(plan)]
    fresh = not any(checkpoints(job_folder(place, job.name)) for place in found for job in jobs)
    start = [(plan, place) for plan, place in zip(plans, found, strict=True)]
    runs = [start_run(plan, place, case.known.train, case.machine, warn=case.watch.warn) for plan, place in start]
    seconds = sum(drive(run, watch=case.watch) for run in runs)
    return runs, {
        "arm": cell.arm,
        "seed": cell.seed,
        "layers": [layers for plan in plans for layers in plan.layers],
        "parameters": sum(map(_parameters, plans)),
        "layer_evaluations": sum(job.evaluations for job in jobs),
        "train_seconds": seconds if fresh else None,
        "peak_bytes": training_peak(plans[0], case.machine.checkpointing).total,
        "peak_bytes_checkpointing": training_peak(plans[0], True).total,
    }


def _parameters(plan: Plan) -> int:
    """Of all blocks; they are not built."""
    of_block = block_parameters(plan)
    assert of_block is not None, "arms have no network of the user's own"
    return sum(p.numel() for block in range(plan.num_blocks) for p in of_block(block).values())
