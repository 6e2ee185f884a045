"""The blocks of a run, here or at an address, as one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oneblock.backbone import BuildBackbone
from oneblock.launch.mirror import Mirror, is_remote
from oneblock.presets.door import read_plan
from oneblock.presets.kept import known_backbone
from oneblock.presets.tasks import block_parameters
from oneblock.train import shards
from oneblock.train.strategy import job_specs


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged model.

    Args:
        model: its directory.
        blocks: how many it has, of the ``num_blocks`` of the plan.
        plan: the plan's hash.
        missing: the blocks that it lacks, without which it cannot be sampled; none unless ``partial``.
        problems: what is missing, unfinished or damaged, a line for each block; empty unless ``partial``.
    """

    model: Path
    blocks: int
    num_blocks: int
    plan: str
    missing: tuple[int, ...]
    problems: tuple[str, ...]


def merge(
    run_dir: str | Path,
    out: str | Path | None = None,
    partial: bool = False,
    backbone: BuildBackbone | None = None,
) -> Merged:
    """Make one model of a run's trained blocks.

    Args:
        run_dir: directory of the run, or its fsspec address.
        out: directory of the model; None is ``model`` inside the run's directory.
        partial: merge what exists: unfinished blocks as they stand, and without those that are missing or damaged.
        backbone: the user's own network, of a run that trains one: its tensors are compared with those of the files.

    Raises:
        ValueError: ``out`` holds something else, or a remote run is merged without one.
        CheckpointError: names every block that is missing, unfinished, damaged or of another plan.
    """
    directory = Path(run_dir)
    if is_remote(str(run_dir)):
        if out is None:
            raise ValueError(f"merging {run_dir} needs --out, a directory on this machine")
        mirror = Mirror(str(run_dir))
        plan = read_plan(mirror.pull())
        directory = mirror.pull(*(f"block-{block}" for block in range(plan.num_blocks)))
    plan = read_plan(directory)
    model = directory / "model" if out is None else Path(out)
    wanted = block_parameters(plan, known_backbone(plan, directory, backbone))
    problems = shards.merge(directory, model, job_specs(plan)[-1].last_step, partial, wanted)
    missing = tuple(b for b in range(plan.num_blocks) if not (model / f"block-{b}.safetensors").is_file())
    return Merged(
        model=model,
        blocks=plan.num_blocks - len(missing),
        num_blocks=plan.num_blocks,
        plan=plan.hash,
        missing=missing,
        problems=tuple(problems),
    )
