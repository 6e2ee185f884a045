"""``oneblock merge``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.launch.mirror import Mirror, is_remote
from oneblock.plan import read_plan
from oneblock.presets import plan_budget
from oneblock.train.shards import merge
from oneblock.train.strategy import job_specs


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one model of a run's trained blocks; refuses missing, unfinished, damaged or foreign blocks by name."""

    run_dir: Positional[str]
    """directory of the run, or its fsspec address (s3://..., gs://..., sftp://...)"""
    out: Path | None = None
    """directory of the model (default: model, inside that directory)"""
    partial: bool = False
    """merge what exists: unfinished blocks as they stand, and without those that are missing or damaged"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        run_dir, out = Path(self.run_dir), self.out
        if is_remote(self.run_dir):
            if out is None:
                raise ValueError(f"merging {self.run_dir} needs --out, a directory on this machine")
            mirror = Mirror(self.run_dir)
            plan = read_plan(mirror.pull())
            run_dir = mirror.pull(*(f"block-{block}" for block in range(plan.num_blocks)))
        out = out or run_dir / "model"
        plan = read_plan(run_dir)
        problems = merge_run(run_dir, out, self.partial)
        blocks = sum((out / f"block-{block}.safetensors").is_file() for block in range(plan.num_blocks))
        if self.json:
            console.emit({"model": str(out), "blocks": blocks, "plan": plan.hash, "problems": problems})
            return
        for problem in problems:
            console.say(f"oneblock: {problem}")
        console.say(f"merged {blocks} of {plan.num_blocks} blocks into {out}; next: oneblock sample {out}")


def merge_run(run_dir: Path, out: Path, partial: bool = False) -> list[str]:
    """Merge the blocks of ``run_dir``, all trained to their last step unless ``partial``, into ``out``; what is not as
    it should be (``train.shards.merge``)."""
    plan = read_plan(run_dir)
    return merge(run_dir, out, job_specs(plan, plan_budget(plan))[-1].last_step, partial)
