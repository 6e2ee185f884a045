"""Language models of recurrent depth: one pass a step, and backpropagation through time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from oneblock import rivals
from oneblock.data import Vocabulary
from oneblock.evaluate.causal import BATCH, bits_row
from oneblock.evaluate.writing import WINDOWS, Writing
from oneblock.experiment.arms import blocks_alone, ensemble
from oneblock.experiment.base import Arm, Case, Cell
from oneblock.experiment.causal import SCORES as TEXT_SCORES
from oneblock.experiment.causal import TWO_TEXTS, asked_of_texts, check_texts, score_texts, untrained_row, written
from oneblock.experiment.data import Texts, open_texts
from oneblock.experiment.rivals import rival_settings, train_contender
from oneblock.experiment.summary import Row, Scores
from oneblock.plan import Plan
from oneblock.presets.causal import CausalRecipe, gpt_config, recurrent_recipe
from oneblock.presets.data import Data
from oneblock.presets.masked import plan_length
from oneblock.rivals import RivalSettings, TruncatedBPTT
from oneblock.sample.calls import Answers
from oneblock.tasks.causal import log_likelihood
from oneblock.train.loop import Run
from oneblock.train.machine import Machine


@dataclass(frozen=True, kw_only=True)
class RecurrentExperiment:
    """Networks of recurrent depth, scored by their bits per byte on the same windows of held-out text."""

    task: ClassVar[str] = "recurrent-text"

    windows: int = WINDOWS
    """windows of held-out text that every run is scored on"""
    iterations: int = 32
    """mean iterations of truncated-bptt, and how many it is scored with"""
    back: int = 8
    """iterations that gradients go through"""
    bptt_share: float = 3.0
    """work of truncated-bptt, in budgets of the others"""
    bptt_batch_size: int = 1
    """texts per step of truncated-bptt, whose steps are long: with one it learns most from its work (docs/log.md)"""
    answers: Answers = field(default_factory=lambda: Answers(calls=8))
    writing: Writing = field(default_factory=lambda: TWO_TEXTS)

    @property
    def usual(self) -> CausalRecipe:
        return replace(recurrent_recipe(), size="nano", budget="100k", batch_size=4)

    @property
    def arms(self) -> Mapping[str, Arm[CausalRecipe, RecurrentExperiment]]:
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
        asked = asked_of_texts(plans, self.windows, self.answers, self.writing)
        if ARMS[arm].rival is None:
            return asked
        del asked["answers"]
        return {**asked, **{name: getattr(self, name) for name in THROUGH_TIME}}

    def score(self, case: Case[Texts], runs: Sequence[Run]) -> Row:
        return score_texts(case, runs[0], self.answers, self.writing)

    def line(self, row: Row) -> str:
        return f"{row['bits_per_byte']:.4f} bits per byte"


THROUGH_TIME = ("iterations", "back", "bptt_share", "bptt_batch_size")
"""What the result of backpropagation through time was made with."""


@dataclass(frozen=True)
class ThroughTime:
    """A ``Contender``: a network whose middle layers are called a random number of times, with gradients through the
    last calls."""

    experiment: RecurrentExperiment
    plan: Plan
    rival: TruncatedBPTT

    def check(self, known: Texts, machine: Machine) -> None:
        self.rival.stages(known.train, self._settings(machine))

    def _settings(self, machine: Machine) -> RivalSettings:
        usual, experiment = rival_settings(self.plan, machine), self.experiment
        if not 0 < experiment.bptt_share < math.inf:
            raise ValueError(f"bptt_share={experiment.bptt_share} is not a share of work; use a number above 0")
        budget = round(experiment.bptt_share * usual.budget)
        return replace(usual, budget=budget, batch_size=experiment.bptt_batch_size)

    def row(self, case: Case[Texts]) -> Row:
        device, known, rival = case.machine.torch_device(), case.known, self.rival
        settings, length = self._settings(case.machine), plan_length(self.plan)
        trained = train_contender(case, self.plan, rival, known.train, settings)
        assert rival.model is not None, "trained"
        vocabulary = known.facts.vocabulary
        nats = torch.cat([self._lengths(part.to(device)) for part in known.test.split(BATCH)], 1)
        return {
            **untrained_row(case.cell),
            **written(case.cell, self.experiment.writing, lambda seed: self._text(vocabulary, length, device, seed)),
            "parameters": sum(p.numel() for p in rival.model.parameters()),
            **trained,
            "peak_bytes": rivals.training_peak(rival, settings).total,
            **bits_row(nats, known.test, vocabulary, known.new),
            "listed_at": self._shown,
        }

    def _text(self, vocabulary: Vocabulary, length: int, device: torch.device, seed: int) -> str:
        writing = self.experiment.writing
        prompt, count = writing.to_write(vocabulary, length)
        acting = writing.temperature, writing.top_p
        steps = self.rival.write(prompt[None].to(device), count, self.experiment.iterations, *acting, seed)
        return vocabulary.decode(torch.cat([prompt, *(step.cpu() for step in steps)]))

    @property
    def _shown(self) -> list[int]:
        """Iterations after which it is scored: 1, 2, 4, ... and the last."""
        last = self.experiment.iterations
        return [*(2**i for i in range((last - 1).bit_length())), last]

    def _lengths(self, part: Tensor) -> Tensor:
        """Code lengths (iterations, n, t) of windows (n, t)."""
        shown, steps = self._shown, enumerate(self.rival.log_probabilities(part, self.experiment.iterations), 1)
        return torch.stack([-log_likelihood(p, part).cpu() for i, p in steps if i in shown])


def truncated_bptt(experiment: RecurrentExperiment, plan: Plan) -> ThroughTime:
    return ThroughTime(experiment, plan, TruncatedBPTT(gpt_config(plan), experiment.iterations, experiment.back))


ARMS: dict[str, Arm[CausalRecipe, RecurrentExperiment]] = {
    "single-pass": Arm(recipes=blocks_alone),
    "feed-forward": Arm(recipes=ensemble),
    "truncated-bptt": Arm(recipes=ensemble, rival=truncated_bptt),
}
SCORES = replace(TEXT_SCORES, ours=("single-pass",), rivals=("feed-forward", "truncated-bptt"))
