"""``oneblock evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tyro.conf import Positional

from oneblock.cli import console
from oneblock.cli.causal_text import evaluate_causal
from oneblock.cli.labels import LabelOptions, evaluate_labels, show_labels
from oneblock.cli.options import DataOptions, MachineOptions, SamplingOptions, check_data
from oneblock.cli.sample import sample_images
from oneblock.cli.text import evaluate_text, held_out, plan_text
from oneblock.cli.text_options import CallOptions, TextSamplingOptions
from oneblock.cli.writing import QualityOptions, show_quality, write_texts, written_quality
from oneblock.data import EncodedSource, to_float
from oneblock.metrics import default_extractor, extractor_for, image_quality
from oneblock.metrics.quality import inception_weights, real_fid
from oneblock.partition import Partition, make_partition
from oneblock.plan import Plan
from oneblock.presets import blockwise, image_task, is_text, plan_length
from oneblock.train.evaluate import band_losses
from oneblock.train.shards import open_denoiser, open_plan

# Held-out images that losses are taken on, and training images that generated ones are compared with.
MOST_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Scores of a model on held-out data.

    Of an image generator: denoising loss per band, and quality of generated images on a named feature extractor. The
    Frechet distance is on our own features and stands beside the distance of real images to real images; it is not
    comparable with published FID. Of a classifier: accuracy after every call of a block, calibration and likelihood.
    Of masked text: a bound on the bits per character, with its Monte-Carlo error. Of autoregressive text: bits per
    character after every call. Of all text, with --texts, what it writes beside held-out text of the same length.
    """

    model: Positional[Path]
    """directory of a run or of a merged model"""
    num_samples: int = 2000
    """generated images"""
    report_bands: int = 0
    """bands to report losses on (0: the plan's own)"""
    extractor: str = ""
    """digits-cnn, fashion-mnist-cnn or efficientnet-lite0 (default: what fits the data)"""
    fid_weights: Path | None = None
    """file of torch-fidelity's Inception weights, for the published FID beside our own distances"""
    windows: int = 512
    """windows of held-out text"""
    times: int = 4
    """masked shares of every band for each of them"""
    json: bool = False
    """print one JSON object instead of tables"""
    data: DataOptions = field(default_factory=DataOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    answers: CallOptions = field(default_factory=CallOptions)
    writing: TextSamplingOptions = field(default_factory=TextSamplingOptions)
    quality: QualityOptions = field(default_factory=QualityOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)

    def run(self) -> None:
        fid_weights = inception_weights(self.fid_weights) if self.fid_weights else None
        plan = open_plan(self.model)
        if is_text(plan):
            self._text(plan)
            return
        train, test = self.data.open("train"), self.data.open("test")
        check_data(plan, train)
        if plan.task == "classify":
            row = evaluate_labels(plan, self.model, test.first(), self.labels, self.machine.torch_device())
            if self.json:
                console.emit(row)
            else:
                show_labels(row)
            return
        bands = self._bands(plan)
        row = evaluate_model(
            plan,
            self.model,
            train,
            test,
            bands,
            self.num_samples,
            self.extractor or default_extractor(self.data.data),
            self.sampling,
            self.machine.torch_device(),
            fid_weights,
        )
        if self.json:
            console.emit(row)
            return
        losses = row.pop("band_losses")
        edges = bands.edges
        rows = [(f"{edges[b + 1]:.4g} to {edges[b]:.4g}", f"{loss:.4f}") for b, loss in enumerate(losses)]
        console.table("held-out loss", ("band of sigma", "loss"), rows)
        shown = [(k, f"{v:.4g}" if isinstance(v, float) else str(v)) for k, v in row.items()]
        console.table("generated images", ("score", "value"), shown)

    def _bands(self, plan: Plan) -> Partition:
        return make_partition(plan.partition.law, self.report_bands) if self.report_bands else plan.partition

    def _text(self, plan: Plan) -> None:
        device = self.machine.torch_device()
        data = self.data.data if self.data.data != DataOptions.data else ""
        file = plan_text(plan, "test", data, self.data.data_dir)
        denoiser = open_denoiser(self.model, blockwise(plan), device, self.sampling.resident)
        tokens = held_out(file, plan_length(plan), self.windows)
        if plan.task == "text":
            row = evaluate_causal(plan, denoiser, tokens, self.answers, device)
            parts = [(f"bits after call {i}", bits) for i, bits in enumerate(row["bits_after_calls"], 1)]
        else:
            row = evaluate_text(plan, denoiser, tokens, self._bands(plan), self.times, device)
            parts = [(f"nats of band {b}", nats) for b, nats in enumerate(row["nats_per_band"])]
        if self.quality.texts:
            train = plan_text(plan, "train", data, self.data.data_dir)
            writing, seed = replace(self.writing, count=self.quality.texts), self.sampling.sample_seed
            pieces = write_texts(plan, denoiser, writing, self.answers, seed, device)
            row["quality"] = written_quality(["".join(text) for text in pieces], tokens, train, self.quality)
        if self.json:
            console.emit(row)
            return
        shown = [(name, row[name]) for name in ("bits_per_character", "error", "nats_per_token")]
        lines = [(name, f"{value:.4f}") for name, value in [*shown, *parts]]
        console.table(f"held-out text, {row['tokens']:,} tokens", ("score", "value"), lines)
        if self.quality.texts:
            show_quality(row["quality"])


def evaluate_model(
    plan: Plan,
    directory: Path,
    train: EncodedSource,
    test: EncodedSource,
    bands: Partition,
    num_samples: int,
    extractor: str,
    sampling: SamplingOptions,
    device: torch.device,
    fid_weights: Path | None = None,
) -> dict[str, Any]:
    """All scores of a model as plain values; ``bands`` are those that losses are reported on. The published FID, on the
    training images, is among them where ``fid_weights`` are given."""
    task = image_task(plan)
    if len(test.classes) != task.num_classes:
        raise ValueError(
            f"the data have {len(test.classes)} classes, the plan has {task.num_classes}; use the same data"
        )
    held_out, known = test.first(MOST_IMAGES), train.first(MOST_IMAGES)
    denoiser = open_denoiser(directory, blockwise(plan), device, sampling.resident)
    clean = test.codec.encode(to_float(held_out.images))
    losses = band_losses(denoiser, task, bands, clean.to(device), held_out.labels.to(device))
    labels = torch.arange(num_samples, device=device) % task.num_classes
    images, seconds = sample_images(plan, denoiser, labels, sampling, test.codec)
    quality = image_quality(known.images, held_out.images[:num_samples], images, extractor_for(extractor), labels.cpu())
    fid = {"fid": real_fid(known.images, images, fid_weights)} if fid_weights else {}
    return {
        "band_losses": losses,
        "loss": sum(losses) / len(losses),
        **quality.as_row(),
        **fid,
        "sampling_seconds": seconds,
        "images_per_second": num_samples / seconds,
    }
