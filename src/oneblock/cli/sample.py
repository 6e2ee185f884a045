"""``oneblock sample``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import UseAppendAction

from oneblock.cli import console
from oneblock.cli.bytes import SampleBytes
from oneblock.cli.opening import Opening
from oneblock.data import read_picture
from oneblock.evaluate.images import Sampling
from oneblock.evaluate.video import VideoSampling, VideoStream
from oneblock.evaluate.writing import CausalWriting, MaskedWriting, Writing
from oneblock.model import CausalModel, ImageModel, MaskedModel, VideoModel
from oneblock.presets.bytes import TASK
from oneblock.presets.captions import example_captions, is_captioned
from oneblock.presets.image import image_shape
from oneblock.presets.names import class_labels, has_names
from oneblock.report.samples import check_samples_place, write_samples
from oneblock.report.video import FPS, check_video_place, open_video
from oneblock.sample.calls import Asking
from oneblock.train.stop import caught

TELL_SECONDS = 10
"""Between two lines about a stream that is being made."""


@dataclass(frozen=True, kw_only=True)
class SampleImages(Opening):
    """Generate images with a run or a merged model: a PNG grid, one row per class or caption, and the images as
    safetensors.

    If the targets are not images, only the safetensors.
    """

    out: Path = Path("samples.png")
    """the picture; the images go beside it as .safetensors (uint8)"""
    per_class: int = 10
    """images per class or caption, or in all if the model has neither"""
    classes: tuple[str, ...] = ()
    """which classes, by name or number (all if none is named)"""
    caption: Annotated[tuple[str, ...], UseAppendAction] = ()
    """what a model that was trained with captions is told, once for each row; "" tells it nothing (without the option:
    some captions of the training images)"""
    autoencoder: Path | None = None
    """directory of the AutoencoderKL that the model was trained with, if it denoises latents"""
    text_encoder: Path | None = None
    """directory of the text encoder that the model was trained with, if that is not where it was"""
    sampling: Sampling = field(default_factory=Sampling)

    def run(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"per_class={self.per_class} is too small; use 1 or more")
        check_samples_place(self.out)
        model = self.open(ImageModel)
        captions = self._captions(model)
        classes = class_labels(model.plan, self.classes) if self.classes else list(range(len(model.classes)))
        labels = torch.tensor(classes).repeat_interleave(self.per_class) if classes else None
        began = time.perf_counter()
        images = model.sample(
            labels,
            captions=[caption for caption in captions for _ in range(self.per_class)] or None,
            count=self.per_class if labels is None and not captions else None,
            autoencoder=self.autoencoder,
            text_encoder=self.text_encoder,
            **asdict(self.sampling),
        )
        seconds = time.perf_counter() - began
        names = [model.classes[label] for label in classes]
        rows = captions or (names if has_names(model.plan) else ())
        shown = str(write_samples(self.out, images, labels, self.per_class, rows))
        cost = self.sampling.layer_evaluations(model.plan)
        if self.json:
            row = {"picture": shown, "images": len(images), "seconds": round(seconds, 2), "layer_evaluations": cost}
            console.emit(row | ({"classes": names} if names else {"captions": list(captions)} if captions else {}))
        else:
            console.say(f"{len(images)} images in {seconds:.1f} s ({cost} layer evaluations each at most): {shown}")

    def _captions(self, model: ImageModel) -> tuple[str, ...]:
        """Of each row; empty of a model that is told none."""
        if is_captioned(model.plan) and self.classes:
            raise ValueError(f"classes={list(self.classes)}: the model is told captions, not classes; use --caption")
        return self.caption or example_captions(model.plan)


@dataclass(frozen=True, kw_only=True)
class SampleVideo(Opening):
    """Generate video with a run or a merged model, of any length, written while it is made."""

    stream: Path = Path("samples.gif")
    """file: .mp4 (pip install 'oneblock[video]'), which takes no more memory the longer it gets, .gif, .webp, or .png,
    a picture of all frames"""
    frames: int = 0
    """frames of each video (0: as many as a training clip has)"""
    count: int = 1
    """videos of each class, or in all if the model has no classes"""
    classes: tuple[str, ...] = ()
    """which classes, by name or number (all if none is named)"""
    first: Path | None = None
    """picture that the videos begin with"""
    state: Path | None = None
    """file that keeps what is needed to go on: the frames follow on those of an earlier call that left it there"""
    fps: int = FPS
    """frames a second of the file"""
    autoencoder: Path | None = None
    """directory of the autoencoder that the model was trained with, if it denoises latents; --frames counts decoded
    frames"""
    sampling: VideoSampling = field(default_factory=VideoSampling)

    def run(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count} makes nothing; use 1 or more")
        check_video_place(self.stream)
        model = self.open(VideoModel)
        codec = model.codec(self.autoencoder)
        length, channels, size, _ = codec.decoded_shape(image_shape(model.plan))
        classes = class_labels(model.plan, self.classes) if self.classes else list(range(len(model.classes)))
        labels = torch.tensor(classes).repeat_interleave(self.count) if classes else None
        number = self.count if labels is None else len(labels)
        first = None
        if self.first is not None:
            first = read_picture(self.first, size, channels).expand(number, 1, -1, -1, -1)
        asked = {
            "labels": labels,
            "count": None if classes else number,
            "frames": self.frames or length,
            "first": first,
            "autoencoder": codec,
            **asdict(self.sampling),
        }
        state = self.state if self.state is not None and self.state.exists() else None
        blocks = model.stream(**asked, state=state) if codec.streams or self.state else [model.sample(**asked)]
        done, seconds = self._write(blocks)
        rate = done * number / seconds
        if self.json:
            row = {"video": str(self.stream), "videos": number, "frames": done, "seconds": round(seconds, 2)}
            console.emit({**row, "frames_per_second": round(rate, 2)})
        else:
            console.say(f"{number} videos of {done} frames in {seconds:.1f} s ({rate:.1f} frames/s): {self.stream}")

    def _write(self, blocks: Iterable[Tensor]) -> tuple[int, float]:
        """Write blocks of frames as they are made, and say how far it is; how many frames, in how many seconds. A
        signal ends the file after the block that is being made, and a second one at once."""
        file, done, began = open_video(self.stream, self.fps), 0, time.perf_counter()
        told, signals = began, list[int]()

        def ask(number: int, frame: object) -> None:
            signals.append(number)
            if len(signals) > 1:
                raise KeyboardInterrupt

        try:
            with caught(ask):
                for block in blocks:
                    file.add(block)
                    done += block.shape[1]
                    now = time.perf_counter()
                    if signals:
                        console.say(f"stopped after {done} frames: {self.stream}", self.json)
                        raise KeyboardInterrupt
                    if now - told > TELL_SECONDS:
                        console.say(f"{done} frames, {done * len(block) / (now - began):.1f} frames/s", self.json)
                        told = now
        finally:
            file.close()
            if self.state is not None and done and isinstance(blocks, VideoStream):
                blocks.save(self.state)
        return done, time.perf_counter() - began


@dataclass(frozen=True, kw_only=True)
class SampleMaskedText(Opening):
    """Write text with a model of masked text, on standard output."""

    count: int = Writing.count
    """number of sequences"""
    sample_seed: int = 0
    """seed of everything drawn"""
    writing: MaskedWriting = field(default_factory=MaskedWriting)

    def run(self) -> None:
        model = self.open(MaskedModel)
        written = model.write(Writing(count=self.count, **asdict(self.writing)), self.sample_seed)
        for text, calls in zip(written.texts, written.calls, strict=True):
            if self.json:
                console.emit({"text": text, **({"calls": calls} if self.writing.order == "policy" else {})})
            else:
                print(text, end="\n\n", flush=True)


@dataclass(frozen=True, kw_only=True)
class SampleText(Opening):
    """Write text with an autoregressive model, on standard output, as it is written."""

    count: int = Writing.count
    """number of sequences"""
    sample_seed: int = 0
    """seed of everything drawn; every sequence has a stream of its own"""
    writing: CausalWriting = field(default_factory=CausalWriting)
    asking: Asking = field(default_factory=Asking)

    def run(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count} writes nothing; use 1 or more")
        model = self.open(CausalModel)
        for i in range(self.count):
            pieces = model.stream(sample_seed=self.sample_seed, index=i, **asdict(self.writing), **asdict(self.asking))
            if self.json:
                console.emit({"text": "".join(pieces)})
                continue
            for piece in pieces:
                print(piece, end="", flush=True)
            print("\n")


SAMPLE: dict[str, type[Any]] = {
    "image": SampleImages,
    "video": SampleVideo,
    "masked-text": SampleMaskedText,
    "text": SampleText,
    TASK: SampleBytes,
}
"""The options of ``oneblock sample`` by task."""
