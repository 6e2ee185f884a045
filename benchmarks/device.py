"""Seconds and bytes of training on one device, for every strategy, at equal samples per step; then what the task adds.

    python benchmarks/device.py images --size S --patch 2 --length 32 --batch-size 256 --device cuda > rows.jsonl
    python benchmarks/device.py text --size B --length 1024 --blocks 4 --batch-size 8 --device cuda > rows.jsonl

Random samples; medians after warming up. Peak bytes are those of torch.cuda.max_memory_allocated on CUDA (null
elsewhere), beside the bytes that `presets.training_peak` predicts from shapes (in fp32). Images are also sampled. Text
has bytes as symbols, and its blocks carry noisy targets in --streams; the forms of two-stream attention (`ops`) are
timed and measured beside it, forward and backward. Needs the core and the library's own modules only.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from oneblock.blockwise import Denoiser
from oneblock.condition import ClassIds
from oneblock.data import Bytes, Samples
from oneblock.evaluate.device import recorded
from oneblock.evaluate.images import Sampling
from oneblock.ops import Attend, concatenated, flex, two_pass
from oneblock.plan import Plan
from oneblock.presets import (
    SIZES,
    CausalRecipe,
    ImageFacts,
    ImageRecipe,
    TextFacts,
    all_resident,
    blockwise,
    gpt_config,
    image_shape,
    plan_task,
    training_peak,
)
from oneblock.sample import SAMPLERS, karras_grid
from oneblock.sample.generate import generate
from oneblock.train.block import BlockLearner, block_learner, train_step
from oneblock.train.strategy import job_specs, plan_optimizer

Row = dict[str, Any]
WARM_UP = 3


@dataclass(frozen=True)
class Way:
    """A strategy of training."""

    name: str
    checkpointing: bool = False
    resident: bool = False


WHOLE = (Way("end-to-end"), Way("end-to-end, checkpointing", True))
OWN = (Way("all resident", resident=True), Way("own block"), Way("own block, checkpointing", True))


def measured(step: Callable[[], object], steps: int, device: torch.device) -> Row:
    """Median seconds of ``step`` and the most bytes allocated."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(steps + WARM_UP):
        wait(device)
        began = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"seconds": statistics.median(seconds[WARM_UP:]), "peak_bytes": peak}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train(plan: Plan, way: Way, samples: Tensor, steps: int, device: torch.device) -> Row:
    """A step of the plan's last block (all are alike) on ``samples``."""
    specs = job_specs(plan)
    generator = torch.Generator().manual_seed(0)

    def learner(block: int) -> BlockLearner:
        denoiser = blockwise(plan).denoiser(block, way.checkpointing).to(device)
        return block_learner(specs[block], denoiser, plan_optimizer(plan))

    spec, task = specs[-1], plan_task(plan)
    sigma = plan.partition.levels(*spec.band, len(samples), generator)
    labelled = Samples(samples, torch.zeros(len(samples), dtype=torch.long))
    batch = task.draw(labelled, sigma, spec.block, generator).to(device)
    waiting = [learner(block) for block in range(plan.num_blocks - 1)] if way.resident else []
    for job, other in zip(specs, waiting, strict=False):
        train_step(job, other, task, batch)  # so that it has an optimizer's moments
    trained = learner(plan.num_blocks - 1)
    row = measured(lambda: train_step(spec, trained, task, batch), steps, device)
    planned = (all_resident if way.resident else training_peak)(plan, way.checkpointing)
    items = samples.numel() if plan.task == "text" else len(samples)
    return {
        **row,
        "planned_bytes_fp32": planned.total,
        "layer_evaluations_per_second": spec.step_evaluations / row["seconds"],
        "items_per_second": items / plan.num_blocks / row["seconds"],  # tokens or images, which every block sees once
    }


def sample(plan: Plan, images: int, steps: int, device: torch.device) -> Row:
    """Median images per second over the whole noise range."""
    blocks = blockwise(plan)
    denoiser = Denoiser(plan.partition, lambda b: blocks.denoiser(b).to(device).eval())
    asked = recorded(denoiser, warnings.warn) if device.type == "cuda" else denoiser
    grid = karras_grid(plan.partition.law.low, plan.partition.law.high, steps)
    classes = ClassIds(torch.arange(images, device=device) % 10)

    def once() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            generate(asked, SAMPLERS[Sampling.sampler], grid, classes, image_shape(plan), 0, images)

    row = measured(once, 5, device)
    return {**row, "images_per_second": images / row["seconds"]}


def attention(plan: Plan, count: int, steps: int, device: torch.device) -> Iterator[Row]:
    """Two-stream attention of one layer in each of its forms, forward and backward."""
    config = gpt_config(plan)
    shape = (count, config.heads, 2 * config.context, config.width // config.heads)
    dtype = torch.bfloat16 if plan_optimizer(plan).precision == "bf16" else torch.float32
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    forms: dict[str, Attend] = {"two-pass": two_pass, "concatenated": concatenated}
    if device.type == "cuda":  # FlexAttention has no backward pass elsewhere
        forms["flex"] = flex
    for name, form in forms.items():
        row = measured(lambda form=form: form(q, k, v).sum().backward(), steps, device)  # type: ignore[misc]
        yield {"form": name, **row}


def image_case(options: argparse.Namespace) -> tuple[Plan, Plan, Tensor]:
    """The whole network, its blocks, and what they are trained on."""
    recipe = ImageRecipe(patch=options.patch, **shared_recipe(options))
    facts = ImageFacts(shape=(1, options.length, options.length), num_classes=10)
    whole = recipe.plan(facts)
    samples = torch.randn(options.batch_size, *image_shape(whole), generator=torch.Generator().manual_seed(0))
    return whole, replace(recipe, blocks=options.blocks).plan(facts), samples


def text_case(options: argparse.Namespace) -> tuple[Plan, Plan, Tensor]:
    """The same for text: the whole network is an ordinary GPT."""
    recipe = CausalRecipe(length=options.length, **shared_recipe(options))
    facts = TextFacts(vocabulary=Bytes())
    whole = recipe.ordinary().plan(facts)
    own = replace(recipe, streams=options.streams, blocks=options.blocks).plan(facts)
    shape = (options.batch_size, options.length)
    return whole, own, torch.randint(Bytes().size, shape, generator=torch.Generator().manual_seed(0))


def shared_recipe(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "size": options.size,
        "blocks": 1,
        "batch_size": options.batch_size,
        "block_batch_size": options.batch_size,
        "budget": 10**12,
        "precision": options.precision,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["images", "text"])
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--length", type=int, default=32, help="pixels of a side, or tokens")
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--streams", choices=["one", "two"], default="one")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--sampling-steps", type=int, default=24)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    known = {"torch": torch.__version__, **vars(options), "device": str(device)}
    if device.type == "cuda":
        known["device"] = torch.cuda.get_device_name(device)

    def show(measure: str, row: Row) -> None:
        print(json.dumps({"measure": measure, **row, **known}), flush=True)

    whole, own, samples = (image_case if options.task == "images" else text_case)(options)
    for plan, ways in ((whole, WHOLE), (own, OWN)):
        for way in ways:
            show("train", {"strategy": way.name, **train(plan, way, samples, options.steps, device)})
        if options.task == "images":
            show(
                "sample",
                {"num_blocks": plan.num_blocks, **sample(plan, options.images, options.sampling_steps, device)},
            )
    if options.task == "text":
        for row in attention(own, options.batch_size, options.steps, device):
            show("attention", row)


if __name__ == "__main__":
    main()
