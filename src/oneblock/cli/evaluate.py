"""``oneblock evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from oneblock.cli import console
from oneblock.cli.bytes import EvaluateBytes
from oneblock.cli.opening import Opening
from oneblock.data import ImageData, TextData, VideoData
from oneblock.evaluate.images import NUM_SAMPLES, Sampling
from oneblock.evaluate.masked import TIMES
from oneblock.evaluate.quality import QualityOptions
from oneblock.evaluate.video import NUM_CLIPS, TIMES_LONGER, VideoSampling
from oneblock.evaluate.writing import WINDOWS, CausalWriting, MaskedWriting
from oneblock.model import CausalModel, ClassifyModel, ImageModel, MaskedModel, VideoModel
from oneblock.presets.bytes import TASK
from oneblock.report.scores import image_tables, label_table, quality_table, text_table
from oneblock.report.video import video_tables
from oneblock.sample.calls import Answers


def _own_images() -> ImageData:
    """Those of the plan."""
    return ImageData(data="")


def _own_text() -> TextData:
    return TextData(data="")


@dataclass(frozen=True, kw_only=True)
class EvaluateImages(Opening):
    """Scores of an image generator on held-out data.

    Denoising loss per band, and quality of generated images on a named feature extractor. The Frechet distance is on
    our own features and stands beside the distance of real images to real images; it is not comparable with published
    FID. Of a model that is told captions also the share of images whose own caption is the nearest of all that were
    asked for, by a small network that is trained for it on the training images, once for all models on the same data.
    """

    num_samples: int = NUM_SAMPLES
    """generated images (0: losses alone)"""
    report_bands: int = 0
    """bands to report losses on (0: the plan's own)"""
    extractor: str = ""
    """digits-cnn, fashion-mnist-cnn or efficientnet-lite0 (default: what fits the data)"""
    fid_weights: Path | None = None
    """file of torch-fidelity's Inception weights, for the published FID beside our own distances"""
    detail: bool = False
    """also MIND, interval and limit of the Frechet distance, and a classifier's version of the Inception score"""
    data: ImageData = field(default_factory=_own_images)
    sampling: Sampling = field(default_factory=Sampling)

    def run(self) -> None:
        model = self.open(ImageModel)
        row = model.evaluate(
            self.data,
            num_samples=self.num_samples,
            report_bands=self.report_bands,
            extractor=self.extractor,
            fid_weights=self.fid_weights,
            detail=self.detail,
            **asdict(self.sampling),
        )
        console.note(row)
        if self.json:
            console.emit(row)
            return
        for table in image_tables(row, model.bands(self.report_bands)):
            console.table(table)


def _own_clips() -> VideoData:
    return VideoData(data="")


@dataclass(frozen=True, kw_only=True)
class EvaluateVideo(Opening):
    """Scores of a video generator on held-out clips.

    Denoising loss per band of blocks of frames after clean ones, the Frechet distance on pairs of neighbouring frames,
    and where the places of what moves are known, how far off they are in videos that go on from true first frames.
    """

    num_clips: int = NUM_CLIPS
    """generated clips, and videos that go on from true frames (0: losses alone)"""
    times_longer: int = TIMES_LONGER
    """training clips that the latter are long"""
    report_bands: int = 0
    """bands to report losses on (0: the plan's own)"""
    data: VideoData = field(default_factory=_own_clips)
    sampling: VideoSampling = field(default_factory=VideoSampling)

    def run(self) -> None:
        model = self.open(VideoModel)
        row = model.evaluate(
            self.data,
            num_clips=self.num_clips,
            times_longer=self.times_longer,
            report_bands=self.report_bands,
            **asdict(self.sampling),
        )
        console.note(row)
        if self.json:
            console.emit(row)
            return
        for table in video_tables(row, model.bands(self.report_bands)):
            console.table(table)


@dataclass(frozen=True, kw_only=True)
class EvaluateClassify(Opening):
    """Scores of a classifier on held-out images: accuracy after every call of a block, calibration and likelihood."""

    confident: float = 1.0
    """stop asking about an image once a class has this probability"""
    data: ImageData = field(default_factory=_own_images)
    answers: Answers = field(default_factory=Answers)

    def run(self) -> None:
        row = self.open(ClassifyModel).evaluate(self.data, confident=self.confident, **asdict(self.answers))
        console.note(row)
        if self.json:
            console.emit(row)
        else:
            console.table(label_table(row))


@dataclass(frozen=True, kw_only=True)
class EvaluateText(Opening):
    """What the scores of both kinds of models of text have in common."""

    windows: int = WINDOWS
    """windows of held-out text"""
    sample_seed: int = 0
    """seed of the texts that are written"""
    data: TextData = field(default_factory=_own_text)
    quality: QualityOptions = field(default_factory=QualityOptions)

    def _score(self, evaluate: Callable[..., dict[str, Any]], **options: Any) -> None:
        """Show the scores of held-out text as soon as they are there, and of written text when it is written."""
        done: list[dict[str, Any]] = []

        def scored(row: dict[str, Any]) -> None:
            done.append(row)
            if not self.json:
                console.table(text_table(row))

        try:
            row = evaluate(
                self.data,
                windows=self.windows,
                sample_seed=self.sample_seed,
                scored=scored,
                **asdict(self.quality),
                **options,
            )
        except BaseException:
            if done and self.json:
                console.emit(done[0])
            raise
        console.note(row)
        if self.json:
            console.emit(row)
        elif "quality" in row:
            table, notes = quality_table(row["quality"])
            console.table(table)
            for note in notes:
                console.say(note)


@dataclass(frozen=True, kw_only=True)
class EvaluateMaskedText(EvaluateText):
    """Scores of a model of masked text on held-out text: a bound on the bits per byte, with its Monte-Carlo error.

    With --texts, also what it writes beside held-out text of the same length.
    """

    times: int = TIMES
    """masked shares of every band for each window"""
    report_bands: int = 0
    """bands to report the bound on (0: the plan's own)"""
    writing: MaskedWriting = field(default_factory=MaskedWriting)

    def run(self) -> None:
        evaluate = self.open(MaskedModel).evaluate
        self._score(evaluate, times=self.times, report_bands=self.report_bands, **asdict(self.writing))


@dataclass(frozen=True, kw_only=True)
class EvaluateCausalText(EvaluateText):
    """Scores of an autoregressive model on held-out text: bits per byte after every call.

    With --texts, also what it writes beside held-out text of the same length.
    """

    answers: Answers = field(default_factory=Answers)
    writing: CausalWriting = field(default_factory=CausalWriting)

    def run(self) -> None:
        self._score(self.open(CausalModel).evaluate, **asdict(self.answers), **asdict(self.writing))


EVALUATE: dict[str, type[Any]] = {
    "image": EvaluateImages,
    "classify": EvaluateClassify,
    "video": EvaluateVideo,
    "masked-text": EvaluateMaskedText,
    "text": EvaluateCausalText,
    TASK: EvaluateBytes,
}
"""The options of ``oneblock evaluate`` by task."""
