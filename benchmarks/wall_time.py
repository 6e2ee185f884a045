"""Wall time of training all blocks one after the other, against end-to-end training with the same layer evaluations.

    python benchmarks/wall_time.py --pairs 5

Two networks. DiT: the library's own loop, data, noise, clipping, AdamW and weight average included, with the whole
batch for every block and with a block's share of it (the default of ``oneblock train``: as many times more steps as
there are blocks). ViT: the layers alone, a squared error against a target, AdamW. Checkpoints are not written. Each
pair runs both arms in turn, the other one first each time; prints a JSON line for each pair and one with the median.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from oneblock.data import MemorySource, synthetic_images
from oneblock.memory import layers_run
from oneblock.models.vit import Layer, LayerConfig
from oneblock.plan import Plan
from oneblock.presets import ImageRecipe, blockwise, image_plan, image_task, plan_budget, plan_optimizer
from oneblock.train.loop import Run, train_job
from oneblock.train.strategy import job_specs

IMAGES = synthetic_images(512, 28, 1, 8, seed=0)


def dit_plan(options: argparse.Namespace, blocks: int, block_batch_size: int = 0) -> Plan:
    recipe = ImageRecipe(
        data="synthetic",
        fingerprint=IMAGES.fingerprint(),
        image_shape=IMAGES.shape,
        num_classes=8,
        depth=options.depth,
        width=options.width,
        heads=options.heads,
        blocks=blocks,
        batch_size=options.batch_size,
        block_batch_size=block_batch_size,
        budget=options.depth * options.batch_size * (options.steps + 1),
    )
    return image_plan(recipe)


def dit_seconds(plan: Plan, steps: int) -> float:
    """Seconds of ``steps`` steps of every job, after a first one that is not counted; the steps of a plan with small
    batches count as shares of a step."""
    seconds = 0.0
    budget = plan_budget(plan)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            plan=plan,
            directory=Path(folder),
            blockwise=blockwise(plan),
            task=image_task(plan),
            source=MemorySource(IMAGES),
            settings=plan_optimizer(plan),
            save_every=10**9,
        )
        for spec in job_specs(plan, budget):
            job = train_job(run, replace(spec, last_step=10**9))
            next(job)
            count = steps * budget.batch_size // spec.batch_size
            began = time.perf_counter()
            for _ in islice(job, count):
                pass
            seconds += time.perf_counter() - began
            job.close()
    return seconds


def vit_seconds(options: argparse.Namespace, blocks: int, steps: int) -> float:
    """Seconds of ``steps`` steps of every block of a stack of ViT layers, after a first one that is not counted."""
    config = LayerConfig(width=options.width, heads=options.heads)
    seconds = 0.0
    for _ in range(blocks):
        run = layers_run(
            [Layer(config) for _ in range(options.depth // blocks)], (options.batch_size, 49, config.width)
        )
        run.step()
        began = time.perf_counter()
        for _ in range(steps):
            run.step()
        seconds += time.perf_counter() - began
    return seconds


def arms(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], float], Callable[[], float]]]:
    """Name, end-to-end training and blockwise training."""
    whole, blocks, steps = dit_plan(options, 1), options.blocks, options.steps
    for name, block_batch_size in (("dit, whole batches", options.batch_size), ("dit, shares of the batch", 0)):
        own = dit_plan(options, blocks, block_batch_size)
        yield name, lambda: dit_seconds(whole, steps), lambda own=own: dit_seconds(own, steps)  # type: ignore[misc]
    yield "vit", lambda: vit_seconds(options, 1, steps), lambda: vit_seconds(options, blocks, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    shape = {key: getattr(options, key) for key in ("depth", "width", "blocks", "batch_size", "steps")}
    for name, end_to_end, own in arms(options):
        ratios = []
        for pair in range(options.pairs):
            seconds = {}
            for arm in ("end-to-end", "blockwise") if pair % 2 else ("blockwise", "end-to-end"):
                seconds[arm] = own() if arm == "blockwise" else end_to_end()
            ratios.append(seconds["blockwise"] / seconds["end-to-end"])
            print(json.dumps({"network": name, "pair": pair, **seconds, "ratio": ratios[-1]}), flush=True)
        summary = {
            "network": name,
            **shape,
            "threads": torch.get_num_threads(),
            "median_ratio": statistics.median(ratios),
        }
        print(json.dumps({**summary, "ratios": ratios}), flush=True)


if __name__ == "__main__":
    main()
