"""``oneblock compare masked-text``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Literal, get_args

from oneblock.cli.comparison import Cell, Row, cell_model, record, recorded, train_cell
from oneblock.cli.options import parse_count
from oneblock.cli.text import evaluate_text, sample_text, text_batches
from oneblock.cli.text_comparison import TextComparison
from oneblock.cli.text_options import MaskedOptions
from oneblock.cli.text_scores import TextScores
from oneblock.data import TokenFile
from oneblock.guidance import Ensemble
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets import plan_length
from oneblock.train.shards import open_denoiser

MaskedArm = Literal["mdlm", "end-to-end", "shallow", "ensemble", "blockwise", "two-blocks", "branched"]
MASKED_ARMS: tuple[MaskedArm, ...] = get_args(MaskedArm)
SCORES = TextScores(
    ours=("blockwise", "two-blocks", "branched"),
    rivals=("mdlm", "end-to-end", "shallow", "ensemble"),
    listed="nats_per_band",
    items="band of masked shares, noisiest first",
    unit="nats per token",
)
SHOWN = 2
"""Samples of a run that its row holds."""


@dataclass(frozen=True, kw_only=True)
class CompareMaskedText(TextComparison):
    """Train masked diffusion of text blockwise and otherwise with the same work and show what each one gives.

    Arms: `end-to-end` is the whole network as one block, `mdlm` the same trained on the bound's weights whatever
    --weighting says; `shallow` has a block's depth and the whole budget; `ensemble` is as many shallow ones as there
    are blocks, which share the budget, their probabilities averaged; `blockwise` trains each block alone on its band of
    masked shares; `two-blocks` does so with two blocks, whatever --blocks says; `branched` from a common seed block
    (--branch). A step of `shallow` and of the seed block takes --blocks times the texts, so that all arms make about as
    many steps (docs/log.md). All keep the learning rate constant for the same share of them, and are scored on the same
    windows, times and masks. A comparison that was stopped goes on with the same command.
    """

    scores: ClassVar[TextScores] = SCORES

    arms: tuple[MaskedArm, ...] = MASKED_ARMS
    """which arms to train"""
    times: int = 4
    """masked shares of every reported band for each of them"""
    report_bands: int = 3
    """bands to report the bound of, the same for every arm"""
    model: MaskedOptions = field(
        default_factory=lambda: MaskedOptions(
            size="nano", budget="100k", batch_size=4, block_batch_size=4, branch=0.5, weighting="even"
        )
    )

    def check(self, cells: Sequence[Cell], data: TokenFile) -> None:
        if min(self.times, self.report_bands, self.writing.reveals) < 1:
            raise ValueError(
                f"times={self.times}, report_bands={self.report_bands}, reveals={self.writing.reveals}: use at least "
                "one of each"
            )
        super().check(cells, data)

    def plans(self, cell: Cell, data: TokenFile) -> list[Plan]:
        return arm_plans(self, cell, data)

    def row(self, cell: Cell) -> Row:
        return run_cell(self, cell)


def arm_plans(options: CompareMaskedText, cell: Cell, file: TokenFile) -> list[Plan]:
    """The plans of one run, for the ensemble one for each network."""
    model, data = cell_model(options.model, cell), options.data.data
    whole = replace(model, blocks=1, layers=())
    if cell.arm == "end-to-end":
        return [whole.plan(data, file)]
    if cell.arm == "mdlm":
        return [replace(whole, weighting="bound").plan(data, file)]
    if cell.arm == "two-blocks":
        return [replace(model, blocks=2, layers=()).plan(data, file)]
    plan = model.plan(data, file)
    shallow = replace(whole, depth=max(plan.layers))
    larger = model.batch_size * plan.num_blocks
    if cell.arm == "shallow":
        return [replace(shallow, batch_size=larger).plan(data, file)]
    if cell.arm == "branched":
        return [replace(model, batch_size=larger).plan(data, file)]
    if cell.arm == "ensemble":
        count = plan.num_blocks
        share = replace(shallow, budget=str(parse_count(cell.budget) // count))
        # runs of different seeds have no network in common
        return [replace(share, seed=cell.seed * count + i).plan(data, file) for i in range(count)]
    return [plan]


def run_cell(options: CompareMaskedText, cell: Cell) -> Row:
    """Train, score and record one run; a recorded result of the same plans and scoring is returned as it is."""
    file = options.open()
    plans = arm_plans(options, cell, file)
    asked = {
        "plans": [plan.hash for plan in plans],
        "windows": options.windows,
        "times": options.times,
        "report_bands": options.report_bands,
        "writing": asdict(options.writing),
    }
    directory = options.out / cell.name
    known = recorded(directory, asked)
    if known is not None:
        return known
    runs, row = train_cell(options, cell, plans, text_batches(plans[0], file))
    device = runs[0].device
    networks = [open_denoiser(run.directory, run.blockwise, device) for run in runs]
    denoiser = networks[0] if len(networks) == 1 else Ensemble(networks)
    bands = make_partition(plans[0].partition.law, options.report_bands)
    bound = evaluate_text(
        plans[0], denoiser, options.held_out(file, plan_length(plans[0])), bands, options.times, device
    )
    began = time.perf_counter()
    texts = sample_text(plans[0], denoiser, options.writing, cell.seed, device)
    speed = sum(map(len, texts)) / (time.perf_counter() - began)
    return record(directory, {**row, **asked, **bound, "characters_per_second": speed, "samples": texts[:SHOWN]})
