"""Video generators: blockwise and its rivals, and what each part of the network and each noise of training is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, cast

from safetensors.torch import save_file

from oneblock.blockwise import check_resident
from oneblock.checks import check_count
from oneblock.data import VideoData, clip_codec, open_bouncing
from oneblock.data.bouncing import Bouncing
from oneblock.data.videos import PREFIX
from oneblock.evaluate.video import NUM_CLIPS, TIMES_LONGER, VideoSampling, evaluate_videos, roll_out_videos
from oneblock.experiment.arms import blocks_alone, branched
from oneblock.experiment.base import Arm, Case, Cell
from oneblock.experiment.data import Pictures, check_classes, open_clips
from oneblock.experiment.summary import COSTS, Row, Scores
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets.base import end_to_end, experts, shallow
from oneblock.presets.data import Data, check_codec
from oneblock.presets.video import VideoRecipe
from oneblock.train.loop import Run
from oneblock.train.shards import open_denoiser

ROLLOUTS_FILE = "rollouts.safetensors"
"""Of a run: ``made`` and ``true``, uint8 (n, f, c, h, w), both with the same first frames."""
SHOWN = 8
"""Rollouts that are kept."""


@dataclass(frozen=True)
class Clips(Pictures):
    """Clips of both splits, and the held-out ones with their places where these are known."""

    truth: Bouncing | None = None


@dataclass(frozen=True, kw_only=True)
class VideoExperiment:
    """Video generators, scored by held-out loss, by where things are in rollouts, and by how clips look."""

    task: ClassVar[str] = "video"

    num_clips: int = NUM_CLIPS
    """generated clips, and rollouts from true first frames, per run (0: losses alone)"""
    times_longer: int = TIMES_LONGER
    """training clips that a rollout is long"""
    report_bands: int = 3
    """bands to report held-out losses on, the same for every arm"""
    resident: int | None = None
    """blocks kept in memory; 1 holds a single block at any time"""
    sampling: VideoSampling = field(default_factory=VideoSampling)

    @property
    def usual(self) -> VideoRecipe:
        return VideoRecipe(branch=0.5)

    @property
    def arms(self) -> Mapping[str, Arm[VideoRecipe, VideoExperiment]]:
        return ARMS

    @property
    def scores(self) -> Scores:
        return SCORES

    def open(self, recipe: VideoRecipe, data: Data | None, held_out: Data | None) -> Clips:
        known = open_clips(recipe, data, held_out)
        return Clips(known.train, known.test, known.facts, _truth(known, recipe.usual_data if data is None else data))

    def fitted(self, recipe: VideoRecipe, known: Clips) -> VideoRecipe:
        return recipe

    def check(self, plans: Mapping[Cell, Sequence[Plan]], known: Clips) -> None:
        check_count("report_bands", self.report_bands)
        check_count("num_clips", self.num_clips, 0)
        check_count("times_longer", self.times_longer)
        check_resident(self.resident)
        for plan in (plan for several in plans.values() for plan in several):
            self.sampling.levels(plan)
            check_codec(plan, known.test.codec)
        if known.facts.num_classes:
            check_classes(known)

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        return {
            "plan": plans[0].hash,
            "num_clips": self.num_clips,
            "times_longer": self.times_longer,
            "report_bands": self.report_bands,
            "sampling": {**asdict(self.sampling), "resident": self.resident},
        }

    def score(self, case: Case[Clips], runs: Sequence[Run]) -> Row:
        (run,) = runs
        denoiser = open_denoiser(run.directory, run.blockwise, run.device, self.resident)
        row = evaluate_videos(
            denoiser,
            run.plan,
            case.known.test,
            truth=case.known.truth,
            bands=make_partition(run.plan.partition.law, self.report_bands),
            num_clips=self.num_clips,
            times_longer=self.times_longer,
            sampling=self.sampling,
        )
        if "place_error" not in row:
            return row
        truth = cast(Bouncing, case.known.truth)
        codec = clip_codec(case.known.test.codec)
        made, true = roll_out_videos(denoiser, run.plan, truth, SHOWN, self.times_longer, self.sampling, codec)
        save_file({"made": made, "true": true}, case.directory / ROLLOUTS_FILE)
        return {**row, "place_near": row["place_error"][0], "place_far": row["place_error"][-1]}

    def line(self, row: Row) -> str:
        places = f", {row['place_near']:.2f} to {row['place_far']:.2f} pixels off" if "place_near" in row else ""
        return f"loss {row['loss']:.4f}{places}"


def _truth(known: Pictures, data: Data) -> Bouncing | None:
    """The held-out clips with their places, where they have a name that says them."""
    named = VideoData(data=data) if isinstance(data, str) else data
    if not isinstance(named, VideoData) or not named.data.startswith(PREFIX):
        return None
    return open_bouncing(named.data, "test", size=known.test.images.shape[2], root=named.data_dir)


def changed(recipe: VideoRecipe, **settings: Any) -> VideoRecipe:
    """The whole network as one block, with other settings."""
    return replace(end_to_end(recipe), **settings)


def in_blocks(recipe: VideoRecipe, blocks: int) -> VideoRecipe:
    """So many blocks of layers, each trained alone."""
    return replace(blocks_alone(recipe), blocks=blocks, layers=())


ARMS: dict[str, Arm[VideoRecipe, VideoExperiment]] = {
    "end-to-end": Arm(recipes=end_to_end),
    "shallow": Arm(recipes=shallow),
    "experts": Arm(recipes=experts),
    "blockwise": Arm(recipes=blocks_alone),
    "two-blocks": Arm(recipes=partial(in_blocks, blocks=2)),
    "branched": Arm(recipes=branched, branched=True),
    "softmax": Arm(recipes=partial(changed, attention="softmax")),
    "rope-before": Arm(recipes=partial(changed, rope="before")),
    "no-rope": Arm(recipes=partial(changed, rope="none")),
    "no-temporal": Arm(recipes=partial(changed, temporal=False)),
    "monotone": Arm(recipes=partial(changed, levels="monotone")),
    "independent": Arm(recipes=partial(changed, levels="independent")),
}
SCORES = Scores(
    judged={"loss": "lower", "place_far": "lower", "frechet": "lower"},
    spread=("loss", "place_near", "place_far", "frechet", "frechet_floor", "frames_per_second", *COSTS),
    listed="band_losses",
    ours=("blockwise", "two-blocks", "branched"),
    rivals=("end-to-end", "shallow", "experts"),
)
