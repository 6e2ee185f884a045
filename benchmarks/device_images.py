"""Seconds and bytes of training and sampling on one device, for every strategy, at equal images per step.

    python benchmarks/device_images.py --size S --patch 2 --image-size 32 --batch-size 256 --device cuda > rows.jsonl

Random images; the median over the steps after warming up. Peak bytes are those of torch.cuda.max_memory_allocated on
CUDA (null elsewhere), beside the bytes that `presets.training_peak` predicts from shapes (in fp32). Needs the core and
the library's own modules only.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch

from oneblock.blockwise import Denoiser
from oneblock.plan import Plan
from oneblock.presets import (
    SIZES,
    ImageRecipe,
    blockwise,
    image_plan,
    image_shape,
    image_task,
    plan_budget,
    plan_optimizer,
    training_peak,
)
from oneblock.sample import SAMPLERS, karras_grid
from oneblock.sample.generate import generate
from oneblock.train.step import OptimizerSettings, TrainState, train_step
from oneblock.train.strategy import job_specs


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train(plan: Plan, checkpointing: bool, steps: int, device: torch.device) -> dict[str, object]:
    """Median seconds per step and peak bytes of the plan's last block (all are alike)."""
    spec = job_specs(plan, plan_budget(plan))[-1]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(spec.batch_size, *image_shape(plan), generator=generator)
    labels = torch.randint(0, 10, (spec.batch_size,), generator=generator)
    sigma = plan.partition.levels(*spec.band, spec.batch_size, generator)
    batch = image_task(plan).draw(images, labels, sigma, spec.block, generator).to(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    denoiser = blockwise(plan).denoiser(spec.block or 0, checkpointing).to(device)
    state = TrainState(spec, denoiser, plan_optimizer(plan))
    seconds = []
    for step in range(steps + 3):
        wait(device)
        began = time.perf_counter()
        train_step(state, image_task(plan), batch)
        wait(device)
        if step >= 3:
            seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    median = statistics.median(seconds)
    return {
        "seconds_per_step": median,
        "layer_evaluations_per_second": spec.batch_size * len(spec.layers) / median,
        "peak_bytes": peak,
        "planned_bytes_fp32": training_peak(plan, checkpointing).total,
    }


def sample(plan: Plan, images: int, steps: int, repeats: int, device: torch.device) -> dict[str, object]:
    """Median images per second over the whole noise range."""
    blocks = blockwise(plan)
    denoiser = Denoiser(plan.partition, lambda b: blocks.denoiser(b).to(device).eval())
    grid = karras_grid(plan.partition.law.low, plan.partition.law.high, steps)
    labels = torch.arange(images, device=device) % 10
    seconds = []
    for _ in range(repeats + 1):
        wait(device)
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            generate(denoiser, SAMPLERS["euler"], grid, labels, image_shape(plan), 0, images)
        wait(device)
        seconds.append(time.perf_counter() - began)
    return {"images_per_second": images / statistics.median(seconds[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--sampling-steps", type=int, default=24)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    whole = ImageRecipe(
        data="none",
        fingerprint="none",
        image_shape=(1, options.image_size, options.image_size),
        num_classes=10,
        size=options.size,
        patch=options.patch,
        blocks=1,
        batch_size=options.batch_size,
        block_batch_size=options.batch_size,
        budget=10**12,
        optimizer=OptimizerSettings(precision=options.precision),
    )
    plans = {"end-to-end": image_plan(whole), "own-block": image_plan(replace(whole, blocks=options.blocks))}
    shared = {"torch": torch.__version__, "device": str(device), **vars(options)}
    if device.type == "cuda":
        shared["device"] = torch.cuda.get_device_name(device)
    for name, plan in plans.items():
        for checkpointing in (False, True):
            row = train(plan, checkpointing, options.steps, device)
            print(json.dumps({"measure": "train", "strategy": name, "checkpointing": checkpointing, **row, **shared}))
        row = sample(plan, options.images, options.sampling_steps, 5, device)
        print(json.dumps({"measure": "sample", "strategy": name, **row, **shared}), flush=True)


if __name__ == "__main__":
    main()
