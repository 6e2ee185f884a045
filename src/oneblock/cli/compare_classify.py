"""``oneblock compare classify``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from oneblock.cli import console
from oneblock.cli.comparison import Cell, Comparison, Row, compare, record, recorded
from oneblock.cli.label_scores import draw, report, summaries
from oneblock.cli.labels import LabelOptions, evaluate_labels
from oneblock.cli.options import ClassifyOptions
from oneblock.cli.train import start_run, train
from oneblock.data import EncodedSource
from oneblock.plan import Plan
from oneblock.presets import plan_budget, training_peak
from oneblock.train.checkpoint import checkpoints
from oneblock.train.strategy import job_specs

ClassArm = Literal["end-to-end", "shallow", "ensemble", "blockwise", "branched", "paper"]
CLASS_ARMS: tuple[ClassArm, ...] = ("end-to-end", "shallow", "ensemble", "blockwise", "branched", "paper")
ORDINARY = ("end-to-end", "shallow", "ensemble")


@dataclass(frozen=True, kw_only=True)
class CompareClassify(Comparison):
    """Train blockwise classifiers and their rivals with the same work and show what each one gives.

    Arms: `end-to-end` is an ordinary ViT; `shallow` one of a block's depth, with the whole budget; `ensemble` as many
    shallow ones as there are blocks, which share the budget, their probabilities averaged; `blockwise` trains each
    block alone to denoise labels; `branched` does so from a common seed block (--branch); `paper` is the recipe of
    DiffusionBlocks. All arms keep the learning rate constant for the same share of their steps. A comparison that was
    stopped goes on with the same command.
    """

    arms: tuple[ClassArm, ...] = CLASS_ARMS
    """which arms to train"""
    model: ClassifyOptions = field(default_factory=lambda: ClassifyOptions(branch=0.5))
    labels: LabelOptions = field(default_factory=LabelOptions)

    def run(self) -> None:
        rows = compare(self)
        pictures = draw(self.out, rows)
        if self.json:
            console.emit({"runs": rows, "summary": summaries(rows), "pictures": [str(path) for path in pictures]})
            return
        report(rows)
        for path in pictures:
            console.say(f"picture: {path}")

    def check(self, cells: Sequence[Cell]) -> None:
        if "branched" in self.arms and not self.model.branch:
            raise ValueError("arm 'branched' needs --branch above 0, e.g. 0.5; or leave it out of --arms")
        images = self.data.open("train")
        for cell in cells:
            plan = class_plan(self, cell, images)
            job_specs(plan, plan_budget(plan))

    def row(self, cell: Cell) -> Row:
        train_images, test_images = self.data.open("train"), self.data.open("test")
        plan, answers = class_plan(self, cell, train_images), arm_labels(self, cell)
        directory = self.out / cell.name
        asked = {"plan": plan.hash, "labels": asdict(answers)}
        known = recorded(directory, asked)
        if known is not None:
            return known
        run = start_run(plan, directory, train_images, self.machine)
        jobs = job_specs(plan, plan_budget(plan))
        fresh = not any(checkpoints(directory / job.name) for job in jobs)
        seconds = train(run, None, label=cell.name, quiet=self.json)
        row = {
            "arm": cell.arm,
            "seed": cell.seed,
            **asked,
            "layers": list(plan.layers),
            "parameters": sum(
                p.numel() for b in range(plan.num_blocks) for p in run.blockwise.denoiser(b).backbone.parameters()
            ),
            "layer_evaluations": sum(
                (job.last_step - job.first_step) * len(job.layers) * job.batch_size for job in jobs
            ),
            "train_seconds": seconds if fresh else None,
            "peak_bytes": training_peak(plan, self.machine.checkpointing).total,
            "peak_bytes_checkpointing": training_peak(plan, True).total,
            **evaluate_labels(plan, directory, test_images.first(), answers, run.device),
        }
        return record(directory, row)

    def line(self, row: Row) -> str:
        return f"accuracy {row['accuracy']:.4f}"


def class_plan(options: CompareClassify, cell: Cell, images: EncodedSource) -> Plan:
    """The plan of one run. Every arm holds the learning rate as long as the branched one trains its seed block."""
    model = options.model
    model = replace(model, budget=cell.budget, seed=cell.seed, hold=model.hold or model.branch)
    if cell.arm != "branched":
        model = replace(model, branch=0.0)
    if cell.arm == "paper":
        model = replace(model, recipe="paper")
    if cell.arm in ORDINARY:
        model = replace(model, noisy_token="none", modulated=False, recipe="oneblock")
    if cell.arm == "shallow":
        depth = max(model.plan(options.data.data, images).layers)
        model = replace(model, depth=depth)
    if cell.arm in ("end-to-end", "shallow"):
        model = replace(model, blocks=1, layers=())
    return model.plan(options.data.data, images)


def arm_labels(options: CompareClassify, cell: Cell) -> LabelOptions:
    """How the arm's answers are found: ordinary networks know nothing of noise, and the paper takes Euler's steps."""
    if cell.arm in ORDINARY:
        return LabelOptions(pool="probabilities")
    if cell.arm == "paper":
        return LabelOptions(path="euler", pool="last")
    return options.labels
