"""``oneblock compare images``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from oneblock.cli import scores
from oneblock.cli.comparison import Cell, Comparison, Row, cell_model, record, recorded, train_cell
from oneblock.cli.evaluate import evaluate_model
from oneblock.cli.image_options import ImageOptions
from oneblock.cli.options import DataOptions, SamplingOptions
from oneblock.cli.picture import image_grid
from oneblock.cli.sample import sample_images
from oneblock.data import EncodedSource
from oneblock.metrics import default_extractor
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets import image_task
from oneblock.train.shards import open_denoiser

Arm = Literal["end-to-end", "shallow", "blockwise", "branched"]
ARMS: tuple[Arm, ...] = ("end-to-end", "shallow", "blockwise", "branched")


@dataclass(frozen=True, kw_only=True)
class CompareImages(Comparison[EncodedSource]):
    """Train blockwise and its rivals with the same work and show what each one gives.

    Arms: `end-to-end` is the whole network as one block; `shallow` is a network of one block's depth, trained
    end-to-end with the whole budget; `blockwise` trains each block alone; `branched` does so from a common seed block
    (--branch). All arms keep the learning rate constant for the same share of their steps. A comparison that was
    stopped goes on with the same command.
    """

    arms: tuple[Arm, ...] = ARMS
    """which arms to train"""
    num_samples: int = 4000
    """generated images per run"""
    report_bands: int = 3
    """bands to report held-out losses on, the same for every arm"""
    extractor: str = ""
    """digits-cnn, fashion-mnist-cnn or efficientnet-lite0 (default: what fits the data)"""
    data: DataOptions = field(default_factory=DataOptions)
    model: ImageOptions = field(default_factory=lambda: ImageOptions(branch=0.5))
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def open(self) -> EncodedSource:
        return self.data.open("train")

    def plans(self, cell: Cell, data: EncodedSource) -> list[Plan]:
        return [arm_plan(self, cell, data)]

    def summaries(self, rows: Sequence[Row]) -> list[Row]:
        return scores.summaries(rows)

    def report(self, rows: Sequence[Row]) -> None:
        scores.report(rows)

    def draw(self, rows: Sequence[Row]) -> list[Path]:
        return scores.draw(self.out, rows)

    def row(self, cell: Cell) -> Row:
        return run_cell(self, cell)

    def line(self, row: Row) -> str:
        return f"loss {row['loss']:.4f}, Frechet {row['frechet']:.2f}"


def arm_plan(options: CompareImages, cell: Cell, images: EncodedSource) -> Plan:
    """The plan of one run."""
    model = cell_model(options.model, cell)
    if cell.arm == "end-to-end":
        model = replace(model, blocks=1, layers=())
    elif cell.arm == "shallow":
        depth = max(model.plan(options.data.data, images).layers)
        model = replace(model, blocks=1, layers=(), depth=depth)
    return model.plan(options.data.data, images)


def run_cell(options: CompareImages, cell: Cell) -> Row:
    """Train, score and record one run; a recorded result of the same plan and scoring is returned as it is."""
    train_images, test_images = options.open(), options.data.open("test")
    plan = arm_plan(options, cell, train_images)
    directory = options.out / cell.name
    extractor = options.extractor or default_extractor(options.data.data)
    asked = {
        "plan": plan.hash,
        "num_samples": options.num_samples,
        "report_bands": options.report_bands,
        "extractor": extractor,
        "sampling": asdict(options.sampling),
    }
    known = recorded(directory, asked)
    if known is not None:
        return known
    (run,), row = train_cell(options, cell, [plan], train_images)
    found = evaluate_model(
        plan,
        directory,
        train_images,
        test_images,
        make_partition(plan.partition.law, options.report_bands),
        options.num_samples,
        extractor,
        options.sampling,
        run.device,
    )
    labels = torch.arange(image_task(plan).num_classes, device=run.device).repeat_interleave(8)
    denoiser = open_denoiser(directory, run.blockwise, run.device)
    shown, _ = sample_images(plan, denoiser, labels, options.sampling, train_images.codec)
    image_grid(shown, directory / "samples.png", 8)
    return record(directory, {**row, **asked, **found})
