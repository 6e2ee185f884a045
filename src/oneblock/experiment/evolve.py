"""Gradients without a backward pass: one classifier by backpropagation and by evolution, at equal steps and at equal
processor time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from oneblock.data import to_float
from oneblock.evaluate.labels import BATCH, label_scores
from oneblock.experiment.base import Arm, Case, Cell
from oneblock.experiment.data import Pictures, check_classes, open_pictures
from oneblock.experiment.rivals import rival_settings, train_contender
from oneblock.experiment.summary import COSTS, Row, Scores
from oneblock.models.perceptron import PerceptronConfig
from oneblock.plain import read_plain, write_whole
from oneblock.plan import Plan
from oneblock.presets.base import ImageFacts, end_to_end, square
from oneblock.presets.classify import ClassifyRecipe
from oneblock.presets.data import Data
from oneblock.presets.tasks import plan_augment
from oneblock.rivals import PlainPerceptron, RivalSettings, training_peak
from oneblock.rivals.train import step_seconds
from oneblock.train.evolve import UpdateSettings, plan_update
from oneblock.train.loop import Run
from oneblock.train.machine import Machine

TIMED = "-timed"
"""At the end of an arm's name: it has as much processor time as all others of its kind."""
TIMING_FILE = "timing.json"
MEANT = (
    *("depth", "width", "batch_size", "budget", "seed", "population", "weight_noise", "shaping", "chunk", "flip"),
    *("optimizer", "learning_rate", "weight_decay", "beta1", "beta2", "ema_gamma", "clip", "hold", "warmup"),
)
"""Settings of a recipe that mean something for a perceptron; ways to find its gradients are arms."""


@dataclass(frozen=True, kw_only=True)
class EvolveExperiment:
    """A perceptron, scored by how often it is right."""

    task: ClassVar[str] = "evolve"

    cpu_seconds: float = 5.0
    """processor time of the training of every arm that is called -timed"""

    @property
    def usual(self) -> ClassifyRecipe:
        return ClassifyRecipe(
            depth=3,
            width=64,
            heads=1,
            blocks=1,
            budget="57.6k",
            batch_size=64,
            update="evolution",
            population=512,
            weight_noise=0.05,
            chunk=512,
        )

    @property
    def arms(self) -> Mapping[str, Arm[ClassifyRecipe, EvolveExperiment]]:
        return ARMS

    @property
    def scores(self) -> Scores:
        return SCORES

    def open(self, recipe: ClassifyRecipe, data: Data | None, held_out: Data | None) -> Pictures:
        return open_pictures(recipe, data, held_out)

    def fitted(self, recipe: ClassifyRecipe, known: Pictures) -> ClassifyRecipe:
        usual = self.usual
        for field in fields(recipe):
            value = getattr(recipe, field.name)
            if field.name not in MEANT and value != getattr(usual, field.name):
                raise ValueError(
                    f"{field.name}={value!r} means nothing here: a perceptron is trained, and the arms say how its "
                    "gradients are found; leave it out"
                )
        return recipe

    def check(self, plans: Mapping[Cell, Sequence[Plan]], known: Pictures) -> None:
        check_classes(known)
        if not 0 < self.cpu_seconds < math.inf:
            raise ValueError(f"cpu_seconds={self.cpu_seconds} is not a time; use seconds above 0")

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        (plan,) = plans
        asked: Row = {"plan": plan.hash, "rival": arm}
        return {**asked, "cpu_limit": self.cpu_seconds} if arm.endswith(TIMED) else asked

    def score(self, case: Case[Pictures], runs: Sequence[Run]) -> Row:
        raise AssertionError("every arm is a rival, which scores itself")

    def line(self, row: Row) -> str:
        return f"accuracy {row['accuracy']:.4f} after {row['steps']:,} steps"


@dataclass(frozen=True)
class PerceptronContender:
    """A ``Contender``: a perceptron with the batch, rates and update of a plan.

    Args:
        cpu_seconds: it may train for; None: for the budget of the plan.
    """

    plan: Plan
    cpu_seconds: float | None

    def check(self, known: Pictures, machine: Machine) -> None:
        self._rival(known).stages(known.train, rival_settings(self.plan, machine), plan_augment(self.plan) is not None)

    def row(self, case: Case[Pictures]) -> Row:
        known, rival = case.known, self._rival(case.known)
        case.machine.torch_device()
        settings = self._settings(case)
        began = time.process_time()
        trained = train_contender(case, self.plan, rival, known.train, settings)
        spent = time.process_time() - began
        test = known.test.first()
        answers = torch.cat([rival.probabilities(part) for part in to_float(test.images).split(BATCH)], dim=1)
        assert rival.network is not None, "trained"
        return {
            "arm": case.cell.arm,
            "seed": case.cell.seed,
            "layers": [],
            "parameters": sum(p.numel() for p in rival.network.parameters()),
            **trained,
            "steps": settings.budget // self._cost,
            "cpu_seconds": None if trained["train_seconds"] is None else spent,
            "learning_rate": settings.optimizer.learning_rate,
            **asdict(rival.update),
            "peak_bytes": training_peak(rival, settings).total,
            "peak_bytes_checkpointing": None,
            **label_scores(answers.cpu(), test.labels),
        }

    def _rival(self, known: Pictures) -> PlainPerceptron:
        channels, size = square(known.facts)
        config = PerceptronConfig(
            image_size=size,
            channels=channels,
            num_classes=known.facts.num_classes,
            depth=self.plan.depth,
            width=int(str(self.plan.architecture["width"])),
        )
        return PlainPerceptron(config, plan_update(self.plan))

    @property
    def _cost(self) -> int:
        """Layer evaluations of a step."""
        return int(str(self.plan.recipe["batch_size"])) * self.plan.depth

    def _settings(self, case: Case[Pictures]) -> RivalSettings:
        """Those of the plan, with as many steps as the time pays for. What is loaded on first use is loaded by then."""
        usual, path = rival_settings(self.plan, case.machine), case.directory / TIMING_FILE
        timed = partial(step_seconds, self._rival(case.known), case.known.train, usual, plan_augment(self.plan))
        if self.cpu_seconds is None:
            timed(least=0.0)
            return usual
        steps = _known_steps(path)
        if steps is None:
            each = timed()
            steps = max(1, round(self.cpu_seconds / each))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"steps": steps, "seconds_each": each}) + "\n")
        return replace(usual, budget=steps * self._cost)


def _known_steps(path: Path) -> int | None:
    """How many steps a run that was begun has; None if it was not."""
    if not path.is_file():
        return None
    values = read_plain(path)
    steps = values.get("steps") if isinstance(values, dict) else None
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"{path} does not say how many steps the run has; delete the directory of the run")
    return steps


Change = Callable[[ClassifyRecipe], ClassifyRecipe]


def backpropagation(recipe: ClassifyRecipe) -> ClassifyRecipe:
    usual = {field.name: getattr(UpdateSettings(), field.name) for field in fields(UpdateSettings)}
    return replace(recipe, **usual)


def low_rank(rank: int) -> Change:
    """EGGROLL: noise of ``rank``, or with 0 of full rank, by the population of the recipe."""
    return lambda recipe: replace(recipe, update="evolution", noise_rank=rank)


def two_members(recipe: ClassifyRecipe) -> ClassifyRecipe:
    """As MeZO (Malladi et al., https://arxiv.org/abs/2305.17333): one pair with noise of full rank, and the difference
    of its losses as it is."""
    return replace(recipe, update="evolution", noise_rank=0, population=2, chunk=2, shaping="none")


WAYS: dict[str, Change] = {
    "backpropagation": backpropagation,
    "rank-1": low_rank(1),
    "rank-4": low_rank(4),
    "full-rank": low_rank(0),
    "two-members": two_members,
}
RATES: dict[str, dict[str, float]] = {
    "digits": {
        "backpropagation": 0.01,
        "rank-1": 0.04,
        "rank-4": 0.04,
        "full-rank": 0.01,
        "two-members": 0.01,
        "backpropagation-timed": 0.0025,
        "rank-1-timed": 0.04,
        "rank-4-timed": 0.04,
        "full-rank-timed": 0.04,
        "two-members-timed": 0.01,
    },
}
"""Peak learning rate of each arm by the name of the data: the best of 0.0025, 0.01 and 0.04 on seed 0 (docs/log.md,
``benchmarks/evolve_rates.py``). Other data have the first ones, and ``recipe.learning_rate`` goes before."""


def usual_rate(arm: str, data: str) -> float:
    """That of an arm on the data of a name."""
    return RATES.get(data, next(iter(RATES.values())))[arm]


def _arm(way: Change, name: str) -> Arm[ClassifyRecipe, EvolveExperiment]:
    def plan(recipe: ClassifyRecipe, facts: ImageFacts) -> Plan:
        rate = recipe.learning_rate or usual_rate(name, facts.data)
        return replace(recipe, learning_rate=rate).plan(facts)

    def rival(experiment: EvolveExperiment, plan: Plan) -> PerceptronContender:
        return PerceptronContender(plan, experiment.cpu_seconds if name.endswith(TIMED) else None)

    return Arm(recipes=lambda recipe: way(end_to_end(recipe)), plan=plan, rival=rival)


ARMS: dict[str, Arm[ClassifyRecipe, EvolveExperiment]] = {
    name + kind: _arm(way, name + kind) for kind in ("", TIMED) for name, way in WAYS.items()
}
OURS = ("rank-1",)
SCORES = Scores(
    judged={"accuracy": "higher"},
    spread=("accuracy", "nll", "steps", "cpu_seconds", *COSTS),
    listed="accuracies",
    ours=OURS,
    rivals=tuple(name for name in WAYS if name not in OURS),
)
