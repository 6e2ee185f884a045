"""``oneblock sample``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tyro.conf import Positional

from oneblock.blockwise import DenoiserLike
from oneblock.cli import console
from oneblock.cli.options import MachineOptions, SamplingOptions, check_codec, open_codec
from oneblock.cli.picture import image_grid
from oneblock.cli.text_options import CallOptions, TextSamplingOptions
from oneblock.cli.writing import write_texts
from oneblock.data import Codec, to_uint8
from oneblock.guidance import ClassifierFree
from oneblock.plan import Plan
from oneblock.presets import blockwise, image_shape, image_task, is_text
from oneblock.sample import SAMPLERS, equal_mass_grid, karras_grid
from oneblock.sample.generate import generate
from oneblock.train.shards import open_denoiser, open_plan


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Generate images or text with a run or a merged model.

    Images: a PNG grid, one row per class, and the images as safetensors. Text: on standard output.
    """

    model: Positional[Path]
    """directory of a run or of a merged model"""
    out: Path = Path("samples.png")
    """the picture; the images go beside it as .safetensors (uint8)"""
    per_class: int = 10
    """images per class"""
    classes: tuple[int, ...] = ()
    """which classes (all if none is named)"""
    autoencoder: Path | None = None
    """directory of the AutoencoderKL that the model was trained with, if it denoises latents"""
    json: bool = False
    """print one JSON object instead of text"""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    writing: TextSamplingOptions = field(default_factory=TextSamplingOptions)
    answers: CallOptions = field(default_factory=CallOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)

    def run(self) -> None:
        plan = open_plan(self.model)
        if is_text(plan):
            self._text(plan)
            return
        task = image_task(plan)
        codec = open_codec(self.autoencoder)
        check_codec(plan, codec)
        device = self.machine.torch_device()
        classes = self.classes or tuple(range(task.num_classes))
        wrong = [c for c in classes if not 0 <= c < task.num_classes]
        if wrong:
            raise ValueError(f"classes={wrong} do not exist; use 0 to {task.num_classes - 1}")
        if self.per_class < 1:
            raise ValueError(f"per_class={self.per_class} makes no image; use 1 or more")
        denoiser = open_denoiser(self.model, blockwise(plan), device, self.sampling.resident)
        labels = torch.tensor(classes).repeat_interleave(self.per_class).to(device)
        images, seconds = sample_images(plan, denoiser, labels, self.sampling, codec)
        image_grid(images, self.out, self.per_class)
        save_file({"images": images, "labels": labels.cpu()}, self.out.with_suffix(".safetensors"))
        calls = SAMPLERS[self.sampling.sampler].calls(self.sampling.steps)
        cost = calls * max(plan.layers) * (1 if self.sampling.guidance == 1 else 2)
        done = {
            "picture": str(self.out),
            "images": len(images),
            "seconds": round(seconds, 2),
            "layer_evaluations": cost,
        }
        if self.json:
            console.emit(done)
        else:
            console.say(f"{len(images)} images in {seconds:.1f} s ({cost} layer evaluations each at most): {self.out}")

    def _text(self, plan: Plan) -> None:
        device = self.machine.torch_device()
        denoiser = open_denoiser(self.model, blockwise(plan), device, self.sampling.resident)
        seed = self.sampling.sample_seed
        for pieces in write_texts(plan, denoiser, self.writing, self.answers, seed, device):
            if self.json:
                console.emit({"text": "".join(pieces)})
            else:
                for piece in pieces:
                    print(piece, end="", flush=True)
                print("\n")


def sample_images(
    plan: Plan, denoiser: DenoiserLike, labels: Tensor, options: SamplingOptions, codec: Codec
) -> tuple[Tensor, float]:
    """Images (n, c, h, w), uint8, for ``labels`` (n,), and the seconds that generating them took."""
    law = plan.partition.law
    if options.grid == "equal-mass":
        grid = equal_mass_grid(plan.partition, options.steps)
    else:
        grid = karras_grid(law.low, law.high, options.steps)
    guided = ClassifierFree(denoiser, options.guidance, options.guidance_interval)
    sampler = SAMPLERS[options.sampler]
    began = time.perf_counter()
    batch = len(labels) if options.resident == 1 else 500
    told = image_task(plan).condition(labels)
    samples = generate(guided, sampler, grid, told, image_shape(plan), options.sample_seed, min(batch, 2000))
    return to_uint8(codec.decode(samples.float().cpu())), time.perf_counter() - began
