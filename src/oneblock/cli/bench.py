"""``oneblock bench``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import tyro

from oneblock.cli import console
from oneblock.experiment.bench import METHODS, TASKS, BenchExperiment, Benchmark, Task, bench
from oneblock.experiment.compare import SEEDS, WORKERS
from oneblock.presets.image import ImageRecipe
from oneblock.report.bench import report
from oneblock.train.machine import Machine

if TYPE_CHECKING:
    Method: TypeAlias = str
else:
    from typing import Literal

    Method = Literal[tuple(METHODS)]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Train methods of image generation on two tasks, told classes and told captions, and compare the rankings.

    All methods have one recipe: `edm`, `flow`, `flow-shifted` and `x` are the whole network with another objective,
    `ddt` with another head, `pca` on principal components of patches, `meanflow` trained for steps of any length (and
    sampled as the others are); `shallow` is a network of a block's depth with the whole budget; `blockwise` trains
    blocks alone, `branched` from a common trunk (--branch), `flow-branched` these as flows. Samples are scored without
    guidance and with one scale of it for all (--guided): by their Frechet distance where classes are told, by a checker
    of every attribute where captions are. Correlations of the two rankings have intervals over the methods. A benchmark
    that was stopped goes on with the same command.
    """

    out: Path
    """directory of the benchmark"""
    methods: tuple[Method, ...] = tuple(METHODS)
    """which methods to train"""
    tasks: tuple[Task, ...] = tuple(TASKS)
    """digits with their classes, drawn scenes with captions"""
    seeds: int = SEEDS
    """runs of each method on each task, with seeds --seed, --seed + 1, ..."""
    workers: int = WORKERS
    """runs at the same time, each in a process of its own with its share of the CPU threads"""
    json: bool = False
    """print one JSON object instead of tables"""
    model: ImageRecipe = field(default_factory=lambda: BenchExperiment().usual)
    scoring: Annotated[BenchExperiment, tyro.conf.arg(name="")] = field(default_factory=BenchExperiment)
    machine: Machine = field(default_factory=Machine)

    def run(self) -> None:
        found = bench(
            out=self.out,
            methods=self.methods,
            tasks=self.tasks,
            recipe=self.model,
            experiment=self.scoring,
            seeds=self.seeds,
            workers=self.workers,
            machine=self.machine,
            watch=replace(console.watch(self.json), row=None),
            told=console.teller(self.json),
        )
        _show(found, self.json)


def _show(found: Benchmark, json: bool) -> None:
    if json:
        console.emit({task: {"runs": one.rows, "summary": one.summaries} for task, one in found.tasks.items()})
        return
    console.report(report(found))
    console.say(f"one page of all of it: oneblock report {found.out}")
