"""``oneblock sample``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from oneblock.cli import console
from oneblock.cli.bytes import SampleBytes
from oneblock.cli.opening import Opening
from oneblock.evaluate.images import Sampling
from oneblock.evaluate.writing import CausalWriting, MaskedWriting, Writing
from oneblock.model import CausalModel, ImageModel, MaskedModel
from oneblock.presets.bytes import TASK
from oneblock.presets.names import class_labels, has_names
from oneblock.report.samples import check_samples_place, write_samples
from oneblock.sample.calls import Asking


@dataclass(frozen=True, kw_only=True)
class SampleImages(Opening):
    """Generate images with a run or a merged model: a PNG grid, one row per class, and the images as safetensors.

    If the targets are not images, only the safetensors.
    """

    out: Path = Path("samples.png")
    """the picture; the images go beside it as .safetensors (uint8)"""
    per_class: int = 10
    """images per class, or in all if the model has no classes"""
    classes: tuple[str, ...] = ()
    """which classes, by name or number (all if none is named)"""
    autoencoder: Path | None = None
    """directory of the AutoencoderKL that the model was trained with, if it denoises latents"""
    sampling: Sampling = field(default_factory=Sampling)

    def run(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"per_class={self.per_class} is too small; use 1 or more")
        check_samples_place(self.out)
        model = self.open(ImageModel)
        classes = class_labels(model.plan, self.classes) if self.classes else list(range(len(model.classes)))
        labels = torch.tensor(classes).repeat_interleave(self.per_class) if classes else None
        began = time.perf_counter()
        images = model.sample(
            labels,
            count=self.per_class if labels is None else None,
            autoencoder=self.autoencoder,
            **asdict(self.sampling),
        )
        seconds = time.perf_counter() - began
        names = [model.classes[label] for label in classes]
        shown = str(write_samples(self.out, images, labels, self.per_class, names if has_names(model.plan) else ()))
        cost = self.sampling.layer_evaluations(model.plan)
        if self.json:
            row = {"picture": shown, "images": len(images), "seconds": round(seconds, 2), "layer_evaluations": cost}
            console.emit({**row, "classes": names} if names else row)
        else:
            console.say(f"{len(images)} images in {seconds:.1f} s ({cost} layer evaluations each at most): {shown}")


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
    "masked-text": SampleMaskedText,
    "text": SampleText,
    TASK: SampleBytes,
}
"""The options of ``oneblock sample`` by task."""
