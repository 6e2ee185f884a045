"""Images per second of a whole network and of its blocks, same weights count per step, same number of steps.

    python benchmarks/generation_speed.py --size nano --threads 1

Untrained networks (time does not depend on the weights); the arms alternate; medians over the repeats.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch

from oneblock.blockwise import Denoiser
from oneblock.condition import ClassIds
from oneblock.evaluate.images import Sampling
from oneblock.presets import SIZES, ImageFacts, ImageRecipe, blockwise, image_shape
from oneblock.sample import SAMPLERS, equal_mass_grid
from oneblock.sample.generate import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="nano")
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--sampler", choices=SAMPLERS, default=Sampling.sampler)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = ImageRecipe(size=options.size, patch=options.patch, blocks=1)
    facts = ImageFacts(shape=(1, options.image_size, options.image_size), num_classes=10)
    own = replace(whole, blocks=options.blocks).plan(facts)
    plans = {
        "end-to-end": (whole.plan(facts), None),
        "blockwise": (own, None),
        "blockwise, one block in memory": (own, 1),
    }
    classes = ClassIds(torch.arange(options.images, device=options.device) % 10)

    def once(name: str) -> float:
        plan, resident = plans[name]
        blocks = blockwise(plan)
        denoiser = Denoiser(plan.partition, lambda b: blocks.denoiser(b).to(options.device).eval(), resident)
        if resident is None:
            for block in range(plan.num_blocks):
                denoiser.block(block)  # built before the clock starts, as a server would
        grid = equal_mass_grid(plan.partition, options.steps)
        began = time.perf_counter()
        done = generate(denoiser, SAMPLERS[options.sampler], grid, classes, image_shape(plan), 0, options.images)
        done.cpu()
        return time.perf_counter() - began

    times: dict[str, list[float]] = {name: [] for name in plans}
    for repeat in range(options.repeats + 1):
        for name in plans:
            seconds = once(name)
            if repeat:  # the first round warms up
                times[name].append(seconds)
    base = times["end-to-end"]
    for name, found in times.items():
        print(
            json.dumps(
                {
                    "arm": name,
                    "images_per_second": round(options.images / statistics.median(found), 1),
                    "times_faster": round(statistics.median(a / b for a, b in zip(base, found, strict=True)), 2),
                    "least": round(min(a / b for a, b in zip(base, found, strict=True)), 2),
                    "most": round(max(a / b for a, b in zip(base, found, strict=True)), 2),
                }
            )
        )


if __name__ == "__main__":
    main()
