"""Image generators: blockwise and its rivals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from oneblock.blockwise import DenoiserLike, check_resident
from oneblock.condition import Condition
from oneblock.evaluate.common import common_law
from oneblock.evaluate.curves import check_curve, sampling_curve, state_distances
from oneblock.evaluate.images import NUM_SAMPLES, Sampling, asked_labels, evaluate_images, sample_images
from oneblock.evaluate.reference import check_features, extractor_name, makes_images, quality_features
from oneblock.evaluate.retrieval import SPREAD_SCORES
from oneblock.experiment.arms import blocks_alone, branched, shallow_ensemble
from oneblock.experiment.base import Arm, Case, Cell
from oneblock.experiment.curves import CURVE
from oneblock.experiment.data import Pictures, check_classes, open_pictures
from oneblock.experiment.methods import METHODS
from oneblock.experiment.summary import COSTS, Row, Scores
from oneblock.guidance import Averaged
from oneblock.metrics.features import check_extractor
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets.base import end_to_end, experts, shallow
from oneblock.presets.data import Data, check_codec
from oneblock.presets.image import ImageRecipe, image_task, source_captions
from oneblock.presets.relay import hands_on
from oneblock.train.loop import Run
from oneblock.train.shards import open_denoiser

SAMPLES_FILE = "samples.safetensors"
"""Of a run: ``images`` uint8 (n, c, h, w), so many of each class; other samples float32 (n, *shape)."""
SAMPLES_PER_CLASS = 8
CARRY_SHARE = 0.9
"""Of the samples of a step, that get a state in the arms that carry one."""
SAMPLES_WITHOUT_CLASS = SAMPLES_PER_CLASS**2
"""Of a network that is told no classes."""


@dataclass(frozen=True, kw_only=True)
class ImageExperiment:
    """Image generators, scored by held-out loss and by the quality of what they generate."""

    task: ClassVar[str] = "images"

    num_samples: int = 4000
    """generated images per run (0: losses alone); more than in evaluate, for less noise in the Frechet distance"""
    report_bands: int = 3
    """bands to report held-out losses on, the same for every arm"""
    extractor: str = ""
    """digits-cnn, fashion-mnist-cnn or efficientnet-lite0 (default: what fits the data)"""
    resident: int | None = None
    """blocks kept in memory; 1 holds a single block at any time"""
    sampling_steps: tuple[int, ...] = ()
    """numbers of steps, e.g. 4 8 12 24 48 72: shows quality against sampling work, with Euler and DPM-Solver++(2M)"""
    sampling_images: int = NUM_SAMPLES
    """generated images for each of --sampling-steps and each solver"""
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def usual(self) -> ImageRecipe:
        return ImageRecipe(branch=0.5)

    @property
    def arms(self) -> Mapping[str, Arm[ImageRecipe, ImageExperiment]]:
        return ARMS

    @property
    def scores(self) -> Scores:
        return SCORES

    def open(self, recipe: ImageRecipe, data: Data | None, held_out: Data | None) -> Pictures:
        if self.extractor and self.num_samples:
            check_extractor(self.extractor)  # before images are read
        return open_pictures(recipe, data, held_out)

    def fitted(self, recipe: ImageRecipe, known: Pictures) -> ImageRecipe:
        return recipe

    def check(self, plans: Mapping[Cell, Sequence[Plan]], known: Pictures) -> None:
        if self.report_bands < 1:
            raise ValueError(f"report_bands={self.report_bands} is not a number of bands; use 1 or more")
        check_resident(self.resident)
        every = [plan for several in plans.values() for plan in several]
        for plan in every:
            self.sampling.levels(plan)
        check_curve(every, self.sampling, self.sampling_steps, self.sampling_images)
        source_captions(every[0], known.test)
        if image_task(every[0]).num_classes:
            check_classes(known)
        check_codec(every[0], known.test.codec)
        quality_features(every[0], known.train, known.test, self.num_samples, self.extractor)
        if makes_images(every[0], known.test.codec):
            left_out = check_features(every[0], self.extractor, self.num_samples)
            if left_out:
                warnings.warn(f"scores are losses alone, {left_out}", stacklevel=2)

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        plan = plans[0]
        return {
            **({"plan": plan.hash} if len(plans) == 1 else {"plans": [one.hash for one in plans]}),
            "num_samples": self.num_samples,
            "report_bands": self.report_bands,
            "extractor": extractor_name(plan, self.extractor),
            "sampling": {**self.sampling.settings(), "resident": self.resident},
            **self._curve_asked(),
            **({"sampling_images": self.sampling_images} if hands_on(plan) else {}),
        }

    def score(self, case: Case[Pictures], runs: Sequence[Run]) -> Row:
        plan, known = runs[0].plan, case.known
        denoiser = self._denoiser(runs)
        found = evaluate_images(
            denoiser,
            plan,
            known.train,
            known.test,
            bands=make_partition(common_law(plan), self.report_bands),
            common=True,
            num_samples=self.num_samples,
            extractor=self.extractor,
            sampling=self.sampling,
        )
        labels = _told(plan)
        count = SAMPLES_WITHOUT_CLASS if labels is None else None
        images = sample_images(denoiser, plan, labels, self.sampling, known.train.codec, count=count)
        save_file({"images": images}, case.directory / SAMPLES_FILE)
        return found | self._curve(denoiser, case) | self._states(denoiser, case)

    def _curve_asked(self) -> Row:
        """What a result with a curve must have been made with; nothing where none is asked for."""
        if not self.sampling_steps:
            return {}
        return {"sampling_steps": self.sampling_steps, "sampling_images": self.sampling_images}

    def _curve(self, denoiser: DenoiserLike, case: Case[Pictures]) -> Row:
        if not self.sampling_steps:
            return {}
        train, test = case.known.train, case.known.test
        found = sampling_curve(
            denoiser,
            case.plans,
            train,
            test,
            steps=self.sampling_steps,
            num_samples=self.sampling_images,
            sampling=self.sampling,
            extractor=self.extractor,
        )
        return {CURVE: found}

    def _states(self, denoiser: DenoiserLike, case: Case[Pictures]) -> Row:
        """The distance for every way that a state may go, of networks that hand one on."""
        if not self.num_samples or not hands_on(case.plans[0]):
            return {}
        train, test = case.known.train, case.known.test
        found = state_distances(
            denoiser,
            case.plans,
            train,
            test,
            num_samples=self.sampling_images,
            sampling=self.sampling,
            extractor=self.extractor,
        )
        return {"states": found}

    def _denoiser(self, runs: Sequence[Run]) -> DenoiserLike:
        """The denoiser of a case: that of its run, or the mean of those of an ensemble."""
        members = [open_denoiser(run.directory, run.blockwise, run.device, self.resident) for run in runs]
        return members[0] if len(members) == 1 else Averaged(members)

    def line(self, row: Row) -> str:
        quality = f", Frechet {row['frechet']:.2f}" if "frechet" in row else ""
        return f"loss {row['loss']:.4f}{quality}"


def _told(plan: Plan) -> Tensor | Condition | None:
    """What samples to look at are told: so many of each class, or of each caption that the plan holds."""
    asked = asked_labels(plan)
    if asked is None:
        return None
    each = torch.arange(len(asked)).repeat_interleave(SAMPLES_PER_CLASS)
    return asked.take(each) if isinstance(asked, Condition) else asked[each]


def carried(recipe: ImageRecipe) -> ImageRecipe:
    """With a state that calls hand on, for the share of samples that the recipe says or, if it says none, the usual."""
    return replace(recipe, carry=recipe.carry or CARRY_SHARE)


def carried_from_same(recipe: ImageRecipe) -> ImageRecipe:
    """The same with a state from a pass that has seen the same noise."""
    return replace(carried(recipe), carry_from="same")


ARMS: dict[str, Arm[ImageRecipe, ImageExperiment]] = {
    "end-to-end": Arm(recipes=end_to_end),
    "shallow": Arm(recipes=shallow),
    "ensemble": Arm(recipes=shallow_ensemble),
    "experts": Arm(recipes=experts),
    "blockwise": Arm(recipes=blocks_alone),
    "branched": Arm(recipes=branched, branched=True),
    "shallow-carry": Arm(recipes=lambda recipe: carried(shallow(recipe)), usual=False),
    "end-to-end-carry": Arm(recipes=lambda recipe: carried(end_to_end(recipe)), usual=False),
    "blockwise-carry": Arm(recipes=lambda recipe: carried(blocks_alone(recipe)), usual=False),
    "branched-carry": Arm(recipes=carried, branched=True, usual=False),
    "branched-carry-same": Arm(recipes=carried_from_same, branched=True, usual=False),
}
ARMS |= {name: Arm(recipes=method, usual=False) for name, method in METHODS.items() if name not in ARMS}
SCORES = Scores(
    judged={"loss": "lower", "frechet": "lower"},
    spread=(
        *("loss", "frechet", "frechet_floor", "kernel", "precision", "recall", "coverage"),
        *SPREAD_SCORES,
        "images_per_second",
        *COSTS,
    ),
    listed="band_losses",
    ours=("blockwise", "branched", "shallow-carry", "blockwise-carry", "branched-carry"),
    rivals=("end-to-end", "shallow", "ensemble", "experts", "end-to-end-carry", "branched-carry-same"),
)
