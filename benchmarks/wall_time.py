"""Wall time of training all blocks one after the other, against end-to-end training with the same layer evaluations.

    python benchmarks/wall_time.py --pairs 5

Two networks. DiT: the library's own loop, data, noise, clipping, AdamW and weight average included, with the whole
batch for every block and with a block's share of it (the default of ``oneblock train``: as many times more steps as
there are blocks). ViT: the layers alone, a squared error against a target, AdamW. Checkpoints are not written.

A paired run alternates step by step, because a machine's speed drifts: one of the whole network, then as many layer
evaluations of the blocks. Prints a JSON line for each paired run and one with the median ratio.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from oneblock.data import MemorySource, synthetic_images
from oneblock.memory import layers_run
from oneblock.models.layers import Layer, LayerConfig
from oneblock.plan import Plan
from oneblock.presets import ImageFacts, ImageRecipe, blockwise, image_task
from oneblock.train.loop import Run, train_job
from oneblock.train.step import StepReport
from oneblock.train.strategy import job_specs, plan_budget, plan_optimizer

Step = Callable[[], None]
Jobs = AbstractContextManager[list[Step]]

IMAGES = synthetic_images(512, 28, 1, 8, seed=0)


def dit_plan(options: argparse.Namespace, blocks: int, block_batch_size: int = 0) -> Plan:
    recipe = ImageRecipe(
        depth=options.depth,
        width=options.width,
        heads=options.heads,
        blocks=blocks,
        batch_size=options.batch_size,
        block_batch_size=block_batch_size,
        budget=options.depth * options.batch_size * (options.steps + 1),
    )
    facts = ImageFacts(shape=IMAGES.shape, num_classes=8, data="synthetic", fingerprint=IMAGES.fingerprint())
    return recipe.plan(facts)


@contextmanager
def dit_jobs(plan: Plan) -> Iterator[list[Step]]:
    """One function for each job of the plan: it makes the steps that see a whole batch."""
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
        specs = [replace(spec, last_step=10**9) for spec in job_specs(plan)]
        jobs = [train_job(run, spec) for spec in specs]

        def steps(job: Iterator[StepReport], count: int) -> None:
            for _ in islice(job, count):
                pass

        yield [partial(steps, job, budget.batch_size // spec.batch_size) for job, spec in zip(jobs, specs, strict=True)]
        for job in jobs:
            job.close()


@contextmanager
def vit_jobs(options: argparse.Namespace, blocks: int) -> Iterator[list[Step]]:
    """One function for each block of a stack of ViT layers: it makes a step."""
    config = LayerConfig(width=options.width, heads=options.heads)
    shape = (options.batch_size, 49, config.width)
    depth = options.depth // blocks
    yield [layers_run([Layer(config) for _ in range(depth)], shape).step for _ in range(blocks)]


def paired_run(whole: Jobs, own: Jobs, steps: int) -> dict[str, float]:
    """Seconds of ``steps`` steps of the whole network and of the same work for its blocks, after two of each that are
    not counted."""
    seconds = {"end-to-end": 0.0, "blockwise": 0.0}
    with whole as whole_jobs, own as own_jobs:
        for step in range(steps + 2):
            for arm, jobs in (("end-to-end", whole_jobs), ("blockwise", own_jobs)):
                began = time.perf_counter()
                for job in jobs:
                    job()
                seconds[arm] += time.perf_counter() - began if step >= 2 else 0.0
    return seconds


def arms(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Jobs], Callable[[], Jobs]]]:
    """Name, end-to-end training and blockwise training."""
    whole, blocks = dit_plan(options, 1), options.blocks
    for name, block_batch_size in (("dit, whole batches", options.batch_size), ("dit, shares of the batch", 0)):
        own = dit_plan(options, blocks, block_batch_size)
        yield name, partial(dit_jobs, whole), partial(dit_jobs, own)
    yield "vit", partial(vit_jobs, options, 1), partial(vit_jobs, options, blocks)


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
            seconds = paired_run(end_to_end(), own(), options.steps)
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
