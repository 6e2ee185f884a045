"""``oneblock merge``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.plan import read_plan
from oneblock.presets import plan_budget
from oneblock.train.shards import merge
from oneblock.train.strategy import job_specs


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one model of a run's trained blocks; refuses missing, unfinished, damaged or foreign blocks by name."""

    run_dir: Positional[Path]
    """directory of the run"""
    out: Path | None = None
    """directory of the model (default: model, inside that directory)"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        plan = read_plan(self.run_dir)
        out = merge_run(self.run_dir, self.out or self.run_dir / "model")
        if self.json:
            console.emit({"model": str(out), "blocks": plan.num_blocks, "plan": plan.hash})
        else:
            console.say(f"merged {plan.num_blocks} blocks into {out}; next: oneblock sample {out}")


def merge_run(run_dir: Path, out: Path) -> Path:
    """Merge the blocks of ``run_dir``, all trained to their last step, into ``out``; returns ``out``."""
    plan = read_plan(run_dir)
    return merge(run_dir, out, job_specs(plan, plan_budget(plan))[-1].last_step)
