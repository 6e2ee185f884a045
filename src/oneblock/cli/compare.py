"""``oneblock compare images``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Literal

import torch

from oneblock.cli import console
from oneblock.cli.evaluate import evaluate_model
from oneblock.cli.options import DataOptions, ImageOptions, MachineOptions, SamplingOptions, parse_count
from oneblock.cli.picture import image_grid
from oneblock.cli.sample import sample_images
from oneblock.cli.scores import Row, draw, report, summaries
from oneblock.cli.train import start_run, train
from oneblock.data import EncodedSource
from oneblock.metrics import default_extractor
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets import image_task, plan_budget, training_peak
from oneblock.train.checkpoint import checkpoints
from oneblock.train.shards import open_denoiser
from oneblock.train.strategy import job_specs

Arm = Literal["end-to-end", "shallow", "blockwise", "branched"]
ARMS: tuple[Arm, ...] = ("end-to-end", "shallow", "blockwise", "branched")
RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class CompareImages:
    """Train blockwise and its rivals with the same work and show what each one gives.

    Arms: `end-to-end` is the whole network as one block; `shallow` is a network of one block's depth, trained
    end-to-end with the whole budget; `blockwise` trains each block alone; `branched` does so from a common seed block
    (--branch). All arms keep the learning rate constant for the same share of their steps. A comparison that was
    stopped goes on with the same command.
    """

    out: Path
    """directory of the comparison"""
    arms: tuple[Arm, ...] = ARMS
    """which arms to train"""
    seeds: int = 3
    """runs per arm, with seeds --seed, --seed + 1, ..."""
    budgets: str = ""
    """several budgets with commas, e.g. 200k,800k: shows where the arms' curves cross (default: --budget alone)"""
    num_samples: int = 4000
    """generated images per run"""
    report_bands: int = 3
    """bands to report held-out losses on, the same for every arm"""
    extractor: str = ""
    """digits-cnn, fashion-mnist-cnn or efficientnet-lite0 (default: what fits the data)"""
    workers: int = 1
    """runs at the same time, each in a process of its own with its share of the CPU threads"""
    json: bool = False
    """print one JSON object instead of tables"""
    data: DataOptions = field(default_factory=DataOptions)
    model: ImageOptions = field(default_factory=lambda: ImageOptions(branch=0.5))
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)

    def run(self) -> None:
        rows = compare(self)
        pictures = draw(self.out, rows)
        if self.json:
            console.emit({"runs": rows, "summary": summaries(rows), "pictures": [str(path) for path in pictures]})
            return
        report(rows)
        for path in pictures:
            console.say(f"picture: {path}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a comparison."""

    arm: Arm
    budget: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.budget}-seed{self.seed}"


def compare(options: CompareImages) -> list[Row]:
    """Train and score every run that has no result yet; all results, in the order of arms, budgets and seeds."""
    cells = _cells(options)
    images = options.data.open("train")
    plans = {cell: arm_plan(options, cell, images) for cell in cells}  # refuses bad options before any work
    for plan in plans.values():
        job_specs(plan, plan_budget(plan))
    done: dict[Cell, Row] = {}
    for cell, row in _run_all(options, cells):
        done[cell] = row
        console.say(
            f"{len(done)}/{len(cells)} {cell.name}: loss {row['loss']:.4f}, Frechet {row['frechet']:.2f}", options.json
        )
    return [{**done[cell], "budget": cell.budget, "run": cell.name} for cell in cells]


def arm_plan(options: CompareImages, cell: Cell, images: EncodedSource) -> Plan:
    """The plan of one run. Every arm holds the learning rate as long as the branched one trains its seed block."""
    model = options.model
    hold = model.hold or model.branch
    model = replace(model, budget=cell.budget, seed=cell.seed, hold=hold)
    model = replace(model, branch=model.branch if cell.arm == "branched" else 0.0)
    if cell.arm == "end-to-end":
        model = replace(model, blocks=1, layers=())
    elif cell.arm == "shallow":
        depth = max(model.plan(options.data.data, images).layers)
        model = replace(model, blocks=1, layers=(), depth=depth)
    return model.plan(options.data.data, images)


def _cells(options: CompareImages) -> list[Cell]:
    if options.seeds < 1 or options.workers < 1 or not options.arms:
        raise ValueError(
            f"seeds={options.seeds}, workers={options.workers}, arms={options.arms}: use at least one of each"
        )
    if "branched" in options.arms and not options.model.branch:
        raise ValueError("arm 'branched' needs --branch above 0, e.g. 0.5; or leave it out of --arms")
    budgets = [b.strip() for b in options.budgets.split(",") if b.strip()] or [options.model.budget]
    for budget in budgets:
        parse_count(budget)
    seeds = range(options.model.seed, options.model.seed + options.seeds)
    return [Cell(arm=arm, budget=budget, seed=seed) for budget in budgets for seed in seeds for arm in options.arms]


def _run_all(options: CompareImages, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Row]]:
    if options.workers == 1:
        for cell in cells:
            yield cell, run_cell(options, cell)
        return
    threads = options.machine.threads or max(1, (os.cpu_count() or 1) // options.workers)
    quiet = replace(options, json=True, machine=replace(options.machine, threads=threads))
    context = get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context, initializer=_end_with_parent) as pool:
        pending = {pool.submit(run_cell, quiet, cell): cell for cell in cells}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would train on unseen; end it too."""
    parent = parent_process()
    assert parent is not None, "only a worker process has a parent"

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def run_cell(options: CompareImages, cell: Cell) -> Row:
    """Train, score and record one run; a recorded result of the same plan and scoring is returned as it is."""
    train_images, test_images = options.data.open("train"), options.data.open("test")
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
    asked = json.loads(json.dumps(asked))
    found = directory / RESULT_FILE
    if found.is_file():
        row: Row = json.loads(found.read_text())
        if all(row.get(key) == value for key, value in asked.items()):
            return row
    run = start_run(plan, directory, train_images, options.machine)
    jobs = job_specs(plan, plan_budget(plan))
    fresh = not any(checkpoints(directory / job.name) for job in jobs)
    seconds = train(run, None, label=cell.name, quiet=options.json)
    scores = evaluate_model(
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
    row = {
        "arm": cell.arm,
        "seed": cell.seed,
        **asked,
        "layers": list(plan.layers),
        "parameters": sum(
            p.numel() for b in range(plan.num_blocks) for p in run.blockwise.denoiser(b).backbone.parameters()
        ),
        "layer_evaluations": sum((job.last_step - job.first_step) * len(job.layers) * job.batch_size for job in jobs),
        "train_seconds": seconds if fresh else None,
        "peak_bytes": training_peak(plan, options.machine.checkpointing).total,
        "peak_bytes_checkpointing": training_peak(plan, True).total,
        **scores,
    }
    partial = found.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=2) + "\n")
    partial.replace(found)
    return row
