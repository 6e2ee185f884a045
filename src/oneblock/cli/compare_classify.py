"""``oneblock compare classify``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from oneblock import rivals
from oneblock.cli import label_scores
from oneblock.cli.class_options import ClassifyOptions
from oneblock.cli.comparison import (
    Cell,
    Comparison,
    Row,
    cell_model,
    record,
    recorded,
    rival_settings,
    train_cell,
    train_rival_cell,
)
from oneblock.cli.labels import BATCH, LabelOptions, evaluate_labels, scores
from oneblock.cli.options import DataOptions
from oneblock.data import EncodedSource, ImageSet, to_float
from oneblock.models.cnn import CNNConfig
from oneblock.plan import Plan
from oneblock.presets import cnn_plan
from oneblock.presets.classify import vit_config
from oneblock.rivals import Classifier

ClassArm = Literal[
    "end-to-end",
    "shallow",
    "ensemble",
    "blockwise",
    "branched",
    "paper",
    "greedy",
    "contrastive-ff",
    "noprop-dt",
    "noprop-ct",
    "noprop-blocks",
    "cnn",
]
CLASS_ARMS: tuple[ClassArm, ...] = get_args(ClassArm)
ORDINARY = ("end-to-end", "shallow", "ensemble")
RIVALS = ("greedy", "contrastive-ff", "noprop-dt", "noprop-ct", "cnn")
PATCHES = 4
"""Along each side of an image, unless the options say how many pixels a patch has."""
NOPROP_NETWORKS = 10
"""T of NoProp-DT (Li et al., https://arxiv.org/abs/2503.24322)."""


@dataclass(frozen=True, kw_only=True)
class CompareClassify(Comparison[EncodedSource]):
    """Train blockwise classifiers and their rivals with the same work and show what each one gives.

    Arms: `end-to-end` is an ordinary ViT; `shallow` one of a block's depth, with the whole budget; `ensemble` as many
    shallow ones as there are blocks, which share the budget, their probabilities averaged; `blockwise` trains each
    block alone to denoise labels; `branched` does so from a common seed block (--branch); `paper` is the recipe of
    DiffusionBlocks. `greedy` trains the blocks of an ordinary ViT in order, `contrastive-ff` each layer by
    Forward-Forward; `noprop-dt`, `noprop-ct` and `noprop-blocks` train NoProp's network, by its two methods and as
    three blocks, and `cnn` one of its networks as an ordinary classifier; a layer evaluation there is one whole CNN on
    one image. All arms keep the learning rate constant for the same share of their steps. Images are cut into 4 x 4
    patches unless --patch is given. A comparison that was stopped goes on with the same command.
    """

    arms: tuple[ClassArm, ...] = CLASS_ARMS
    """which arms to train"""
    noprop_steps: int = 30
    """Euler steps of noprop-ct at inference (1000 in its paper)"""
    data: DataOptions = field(default_factory=DataOptions)
    model: ClassifyOptions = field(
        default_factory=lambda: ClassifyOptions(
            size="nano", budget="300k", batch_size=64, block_batch_size=64, branch=0.5
        )
    )
    labels: LabelOptions = field(default_factory=LabelOptions)

    def open(self) -> EncodedSource:
        return self.data.open("train")

    def plans(self, cell: Cell, data: EncodedSource) -> list[Plan]:
        return [class_plan(self, cell, data)]

    def summaries(self, rows: Sequence[Row]) -> list[Row]:
        return label_scores.summaries(rows)

    def report(self, rows: Sequence[Row]) -> None:
        label_scores.report(rows)

    def draw(self, rows: Sequence[Row]) -> list[Path]:
        return label_scores.draw(self.out, rows)

    def row(self, cell: Cell) -> Row:
        train_images, test_images = self.open(), self.data.open("test")
        if cell.arm in RIVALS:
            return self._rival_row(cell, train_images, test_images.first())
        plan, answers = class_plan(self, cell, train_images), arm_labels(self, cell)
        directory = self.out / cell.name
        asked = {"plan": plan.hash, "labels": asdict(answers)}
        known = recorded(directory, asked)
        if known is not None:
            return known
        (run,), row = train_cell(self, cell, [plan], train_images)
        found = evaluate_labels(plan, directory, test_images.first(), answers, run.device)
        return record(directory, {**row, **asked, **found})

    def _rival_row(self, cell: Cell, images: EncodedSource, test: ImageSet) -> Row:
        plan = class_plan(self, cell, images)
        directory = self.out / cell.name
        asked = {"plan": plan.hash, "rival": cell.arm, "noprop_steps": self.noprop_steps}
        known = recorded(directory, asked)
        if known is not None:
            return known
        self.machine.torch_device()
        rival, settings = make_rival(cell.arm, plan, self.noprop_steps), rival_settings(plan, self.machine.device)
        trained = train_rival_cell(self, cell, plan, rival, images, settings)
        answers = torch.cat([rival.probabilities(part) for part in to_float(test.images).split(BATCH)], dim=1)
        row = {
            "arm": cell.arm,
            "seed": cell.seed,
            **asked,
            "layers": [],
            "parameters": None,
            **trained,
            "peak_bytes": rivals.training_peak(rival, settings).total,
            "peak_bytes_checkpointing": None,
            **scores(answers.cpu(), test.labels),
            "calls": float(len(answers)),
            "layers_per_image": float(rival.evaluation_layers),
        }
        return record(directory, row)

    def line(self, row: Row) -> str:
        return f"accuracy {row['accuracy']:.4f}"


def class_plan(options: CompareClassify, cell: Cell, images: EncodedSource) -> Plan:
    """The plan of one run."""
    model = cell_model(options.model, cell)
    model = replace(model, patch=model.patch or max(1, images.shape[1] // PATCHES))
    if cell.arm == "paper":
        model = replace(model, recipe="paper")
    if cell.arm in ORDINARY or cell.arm in RIVALS:
        model = replace(model, noisy_token="none", modulated=False, recipe="oneblock")
    if cell.arm == "shallow":
        depth = max(model.plan(options.data.data, images).layers)
        model = replace(model, depth=depth)
    if cell.arm in ("end-to-end", "shallow"):
        model = replace(model, blocks=1, layers=())
    if cell.arm == "noprop-blocks":
        model = replace(
            model, depth=model.blocks, layers=(), recipe="oneblock", noisy_token="separate", modulated=False
        )
        return cnn_plan(model.recipe_on(options.data.data, images))
    return model.plan(options.data.data, images)


def make_rival(arm: str, plan: Plan, noprop_steps: int) -> Classifier:
    """An untrained rival of the size of ``plan``, which is that of an ordinary ViT."""
    config = vit_config(plan)
    if arm == "greedy":
        return rivals.Greedy(config, plan.num_blocks)
    if arm == "contrastive-ff":
        return rivals.ContrastiveFF(config)
    cnn = CNNConfig(
        image_size=config.image_size,
        channels=config.channels,
        num_classes=config.num_classes,
        label_width=config.num_classes,
        depth=NOPROP_NETWORKS if arm == "noprop-dt" else 1,
        width=config.width,
    )
    if arm == "cnn":
        return rivals.PlainCNN(cnn)
    return rivals.NoPropDT(cnn) if arm == "noprop-dt" else rivals.NoPropCT(cnn, num_steps=noprop_steps, solver="euler")


def arm_labels(options: CompareClassify, cell: Cell) -> LabelOptions:
    """How the arm's answers are found: ordinary networks know nothing of noise, and the paper takes Euler's steps."""
    if cell.arm in ORDINARY:
        return LabelOptions()
    return LabelOptions(path="euler", pool="last") if cell.arm == "paper" else options.labels
