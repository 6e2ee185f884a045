"""Classifiers of images: blockwise and its rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import torch

from oneblock import rivals
from oneblock.data import to_float
from oneblock.evaluate.labels import BATCH, check_confident, evaluate_labels, label_calls, label_scores
from oneblock.experiment.arms import blocks_alone, branched, ensemble
from oneblock.experiment.base import Arm, Case, Cell
from oneblock.experiment.data import Pictures, check_classes, open_pictures
from oneblock.experiment.rivals import rival_settings, train_contender
from oneblock.experiment.summary import COSTS, Row, Scores
from oneblock.models.cnn import CNNConfig
from oneblock.plan import Plan
from oneblock.presets.base import end_to_end, shallow
from oneblock.presets.classify import ClassifyRecipe, vit_config
from oneblock.presets.cnn import cnn_plan
from oneblock.presets.data import Data
from oneblock.presets.tasks import plan_augment
from oneblock.rivals import Classifier
from oneblock.sample.calls import Answers
from oneblock.sample.labels import check_draws
from oneblock.train.loop import Run
from oneblock.train.machine import Machine
from oneblock.train.shards import open_denoiser

PATCHES = 4
"""Along each side of an image, unless the recipe says how many pixels a patch has."""
NOPROP_NETWORKS = 10
"""T of NoProp-DT (Li et al., https://arxiv.org/abs/2503.24322)."""


@dataclass(frozen=True, kw_only=True)
class ClassifyExperiment:
    """Classifiers, scored by how often they are right and how well they know it."""

    task: ClassVar[str] = "classify"

    noprop_steps: int = 30
    """Euler steps of noprop-ct at inference (1000 in its paper)"""
    confident: float = 1.0
    """stop asking about an image once a class has this probability"""
    answers: Answers = field(default_factory=Answers)

    @property
    def usual(self) -> ClassifyRecipe:
        return ClassifyRecipe(size="nano", budget="300k", batch_size=64, block_batch_size=64, branch=0.5)

    @property
    def arms(self) -> Mapping[str, Arm[ClassifyRecipe, ClassifyExperiment]]:
        return ARMS

    @property
    def scores(self) -> Scores:
        return SCORES

    def open(self, recipe: ClassifyRecipe, data: Data | None, held_out: Data | None) -> Pictures:
        # some arms do not make the paper's choices, and what they must know of the data is then known for all
        return open_pictures(replace(recipe, recipe="oneblock"), data, held_out)

    def fitted(self, recipe: ClassifyRecipe, known: Pictures) -> ClassifyRecipe:
        return replace(recipe, patch=recipe.patch or max(1, known.facts.shape[1] // PATCHES))

    def check(self, plans: Mapping[Cell, Sequence[Plan]], known: Pictures) -> None:
        check_confident(self.confident)
        check_classes(known)
        for cell, (plan,) in plans.items():
            if ARMS[cell.arm].rival is None:
                answers, _ = self._asking(cell.arm)
                check_draws(answers.draws, label_calls(plan, answers))

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        (plan,) = plans
        if ARMS[arm].rival is not None:
            return {"plan": plan.hash, "rival": arm, "noprop_steps": self.noprop_steps}
        answers, confident = self._asking(arm)
        return {"plan": plan.hash, "labels": {**asdict(answers), "confident": confident}}

    def _asking(self, arm: str) -> tuple[Answers, float]:
        """How an arm's blocks are asked, and when they have said enough."""
        own = ARMS[arm].answers
        return (self.answers, self.confident) if own is None else (own, 1.0)

    def score(self, case: Case[Pictures], runs: Sequence[Run]) -> Row:
        (run,) = runs
        denoiser = open_denoiser(run.directory, run.blockwise, run.device)
        return evaluate_labels(denoiser, run.plan, case.known.test.first(), *self._asking(case.cell.arm))

    def line(self, row: Row) -> str:
        return f"accuracy {row['accuracy']:.4f}"


@dataclass(frozen=True)
class LabelRival:
    """A ``Contender``: a classifier that is trained in its own way, with the budget, batch and rates of a plan."""

    plan: Plan
    rival: Classifier

    def check(self, known: Pictures, machine: Machine) -> None:
        self.rival.stages(known.train, rival_settings(self.plan, machine), plan_augment(self.plan) is not None)

    def row(self, case: Case[Pictures]) -> Row:
        known, settings = case.known, rival_settings(self.plan, case.machine)
        case.machine.torch_device()
        trained = train_contender(case, self.plan, self.rival, known.train, settings)
        test = known.test.first()
        answers = torch.cat([self.rival.probabilities(part) for part in to_float(test.images).split(BATCH)], dim=1)
        return {
            "arm": case.cell.arm,
            "seed": case.cell.seed,
            "layers": [],
            "parameters": None,
            **trained,
            "peak_bytes": rivals.training_peak(self.rival, settings).total,
            "peak_bytes_checkpointing": None,
            **label_scores(answers.cpu(), test.labels),
            "calls": float(len(answers)),
            "layers_per_image": float(self.rival.evaluation_layers),
        }


def paper(recipe: ClassifyRecipe) -> ClassifyRecipe:
    """The choices of DiffusionBlocks."""
    return replace(recipe, recipe="paper", branch=0.0)


def noprop_blocks(recipe: ClassifyRecipe) -> ClassifyRecipe:
    """Networks of NoProp, one in each block."""
    own = replace(recipe, recipe="oneblock", noisy_token="separate", modulated=False)
    return replace(own, depth=recipe.blocks, layers=(), branch=0.0)


def greedy(experiment: ClassifyExperiment, plan: Plan) -> LabelRival:
    return LabelRival(plan, rivals.Greedy(vit_config(plan), plan.num_blocks))


def contrastive_ff(experiment: ClassifyExperiment, plan: Plan) -> LabelRival:
    return LabelRival(plan, rivals.ContrastiveFF(vit_config(plan)))


def noprop_dt(experiment: ClassifyExperiment, plan: Plan) -> LabelRival:
    return LabelRival(plan, rivals.NoPropDT(_cnn(plan, NOPROP_NETWORKS)))


def noprop_ct(experiment: ClassifyExperiment, plan: Plan) -> LabelRival:
    return LabelRival(plan, rivals.NoPropCT(_cnn(plan), num_steps=experiment.noprop_steps, solver="euler"))


def plain_cnn(experiment: ClassifyExperiment, plan: Plan) -> LabelRival:
    return LabelRival(plan, rivals.PlainCNN(_cnn(plan)))


def _cnn(plan: Plan, networks: int = 1) -> CNNConfig:
    """NoProp's CNN of the size of ``plan``, which is that of an ordinary ViT."""
    config = vit_config(plan)
    return CNNConfig(
        image_size=config.image_size,
        channels=config.channels,
        num_classes=config.num_classes,
        label_width=config.num_classes,
        depth=networks,
        width=config.width,
    )


ORDINARY = Answers()
"""Ordinary networks know nothing of noise."""

ARMS: dict[str, Arm[ClassifyRecipe, ClassifyExperiment]] = {
    "end-to-end": Arm(recipes=end_to_end, answers=ORDINARY),
    "shallow": Arm(recipes=shallow, answers=ORDINARY),
    "ensemble": Arm(recipes=ensemble, answers=ORDINARY),
    "blockwise": Arm(recipes=blocks_alone),
    "branched": Arm(recipes=branched, branched=True),
    "paper": Arm(recipes=paper, answers=Answers(path="euler", pool="last")),
    "greedy": Arm(recipes=ensemble, rival=greedy),
    "contrastive-ff": Arm(recipes=ensemble, rival=contrastive_ff),
    "noprop-dt": Arm(recipes=ensemble, rival=noprop_dt),
    "noprop-ct": Arm(recipes=ensemble, rival=noprop_ct),
    "noprop-blocks": Arm(recipes=noprop_blocks, plan=cnn_plan),
    "cnn": Arm(recipes=ensemble, rival=plain_cnn),
}
SCORES = Scores(
    judged={"accuracy": "higher"},
    spread=("accuracy", "ece", "nll", "layers_per_image", *COSTS),
    listed="accuracies",
    ours=("blockwise", "branched"),
    rivals=("end-to-end", "shallow", "ensemble"),
)
