"""Autoregressive language models: blockwise and its rivals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import torch

from oneblock.evaluate.causal import evaluate_causal, plan_calls, standard_error, write_causal
from oneblock.evaluate.text import n_grams
from oneblock.evaluate.writing import WINDOWS, Writing, readable
from oneblock.experiment.arms import blocks_alone, branched, branched_ensemble, ensemble
from oneblock.experiment.base import Arm, Case, Cell
from oneblock.experiment.data import Texts, open_texts
from oneblock.experiment.summary import COSTS, Row, Scores
from oneblock.metrics import NGramScorer
from oneblock.plan import Plan, nth_seed
from oneblock.presets.base import end_to_end, shallow
from oneblock.presets.causal import CausalRecipe
from oneblock.presets.data import Data
from oneblock.presets.masked import plan_length
from oneblock.sample.calls import Answers
from oneblock.train.loop import Run
from oneblock.train.machine import Machine
from oneblock.train.shards import open_denoiser

TWO_TEXTS = Writing(count=2)
"""What a run writes."""


@dataclass(frozen=True, kw_only=True)
class CausalExperiment:
    """Autoregressive language models, scored by their bits per byte on the same windows of held-out text."""

    task: ClassVar[str] = "text"

    windows: int = WINDOWS
    """windows of held-out text that every run is scored on"""
    answers: Answers = field(default_factory=Answers)
    writing: Writing = field(default_factory=lambda: TWO_TEXTS)

    @property
    def usual(self) -> CausalRecipe:
        return CausalRecipe(size="nano", budget="100k", batch_size=4, block_batch_size=4, branch=0.8)

    @property
    def arms(self) -> Mapping[str, Arm[CausalRecipe, CausalExperiment]]:
        return ARMS

    @property
    def scores(self) -> Scores:
        return SCORES

    def open(self, recipe: CausalRecipe, data: Data | None, held_out: Data | None) -> Texts:
        return open_texts(recipe, data, held_out, self.windows)

    def fitted(self, recipe: CausalRecipe, known: Texts) -> CausalRecipe:
        return recipe

    def check(self, plans: Mapping[Cell, Sequence[Plan]], known: Texts) -> None:
        check_texts(plans, known, self.answers, self.writing)

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        return asked_of_texts(plans, self.windows, self.answers, self.writing)

    def score(self, case: Case[Texts], runs: Sequence[Run]) -> Row:
        return score_texts(case, runs[0], self.answers, self.writing)

    def line(self, row: Row) -> str:
        return f"{row['bits_per_byte']:.4f} bits per byte"


def check_texts(plans: Mapping[Cell, Sequence[Plan]], known: Texts, answers: Answers, writing: Writing) -> None:
    """Refuse what plans cannot be asked, or cannot write."""
    for plan, *_ in plans.values():
        plan_calls(plan, answers)
        writing.to_write(known.facts.vocabulary, plan_length(plan))


def asked_of_texts(plans: Sequence[Plan], windows: int, answers: Answers, writing: Writing) -> Row:
    """What a result was made with."""
    return {
        "plans": [plan.hash for plan in plans],
        "windows": windows,
        "answers": asdict(answers),
        "writing": asdict(writing),
    }


def score_texts(case: Case[Texts], run: Run, answers: Answers, writing: Writing) -> Row:
    """Bits per byte after every call, and texts."""
    denoiser = open_denoiser(run.directory, run.blockwise, run.device)
    found = evaluate_causal(denoiser, run.plan, case.known.test, answers, case.known.new)
    calls = plan_calls(run.plan, answers)
    return {
        **found,
        **written(case.cell, writing, lambda seed: "".join(write_causal(denoiser, run.plan, writing, calls, seed))),
    }


def written(cell: Cell, writing: Writing, write: Callable[[int], str]) -> Row:
    """The texts of a run, as ``oneblock sample --sample-seed`` with its seed writes them, and how fast they came."""
    began = time.perf_counter()
    texts = [write(nth_seed(cell.seed, i, "text")) for i in range(writing.count)]
    return {"characters_per_second": sum(map(len, texts)) / (time.perf_counter() - began), "samples": texts}


def untrained_row(cell: Cell) -> Row:
    """What every row has, of a run that no plan trains."""
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "layers": [],
        "parameters": None,
        "layer_evaluations": 0,
        "train_seconds": None,
        "peak_bytes": None,
        "peak_bytes_checkpointing": None,
        "characters_per_second": None,
        "samples": [],
    }


@dataclass(frozen=True)
class Counted:
    """A ``Contender``: n-grams of the training text, which are counted and not trained."""

    def check(self, known: Texts, machine: Machine) -> None:
        """Text can always be counted."""

    def row(self, case: Case[Texts]) -> Row:
        known = case.known
        began = time.perf_counter()
        scorer = n_grams(known.file)
        seconds = time.perf_counter() - began
        nats, sizes = code_lengths(scorer, known)
        size = sum(sizes) / len(sizes)
        bits = torch.tensor([each / size for each in nats]).double() / math.log(2)
        mean = float(bits.mean())
        # a window with fewer bytes than others is expected to add less
        around = bits - torch.tensor([each / size - 1.0 for each in sizes], dtype=torch.float64) * mean
        return {
            **untrained_row(case.cell),
            "train_seconds": seconds,
            "bits_per_byte": mean,
            "error": standard_error(around),
            "bits_after_calls": [mean],
        }


def code_lengths(scorer: NGramScorer, known: Texts) -> tuple[list[float], list[int]]:
    """Of every held-out window the nats of its new whole characters, and their bytes in UTF-8."""
    vocabulary = known.facts.vocabulary
    texts = [readable(row, vocabulary) for row in known.test]
    before = [len(readable(row[: len(row) - new], vocabulary)) for row, new in zip(known.test, known.new, strict=True)]
    pieces = scorer.log_probabilities(texts).split(list(map(len, texts)))
    nats = [-float(piece[start:].sum()) for piece, start in zip(pieces, before, strict=True)]
    return nats, [len(text[start:].encode()) for text, start in zip(texts, before, strict=True)]


def counted(experiment: CausalExperiment, plan: Plan) -> Counted:
    return Counted()


def two_streams(recipe: CausalRecipe) -> CausalRecipe:
    """Every block trained alone, with noisy tokens beside the text."""
    return replace(blocks_alone(recipe), streams="two")


ARMS: dict[str, Arm[CausalRecipe, CausalExperiment]] = {
    "end-to-end": Arm(recipes=end_to_end),
    "shallow": Arm(recipes=shallow),
    "ensemble": Arm(recipes=ensemble),
    "branched-ensemble": Arm(recipes=branched_ensemble, branched=True),
    "blockwise": Arm(recipes=blocks_alone),
    "branched": Arm(recipes=branched, branched=True),
    "two-streams": Arm(recipes=two_streams),
    "n-gram": Arm(recipes=ensemble, rival=counted),
}
SCORES = Scores(
    judged={"bits_per_byte": "lower"},
    spread=("bits_per_byte", "error", "characters_per_second", *COSTS),
    listed="bits_after_calls",
    ours=("blockwise", "branched", "two-streams"),
    rivals=("end-to-end", "shallow", "ensemble", "branched-ensemble"),
)
