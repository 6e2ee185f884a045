"""``oneblock compare images``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from statistics import mean, stdev
from threading import Thread
from typing import Any, Literal

import torch

from oneblock.cli import console
from oneblock.cli.evaluate import evaluate_model
from oneblock.cli.options import DataOptions, MachineOptions, ModelOptions, SamplingOptions, parse_count
from oneblock.cli.picture import curves, image_grid
from oneblock.cli.sample import sample_images
from oneblock.cli.train import start_run, train
from oneblock.data import EncodedSource
from oneblock.metrics import default_extractor
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets import image_plan, plan_budget, training_peak
from oneblock.train.checkpoint import checkpoints
from oneblock.train.record import read_rows
from oneblock.train.shards import open_denoiser
from oneblock.train.strategy import job_specs

Arm = Literal["end-to-end", "shallow", "blockwise", "branched"]
ARMS: tuple[Arm, ...] = ("end-to-end", "shallow", "blockwise", "branched")
RIVALS = ("end-to-end", "shallow")
RESULT_FILE = "result.json"
Row = dict[str, Any]


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
    model: ModelOptions = field(default_factory=lambda: ModelOptions(branch=0.5))
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)

    def run(self) -> None:
        rows = compare(self)
        pictures = draw(self, rows)
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
    return [done[cell] for cell in cells]


def arm_plan(options: CompareImages, cell: Cell, images: EncodedSource) -> Plan:
    """The plan of one run. Every arm holds the learning rate as long as the branched one trains its seed block."""
    model = options.model
    hold = model.hold or model.branch
    model = replace(model, budget=cell.budget, seed=cell.seed, hold=hold)
    recipe = replace(model, branch=model.branch if cell.arm == "branched" else 0.0).recipe(options.data.data, images)
    if cell.arm == "end-to-end":
        recipe = replace(recipe, blocks=1, layers=())
    elif cell.arm == "shallow":
        recipe = replace(recipe, blocks=1, layers=(), depth=max(image_plan(recipe).layers))
    return image_plan(recipe)


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
    labels = torch.arange(run.task.num_classes, device=run.device).repeat_interleave(8)
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
        "layer_evaluations": sum((job.last_step - job.first_step) * len(job.layers) * run.batch_size for job in jobs),
        "train_seconds": seconds if fresh else None,
        "peak_bytes": training_peak(plan, options.machine.checkpointing).total,
        "peak_bytes_checkpointing": training_peak(plan, True).total,
        **scores,
    }
    partial = found.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=2) + "\n")
    partial.replace(found)
    return row


def summaries(rows: Sequence[Row]) -> list[Row]:
    """Mean and standard deviation over the seeds, one row per arm and budget."""
    return [
        {
            "arm": arm,
            "layer_evaluations": work,
            "seeds": len(group),
            **{key: _spread([row[key] for row in group]) for key in _SCORES},
            "band_losses": [_spread(list(band)) for band in zip(*(row["band_losses"] for row in group), strict=True)],
        }
        for (arm, work), group in _groups(rows).items()
    ]


_SCORES = (
    "loss",
    "frechet",
    "frechet_floor",
    "kernel",
    "precision",
    "recall",
    "coverage",
    "train_seconds",
    "images_per_second",
    "peak_bytes",
    "peak_bytes_checkpointing",
    "parameters",
)


def _groups(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    # Budgets are compared as asked for: rounding to whole steps moves the work spent by less than one step per job.
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["layer_evaluations"]), []).append(row)
    return groups


def _spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return mean(known), stdev(known) if len(known) > 1 else 0.0


def _plus_minus(spread: tuple[float, float] | None, digits: int, scale: float = 1.0) -> str:
    if spread is None:
        return "-"
    center, width = spread[0] * scale, spread[1] * scale
    return f"{center:.{digits}f}" if width == 0 else f"{center:.{digits}f} ± {width:.{digits}f}"


def report(rows: Sequence[Row]) -> None:
    """Tables of means and spreads, and who wins how often."""
    shown = summaries(rows)
    columns = ("arm", "layer evals", "loss", "loss per band, noisiest first", "Frechet", "floor", "recall")
    quality = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            _plus_minus(row["loss"], 4),
            " / ".join(_plus_minus(band, 3) for band in row["band_losses"]),
            _plus_minus(row["frechet"], 2),
            _plus_minus(row["frechet_floor"], 2),
            _plus_minus(row["recall"], 3),
        )
        for row in shown
    ]
    seeds = shown[0]["seeds"]
    console.table(f"quality, held out ({seeds} seeds, features {rows[0]['extractor']})", columns, quality)
    columns = ("arm", "layer evals", "parameters", "train s", "images/s", "peak MB", "with checkpointing")
    cost = [
        (
            row["arm"],
            f"{row['layer_evaluations']:,}",
            f"{row['parameters'][0]:,.0f}",
            _plus_minus(row["train_seconds"], 0),
            _plus_minus(row["images_per_second"], 0),
            _plus_minus(row["peak_bytes"], 1, 1e-6),
            _plus_minus(row["peak_bytes_checkpointing"], 1, 1e-6),
        )
        for row in shown
    ]
    console.table("cost (peak of one training process, counted by MemTracker)", columns, cost)
    for line in (*wins(rows), *crossings(rows)):
        print(line)


def wins(rows: Sequence[Row]) -> list[str]:
    """For each blockwise arm and rival: on how many seeds it is better, by loss and by Frechet distance."""
    lines = []
    by_cell = {(row["arm"], row["seed"], index): row for index, row in _numbered(rows)}
    for arm in ("blockwise", "branched"):
        for rival in RIVALS:
            pairs = [
                (row, by_cell[rival, seed, index])
                for (name, seed, index), row in by_cell.items()
                if name == arm and (rival, seed, index) in by_cell
            ]
            if pairs:
                counts = [sum(a[key] < b[key] for a, b in pairs) for key in ("loss", "frechet")]
                lines.append(
                    f"{arm} against {rival}: lower loss in {counts[0]} of {len(pairs)} runs, "
                    f"lower Frechet distance in {counts[1]} of {len(pairs)}"
                )
    return lines


def _numbered(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Each row with the rank of its budget (rounding to steps makes the exact work differ between arms)."""
    works = {arm: sorted({r["layer_evaluations"] for r in rows if r["arm"] == arm}) for arm in ARMS}
    return [(works[row["arm"]].index(row["layer_evaluations"]), row) for row in rows]


def crossings(rows: Sequence[Row]) -> list[str]:
    """Where the curves of a blockwise arm and a rival cross, interpolated in log work; empty for a single budget."""
    shown = summaries(rows)
    curve: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in shown:
        for key in ("loss", "frechet"):
            curve.setdefault((row["arm"], key), []).append((row["layer_evaluations"], row[key][0]))
    lines = []
    for arm, rival, key in product(("blockwise", "branched"), RIVALS, ("loss", "frechet")):
        ours, theirs = curve.get((arm, key), []), curve.get((rival, key), [])
        if len(ours) == len(theirs) > 1:
            lines.append(f"{key} of {arm} against {rival}: {crossing(ours, theirs)}")
    return lines


def crossing(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> str:
    """In words, where curve ``a`` passes curve ``b``; both are (work, score) points, lower scores are better."""
    work = [math.log(x) for x, _ in a]
    gaps = [y - z for (_, y), (_, z) in zip(a, b, strict=True)]
    found = []
    for i in range(len(gaps) - 1):
        if gaps[i] * gaps[i + 1] < 0:
            share = gaps[i] / (gaps[i] - gaps[i + 1])
            at = math.exp(work[i] + share * (work[i + 1] - work[i]))
            found.append(f"{'better' if gaps[i + 1] < 0 else 'worse'} from about {at:,.0f} layer evaluations on")
    if found:
        return ", ".join(found)
    return f"{'better' if gaps[0] < 0 else 'not better'} at every budget"


def draw(options: CompareImages, rows: Sequence[Row]) -> list[Path]:
    """Loss during training, samples of the first seed, and (with several budgets) scores against work."""
    pictures = [_training_curves(options, _cells(options))]
    pictures += [options.out / cell.name / "samples.png" for cell in _cells(options) if cell.seed == options.model.seed]
    shown = summaries(rows)
    if len({row["layer_evaluations"] for row in shown if row["arm"] == shown[0]["arm"]}) > 1:
        for key, label in (("loss", "held-out loss"), ("frechet", "Frechet distance")):
            lines: dict[str, list[tuple[float, float]]] = {}
            for row in shown:
                lines.setdefault(row["arm"], []).append((row["layer_evaluations"], row[key][0]))
            path = options.out / f"{key}.png"
            pictures.append(curves(lines, path, "layer evaluations", label, logarithmic=True))
    return pictures


def _training_curves(options: CompareImages, cells: Sequence[Cell]) -> Path:
    """Training loss of the first seed at the largest budget against the work spent on all blocks together."""
    last = cells[-1].budget
    lines: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        if cell.seed == options.model.seed and cell.budget == last:
            lines[cell.arm] = training_curve(options.out / cell.name)
    path = options.out / "training.png"
    return curves(lines, path, "layer evaluations", "training loss (mean over bands)")


def training_curve(directory: Path) -> list[tuple[float, float]]:
    """(work, loss) of a run: the blocks' rows at one step make one point; the seed block's come first."""
    at: dict[float, list[Mapping[str, Any]]] = {}
    seed = list(read_rows(directory / "seed" / "metrics.jsonl"))
    points = [(float(row["layer_evaluations"]), float(row["loss"])) for row in seed]
    for path in sorted(directory.glob("block-*/metrics.jsonl")):
        for row in read_rows(path):
            at.setdefault(float(row["step"]), []).append(row)
    spent = points[-1][0] if points else 0.0
    for _, rows in sorted(at.items()):
        work = sum(float(row["layer_evaluations"]) - spent for row in rows) + spent
        points.append((work, mean(float(row["loss"]) for row in rows)))
    return points
