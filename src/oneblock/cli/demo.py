"""``oneblock demo``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from oneblock.cli import console
from oneblock.cli.compare import Arm, CompareImages
from oneblock.cli.comparison import Cell, compare
from oneblock.cli.image_options import ImageOptions
from oneblock.cli.merge import merge_run
from oneblock.cli.options import DataOptions, MachineOptions, SamplingOptions
from oneblock.cli.picture import image_grid
from oneblock.cli.sample import sample_images
from oneblock.data import Pixels
from oneblock.presets import blockwise
from oneblock.train.shards import open_denoiser, open_plan

ARMS: dict[Arm, str] = {"end-to-end": "end-to-end", "branched": "3 blocks, one at a time"}
PER_CLASS = 10
SHOWN = SamplingOptions(guidance=2.0, resident=1)  # the scores are taken without guidance


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small image generator on handwritten digits twice with the same work: whole, and in three blocks.

    The blocks start from one seed block (--branch 0.5 of `oneblock train images`) and are then trained alone, merged
    into one model and sampled. A demo that was stopped goes on with the same command; a finished one is shown again.
    """

    out: Path = Path("runs/demo")
    """directory of the runs, the model and the picture"""
    budget: str = "200k"
    """work of each of the two, in layer evaluations"""
    num_samples: int = 1000
    """generated images that the scores are taken on"""
    json: bool = False
    """print one JSON object instead of a table"""
    # One thread: the tensors are too small for two to help, and on a busy machine two wait for each other.
    machine: MachineOptions = field(default_factory=lambda: MachineOptions(threads=1))

    def run(self) -> None:
        options = CompareImages(
            out=self.out,
            arms=tuple(ARMS),
            seeds=1,
            workers=2,
            num_samples=self.num_samples,
            json=self.json,
            data=DataOptions(data="digits"),
            model=ImageOptions(size="nano", budget=self.budget, batch_size=64, branch=0.5),
            machine=self.machine,
        )
        console.say(f"training both, side by side: a few minutes ({self.out})", self.json)
        rows = compare(options)
        run_dir = self.out / Cell(arm="branched", budget=self.budget, seed=0).name
        model = self.out / "model"
        merge_run(run_dir, model)
        picture = _picture(model, self.out / "digits.png", self.machine)
        if self.json:
            console.emit({"runs": rows, "model": str(model), "picture": str(picture)})
            return
        _report(rows)
        print(f"model: {model}\npicture: {picture}")


def _picture(model: Path, path: Path, machine: MachineOptions) -> Path:
    """Images of every class, generated with the merged model while one block is in memory; guided, to be readable."""
    plan = open_plan(model)
    labels = torch.arange(10).repeat_interleave(PER_CLASS)
    denoiser = open_denoiser(model, blockwise(plan), machine.torch_device(), SHOWN.resident)
    images, _ = sample_images(plan, denoiser, labels.to(machine.device), SHOWN, Pixels())
    return image_grid(images, path, PER_CLASS, smooth=True)


def _report(rows: list[dict[str, Any]]) -> None:
    """Scores as lines, arms as columns."""
    lines = {
        "held-out denoising loss (lower is better)": "{loss:.4f}",
        "Frechet distance, features {extractor}": "{frechet:.2f}",
        "  of real images to real images": "{frechet_floor:.2f}",
        "images recognised as their class": "{class_agreement:.1%}",
        "layer evaluations of training": "{layer_evaluations:,}",
        "seconds of training": "{train_seconds:.0f}",
        "images generated per second": "{images_per_second:.0f}",
        "peak bytes of training": "{peak_bytes:,}",
        "  with activation checkpointing": "{peak_bytes_checkpointing:,}",
    }
    known = [{**row, "train_seconds": row["train_seconds"] or float("nan")} for row in rows]
    table = [(name.format(**known[0]), *(value.format(**row) for row in known)) for name, value in lines.items()]
    console.table("digits, DiT of 6 layers", ("", *(ARMS[row["arm"]] for row in rows)), table)
