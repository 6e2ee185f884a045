"""Image generators: blockwise and its rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar, cast

import torch
from safetensors.torch import save_file

from oneblock.evaluate.images import Sampling, evaluate_images, sample_images
from oneblock.experiment.arms import blocks_alone, branched
from oneblock.experiment.base import Arm, Case
from oneblock.experiment.data import Pictures, open_pictures
from oneblock.experiment.summary import COSTS, Row, Scores
from oneblock.metrics import default_extractor
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets.base import end_to_end, shallow
from oneblock.presets.data import Data, check_fit
from oneblock.presets.image import ImageRecipe, image_task
from oneblock.train.loop import Run
from oneblock.train.shards import open_denoiser

SAMPLES_FILE = "samples.safetensors"
"""Of a run: ``images`` uint8 (n, c, h, w), so many of each class."""
SAMPLES_PER_CLASS = 8


@dataclass(frozen=True, kw_only=True)
class ImageExperiment:
    """Image generators, scored by held-out loss and by the quality of what they generate."""

    task: ClassVar[str] = "images"

    num_samples: int = 4000
    """generated images per run"""
    report_bands: int = 3
    """bands to report held-out losses on, the same for every arm"""
    extractor: str = ""
    """digits-cnn, fashion-mnist-cnn or efficientnet-lite0 (default: what fits the data)"""
    resident: int | None = None
    """blocks kept in memory; 1 holds a single block at any time"""
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
        return open_pictures(recipe, data, held_out)

    def fitted(self, recipe: ImageRecipe, known: Pictures) -> ImageRecipe:
        return recipe

    def check(self, plans: Sequence[Plan], known: Pictures) -> None:
        """Every plan can be scored."""
        check_fit(plans[0], known.test)

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        (plan,) = plans
        return {
            "plan": plan.hash,
            "num_samples": self.num_samples,
            "report_bands": self.report_bands,
            "extractor": self.extractor or default_extractor(cast(str, plan.recipe["data"])),
            "sampling": {**asdict(self.sampling), "resident": self.resident},
        }

    def score(self, case: Case[Pictures], runs: Sequence[Run]) -> Row:
        (run,) = runs
        plan, known = run.plan, case.known
        denoiser = open_denoiser(run.directory, run.blockwise, run.device, self.resident)
        found = evaluate_images(
            denoiser,
            plan,
            known.train,
            known.test,
            bands=make_partition(plan.partition.law, self.report_bands),
            num_samples=self.num_samples,
            extractor=self.extractor,
            sampling=self.sampling,
        )
        labels = torch.arange(image_task(plan).num_classes).repeat_interleave(SAMPLES_PER_CLASS)
        images = sample_images(denoiser, plan, labels, self.sampling, known.train.codec)
        save_file({"images": images}, case.directory / SAMPLES_FILE)
        return found

    def line(self, row: Row) -> str:
        return f"loss {row['loss']:.4f}, Frechet {row['frechet']:.2f}"


ARMS: dict[str, Arm[ImageRecipe, ImageExperiment]] = {
    "end-to-end": Arm(recipes=end_to_end),
    "shallow": Arm(recipes=shallow),
    "blockwise": Arm(recipes=blocks_alone),
    "branched": Arm(recipes=branched, branched=True),
}
SCORES = Scores(
    judged={"loss": "lower", "frechet": "lower"},
    spread=(
        *("loss", "frechet", "frechet_floor", "kernel", "precision", "recall", "coverage"),
        "images_per_second",
        *COSTS,
    ),
    listed="band_losses",
    ours=("blockwise", "branched"),
    rivals=("end-to-end", "shallow"),
)
