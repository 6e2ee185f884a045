"""Comparisons: blocks and their rivals, trained with the same work and scored the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from oneblock.backbone import refuse_while_loading
from oneblock.checks import check_count, check_fields
from oneblock.experiment.audit import AuditExperiment
from oneblock.experiment.base import Cell, Experiment, usual_arms
from oneblock.experiment.causal import CausalExperiment
from oneblock.experiment.classify import ClassifyExperiment
from oneblock.experiment.evolve import EvolveExperiment
from oneblock.experiment.grid import Comparison, Grid, cells
from oneblock.experiment.images import ImageExperiment
from oneblock.experiment.masked import MaskedExperiment
from oneblock.experiment.protocols import check_protocols
from oneblock.experiment.recurrent import RecurrentExperiment
from oneblock.experiment.summary import Row
from oneblock.experiment.video import VideoExperiment
from oneblock.presets.base import Recipe
from oneblock.presets.data import Data
from oneblock.train.drive import BARS, Watch
from oneblock.train.machine import HERE, Machine

TaskName = Literal["images", "classify", "video", "masked-text", "text", "recurrent-text", "audit", "evolve"]
EXPERIMENTS: dict[str, Callable[[], Experiment[Any, Any]]] = {
    "images": ImageExperiment,
    "classify": ClassifyExperiment,
    "video": VideoExperiment,
    "masked-text": MaskedExperiment,
    "text": CausalExperiment,
    "recurrent-text": RecurrentExperiment,
    "audit": AuditExperiment,
    "evolve": EvolveExperiment,
}
SEEDS = 3
"""Runs per arm and budget."""
WORKERS = 1
"""Runs at the same time."""


def compare(
    experiment: TaskName | Experiment[Any, Any],
    *,
    out: str | Path,
    data: Data | None = None,
    held_out: Data | None = None,
    recipe: Recipe | None = None,
    arms: Sequence[str] = (),
    budgets: Sequence[int | str] = (),
    seeds: int = SEEDS,
    workers: int = WORKERS,
    machine: Machine = HERE,
    watch: Watch = BARS,
    told: Callable[[str], None] | None = None,
) -> Comparison:
    """Train and score every run of arms x budgets x seeds that has no result yet. The same call goes on where it was
    stopped.

    Args:
        experiment: a task with its usual scoring, or an experiment with another: ``ImageExperiment(num_samples=500)``.
        out: directory of the comparison, in which every run has one of its own.
        data: a name, a source or a Dataset (``presets.data``); None is what the task usually trains on.
        held_out: of the same kind, to be scored on; None is the test split of data that have a name.
        recipe: network, budget, batches and branch; None is the usual one of the experiment.
        arms: which ways to train; those that are usual in the experiment if none is named.
        budgets: several show where the arms' curves cross; ``recipe.budget`` if none is named.
        seeds: runs per arm and budget, with ``recipe.seed``, the next, ...
        workers: runs at the same time, each in a process of its own with its share of the CPU threads.
        watch: of training, with a single worker.
        told: called with a line about every run that is finished.

    Raises:
        ValueError: anything that does not fit together, before any work; and, after it, results of an earlier call
            that were scored by another protocol (``experiment.protocols``).
        NonFiniteError: a loss was not finite.
    """
    refuse_while_loading("compare")
    check_count("workers", workers)
    grid = planned_grid(
        _experiment(experiment),
        out=out,
        data=data,
        held_out=held_out,
        recipe=recipe,
        arms=arms,
        budgets=budgets,
        seeds=seeds,
        machine=machine,
        watch=watch,
    )
    return finished(grid, workers, told)


def planned_grid(
    experiment: Experiment[Any, Any],
    *,
    out: str | Path,
    data: Data | None = None,
    held_out: Data | None = None,
    recipe: Recipe | None = None,
    arms: Sequence[str] = (),
    budgets: Sequence[int | str] = (),
    seeds: int = SEEDS,
    machine: Machine = HERE,
    watch: Watch = BARS,
) -> Grid[Any, Any]:
    """The runs of a comparison, none of them begun; arguments and errors as of ``compare``."""
    recipe = experiment.usual if recipe is None else recipe
    _check_choice(experiment, recipe, arms, seeds)
    runs = cells(recipe, tuple(arms) or usual_arms(experiment.arms), tuple(budgets) or (recipe.budget,), seeds)
    return Grid(
        experiment=experiment,
        recipe=recipe,
        data=data,
        held_out=held_out,
        out=Path(out),
        cells=runs,
        machine=machine,
        watch=watch,
    )


def _experiment(experiment: str | Experiment[Any, Any]) -> Experiment[Any, Any]:
    if not isinstance(experiment, str):
        return experiment
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment={experiment!r} is unknown; use one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[experiment]()


def _check_choice(experiment: Experiment[Any, Any], recipe: Recipe, arms: Sequence[str], seeds: int) -> None:
    """Refuse what is not of the experiment, and numbers of nothing."""
    if not isinstance(recipe, type(experiment.usual)):
        raise ValueError(
            f"recipe is a {type(recipe).__name__}; comparing {experiment.task} takes a "
            f"{type(experiment.usual).__name__}"
        )
    check_count("seeds", seeds)
    unknown = [arm for arm in arms if arm not in experiment.arms]
    if unknown:
        raise ValueError(f"arm {unknown[0]!r} does not exist; use some of {', '.join(experiment.arms)}")
    if type(experiment) in EXPERIMENTS.values():
        check_fields(experiment)


def finished(grid: Grid[Any, Any], workers: int, told: Callable[[str], None] | None) -> Comparison:
    """The comparison, once every run of the grid is done; rows of different protocols are a ``ValueError``."""
    experiment, runs = grid.experiment, grid.cells
    done: dict[Cell, Row] = {}
    for cell, row in grid.run(workers):
        done[cell] = row
        if told is not None:
            told(f"{len(done)}/{len(runs)} {cell.name}: {experiment.line(row)}")
    rows = [{**done[cell], "budget": cell.budget, "run": cell.name} for cell in runs]
    check_protocols(rows)
    return Comparison(task=experiment.task, out=grid.out, rows=rows, scores=experiment.scores)
