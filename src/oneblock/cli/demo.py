"""``oneblock demo``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from oneblock.cli import console
from oneblock.experiment.demo import BUDGET, NUM_SAMPLES, ONE_THREAD, demo
from oneblock.report.demo import demo_picture, demo_table
from oneblock.report.picture import check_pictures
from oneblock.train.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small image generator on handwritten digits twice with the same work: whole, and in three blocks.

    The blocks start from one trunk (--branch 0.5 of `oneblock train images`) and are then trained alone, merged into
    one model and sampled. A demo that was stopped goes on with the same command; a finished one is shown again.
    """

    out: Path = Path("runs/demo")
    """directory of the runs, the model and the picture"""
    budget: str = BUDGET
    """work of each of the two, in layer evaluations"""
    num_samples: int = NUM_SAMPLES
    """generated images that the scores are taken on"""
    json: bool = False
    """print one JSON object instead of a table"""
    machine: Machine = field(default_factory=lambda: ONE_THREAD)

    def run(self) -> None:
        check_pictures()
        console.say(f"training both, side by side: a few minutes ({self.out})", self.json)
        told = console.teller(self.json)
        done = demo(self.out, budget=self.budget, num_samples=self.num_samples, machine=self.machine, told=told)
        picture = demo_picture(done)
        if self.json:
            console.emit({"runs": done.comparison.rows, "model": str(done.model), "picture": str(picture)})
            return
        console.table(demo_table(done))
        print(f"model: {done.model}\npicture: {picture}")
