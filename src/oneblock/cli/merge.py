"""``oneblock merge``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oneblock.cli import console
from oneblock.plan import read_plan
from oneblock.presets import plan_budget
from oneblock.train.shards import merge
from oneblock.train.strategy import job_specs


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one model of a run's trained blocks; refuses missing, unfinished, damaged or foreign blocks by name."""

    run_dir: Path
    """directory of the run"""
    out: Path | None = None
    """directory of the model (default: RUN_DIR/model)"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        plan = read_plan(self.run_dir)
        last = job_specs(plan, plan_budget(plan))[-1].last_step
        out = merge(self.run_dir, self.out or self.run_dir / "model", last)
        if self.json:
            console.emit({"model": str(out), "blocks": plan.num_blocks, "plan": plan.hash})
        else:
            console.say(f"merged {plan.num_blocks} blocks into {out}; next: oneblock sample --model {out}")
