"""Methods of image generation on two tasks, told classes and told captions: do both rank the methods alike?

Every method is trained on both tasks from one recipe, so that only what the network is told and the data differ, and is
sampled under two protocols: without guidance, and with one scale of guidance for all. After "DiffusionBench: On
Holistic Evaluation of Diffusion Transformers", arXiv 2606.24888, whose methods differ in more than that.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from oneblock.backbone import refuse_while_loading
from oneblock.checks import check_choice, check_count, check_number
from oneblock.evaluate.captions import AGREEMENT
from oneblock.evaluate.images import evaluate_samples
from oneblock.experiment import images
from oneblock.experiment.base import Arm, Case
from oneblock.experiment.compare import SEEDS, WORKERS, finished, planned_grid
from oneblock.experiment.data import Pictures
from oneblock.experiment.grid import Comparison
from oneblock.experiment.images import ImageExperiment
from oneblock.experiment.methods import combined
from oneblock.experiment.protocols import GUIDED, score_of_arms
from oneblock.experiment.reopened import Reopened, reopen
from oneblock.experiment.summary import Row, Scores
from oneblock.metrics.ranking import FEWEST, Agreement, Better, agreement
from oneblock.plain import read_plain, write_whole
from oneblock.plan import Plan, differences
from oneblock.presets.door import read_plan
from oneblock.presets.image import ImageRecipe
from oneblock.train.drive import BARS, Watch
from oneblock.train.loop import Run
from oneblock.train.machine import HERE, Machine

Task = Literal["classes", "captions"]
Guidance = Literal["none", "guided"]
BENCH_FILE = "bench.json"
"""Of a benchmark: the scale of guidance, and its tasks."""
GUIDANCES: tuple[Guidance, ...] = ("none", "guided")
SCALE = 2.0
"""Of the guidance of all methods under the second protocol."""
SAMPLES = 1000
"""Fewer than in a comparison of images: every method is sampled four times."""
ATTRIBUTES = ("number", "colours", "shapes", "relation")
"""Of captions, whose mean is the score."""
SCORE = "caption_score"
WHOLE, BLOCKS = "whole", "by blocks"

METHODS: dict[str, tuple[str, ...]] = {
    "edm": ("end-to-end", "edm"),
    "flow": ("end-to-end", "flow"),
    "flow-shifted": ("end-to-end", "flow-shifted"),
    "x": ("end-to-end", "x"),
    "ddt": ("end-to-end", "ddt"),
    "pca": ("end-to-end", "pca"),
    "meanflow": ("end-to-end", "meanflow"),
    "shallow": ("shallow",),
    "blockwise": ("blockwise",),
    "branched": ("branched",),
    "flow-branched": ("branched", "flow"),
}
"""Name -> what ``methods.combined`` makes it of."""
GROUPS = {name: BLOCKS if {"blockwise", "branched"} & set(made_of) else WHOLE for name, made_of in METHODS.items()}
"""Whether a method trains one network or blocks."""


@dataclass(frozen=True)
class BenchTask:
    """A task: the data that are trained on, and the score of samples that methods are ranked by."""

    data: str
    score: str
    better: Better


TASKS: dict[Task, BenchTask] = {
    "classes": BenchTask("digits", "frechet", "lower"),
    "captions": BenchTask("scenes", SCORE, "higher"),
}


@dataclass(frozen=True, kw_only=True)
class BenchExperiment(ImageExperiment):
    """Image generators by method, each scored with and without guidance."""

    num_samples: int = SAMPLES
    """generated images per run and protocol of guidance (0: losses alone)"""
    guided: float = SCALE
    """scale of guidance under the second protocol, the same for all methods"""

    def __post_init__(self) -> None:
        check_number("guided", self.guided, above=0)
        if self.guided == 1 or self.sampling.guidance != 1:
            raise ValueError(
                f"guided={self.guided} and guidance={self.sampling.guidance}: one protocol is without guidance; use a "
                "guided other than 1, and leave guidance out"
            )

    @property
    def usual(self) -> ImageRecipe:
        return ImageRecipe(size="nano", branch=0.5, budget="300k")

    @property
    def arms(self) -> Mapping[str, Arm[ImageRecipe, ImageExperiment]]:
        return ARMS

    @property
    def scores(self) -> Scores:
        return SCORES

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        return {**super().asked(arm, plans), "guided_by": self.guided}

    def score(self, case: Case[Pictures], runs: Sequence[Run]) -> Row:
        guided = evaluate_samples(
            self._denoiser(runs),
            runs[0].plan,
            case.known.train,
            case.known.test,
            num_samples=self.num_samples,
            extractor=self.extractor,
            sampling=replace(self.sampling, guidance=self.guided),
        )
        return {**_scored(super().score(case, runs)), GUIDED: _scored(guided)}

    def line(self, row: Row) -> str:
        agrees = f", captions {100 * row[SCORE]:.1f} %" if SCORE in row else ""
        return f"{super().line(row)}{agrees}"


def _scored(row: Row) -> Row:
    """With the mean over the attributes of captions, if they were checked."""
    if AGREEMENT not in row:
        return row
    return {
        **row,
        SCORE: _mean(row[AGREEMENT]),
        f"{SCORE}_chance": _mean(row[f"{AGREEMENT}_chance"]),
        f"{SCORE}_real": _mean(row[f"{AGREEMENT}_real"]),
    }


def _mean(shares: Mapping[str, float]) -> float:
    known = [shares[name] for name in ATTRIBUTES if name in shares]
    return sum(known) / len(known)


ARMS: dict[str, Arm[ImageRecipe, ImageExperiment]] = {
    name: Arm(recipes=combined(*made_of), branched="branched" in made_of) for name, made_of in METHODS.items()
}
SCORES = Scores(
    judged={"loss": "lower", "frechet": "lower", SCORE: "higher"},
    spread=(*images.SCORES.spread, SCORE, f"{SCORE}_chance", f"{SCORE}_real"),
    listed="band_losses",
    ours=("blockwise", "branched", "flow-branched"),
    rivals=("edm", "flow", "shallow"),
)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Results, as far as they have come.

    Args:
        guided: the scale of guidance of the second protocol.
        tasks: task -> its comparison, in ``out / task``.
    """

    out: Path
    guided: float
    tasks: Mapping[Task, Comparison]

    def rows(self, task: Task, guidance: Guidance) -> list[Row]:
        """The rows of a task, with the scores of samples under a protocol."""
        rows = self.tasks[task].rows
        return rows if guidance == "none" else [{**row, **row[GUIDED]} for row in rows]

    @property
    def changed(self) -> list[str]:
        """What differs between the plans of the two tasks, of the first method that both have; empty with one task."""
        plans = [self._plan(task) for task in self.tasks]
        return differences(*plans) if len(plans) == len(TASKS) else []

    def _plan(self, task: Task) -> Plan:
        return read_plan(self.out / task / self.tasks[task].rows[0]["run"])

    @cached_property
    def agreements(self) -> dict[tuple[Guidance, Guidance], Agreement]:
        """How far the ranking by classes agrees with that by captions, for each pair of their protocols. Empty with one
        task, or with fewer than ``metrics.ranking.FEWEST`` methods."""
        if len(self.tasks) < len(TASKS) or len({row["arm"] for row in self.tasks["classes"].rows}) < FEWEST:
            return {}
        scores = {
            (task, guidance): score_of_arms(self.rows(task, guidance), TASKS[task].score, TASKS[task].better)
            for task in TASKS
            for guidance in GUIDANCES
        }
        groups = {name: GROUPS[name] for name in scores["classes", "none"].values}
        return {
            (by_class, by_caption): agreement(scores["classes", by_class], scores["captions", by_caption], groups)
            for by_class in GUIDANCES
            for by_caption in GUIDANCES
        }


def bench(
    *,
    out: str | Path,
    methods: Sequence[str] = (),
    tasks: Sequence[Task] = (),
    recipe: ImageRecipe | None = None,
    experiment: BenchExperiment | None = None,
    seeds: int = SEEDS,
    workers: int = WORKERS,
    machine: Machine = HERE,
    watch: Watch = BARS,
    told: Callable[[str], None] | None = None,
) -> Benchmark:
    """Train every method on every task, and compare the rankings. The same call goes on where it was stopped.

    Args:
        out: directory of the benchmark, in which every task has a comparison of its own.
        methods: names of ``METHODS``; all of them if none is named.
        tasks: names of ``TASKS``; both if none is named.
        recipe: network, budget, batches and branch of all; None is the usual one of the experiment.
        experiment: how samples are drawn and scored.
        seeds, workers, machine, watch, told: see ``compare``.

    Raises:
        ValueError: see ``compare``; of both tasks before any work.
    """
    refuse_while_loading("bench")
    check_count("workers", workers)
    found = BenchExperiment() if experiment is None else experiment
    chosen = tuple(tasks) or tuple(TASKS)
    for task in chosen:
        check_choice("tasks", task, tuple(TASKS))
    grids = {
        task: planned_grid(
            found,
            out=Path(out) / task,
            data=TASKS[task].data,
            recipe=recipe,
            arms=tuple(methods) or tuple(METHODS),
            seeds=seeds,
            machine=machine,
            watch=watch,
        )
        for task in dict.fromkeys(chosen)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are said again when a task begins
        for grid in grids.values():
            grid.check(grid.open())
    Path(out).mkdir(parents=True, exist_ok=True)
    write_whole(Path(out) / BENCH_FILE, json.dumps({"guided": found.guided, "tasks": chosen}) + "\n")
    done = {task: finished(grid, workers, told) for task, grid in grids.items()}
    return Benchmark(out=Path(out), guided=found.guided, tasks=done)


def reopen_bench(directory: Path) -> tuple[Benchmark, dict[Task, Reopened]]:
    """The benchmark in a directory as far as it has come, and its comparisons; tasks that have not begun are left out.

    Raises:
        ValueError: the directory holds none.
    """
    about = read_plain(directory / BENCH_FILE)
    if not isinstance(about, dict) or not isinstance(about.get("guided"), int | float):
        raise ValueError(f"{directory / BENCH_FILE} is not that of a benchmark; run oneblock bench again")
    tasks = {task: reopen(directory / task) for task in TASKS if (directory / task).is_dir()}
    comparisons = {task: _in_order(found.comparison) for task, found in tasks.items()}
    with_rows = {task: found for task, found in comparisons.items() if found.rows}
    return Benchmark(out=directory, guided=float(about["guided"]), tasks=with_rows), tasks


def _in_order(found: Comparison) -> Comparison:
    """Judged as a benchmark is, the methods of every seed in the order of ``METHODS``."""
    rows = [row for row in found.rows if row["arm"] in METHODS]
    order = sorted(rows, key=lambda row: (row["seed"], list(METHODS).index(row["arm"])))
    return replace(found, rows=order, scores=SCORES)
