"""``oneblock merge``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.launch.merge import merge
from oneblock.presets.tasks import load_backbone


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one model of a run's trained blocks; refuses missing, unfinished, damaged or foreign blocks by name."""

    run_dir: Positional[str]
    """directory of the run, or its fsspec address (s3://..., gs://..., sftp://...)"""
    out: Path | None = None
    """directory of the model (default: model, inside that directory)"""
    partial: bool = False
    """merge what exists: unfinished blocks as they stand, and without those that are missing or damaged"""
    backbone: str = ""
    """module:Class of the network, for a run that trains your own: the files are compared with it"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        made = merge(self.run_dir, self.out, self.partial, load_backbone(self.backbone) if self.backbone else None)
        if self.json:
            console.emit(
                {"model": str(made.model), "blocks": made.blocks, "plan": made.plan, "problems": list(made.problems)}
            )
            return
        for problem in made.problems:
            console.say(f"oneblock: {problem}")
        then = f"next: oneblock sample {made.model}"
        if made.missing:
            blocks = f"block{'s' * (len(made.missing) > 1)} {', '.join(map(str, made.missing))}"
            then = f"it cannot be sampled yet: train {blocks} and merge again"
        console.say(f"merged {made.blocks} of {made.num_blocks} blocks into {made.model}; {then}")
