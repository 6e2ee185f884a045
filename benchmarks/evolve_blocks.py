"""Three blocks of a DiT trained without a backward pass, beside the same blocks by backpropagation.

python benchmarks/evolve_blocks.py --out runs/evolve-blocks [--seeds 3 --budget 300k --population 128 --batch-size 192]

Held-out loss of every band after the same steps and after the same processor time: backpropagation takes as many steps
more as it is faster. Bytes are those of the costliest block, planned (counted from shapes, without tensors) and
measured (the same count of a real step); activations weigh more in them when batches are large. One block at a time,
one after the other; finished runs are not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import oneblock as ob
from oneblock.model import ImageModel
from oneblock.presets.cost import highest, job_peaks
from oneblock.train.drive import Watch


def trained(recipe: ob.ImageRecipe, data: str, out: Path) -> dict[str, Any]:
    """Train a run, unless its result is there; its row."""
    kept = out / "row.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    ob.train(replace(recipe, budget=3 * recipe.batch_size * 6), data=data, out=out / "warm", watch=Watch(bars=False))
    began = time.process_time()
    plan = ob.train(recipe, data=data, out=out / "run", watch=Watch(bars=False)).plan
    spent = time.process_time() - began
    scores = ImageModel.open(out / "run").evaluate(data, num_samples=0)
    row = {
        "budget": recipe.layer_evaluations,
        "cpu_seconds": spent,
        "loss": scores["loss"],
        "band_losses": scores["band_losses"],
        "planned_bytes": highest(job_peaks(plan, False)).total,
        "measured_bytes": highest(job_peaks(plan, False, True)).total,
    }
    kept.write_text(json.dumps(row) + "\n")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="300k")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--batch-size", type=int, default=192, help="over the whole noise range: a block has a third")
    parser.add_argument("--population", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=1)
    parser.add_argument("--weight-noise", type=float, default=0.02)
    parser.add_argument("--learning-rate", type=float, default=0.0, help="of evolution (0: that of the recipe)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| seed | way | layer evaluations | CPU s | loss | loss by band, noisiest first | planned MB | measured MB |")
    print("|---|---|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        backward = ob.ImageRecipe(
            size=options.size, blocks=3, budget=options.budget, batch_size=options.batch_size, seed=seed
        )
        recipe = replace(
            backward,
            update="evolution",
            population=options.population,
            chunk=options.chunk,
            weight_noise=options.weight_noise,
            learning_rate=options.learning_rate,
        )
        folder = options.out / f"seed{seed}"
        rows = {
            "evolution": trained(recipe, options.data, folder / "evolution"),
            "backpropagation, same steps": trained(backward, options.data, folder / "steps"),
        }
        faster = rows["evolution"]["cpu_seconds"] / rows["backpropagation, same steps"]["cpu_seconds"]
        longer = replace(backward, budget=round(recipe.layer_evaluations * faster))
        rows["backpropagation, same CPU time"] = trained(longer, options.data, folder / "time")
        for way, row in rows.items():
            bands = " / ".join(f"{loss:.4f}" for loss in row["band_losses"])
            megabytes = f"{row['planned_bytes'] / 1e6:.2f} | {row['measured_bytes'] / 1e6:.2f}"
            work = f"{row['budget']:,} | {row['cpu_seconds']:.1f}"
            print(f"| {seed} | {way} | {work} | {row['loss']:.4f} | {bands} | {megabytes} |", flush=True)


if __name__ == "__main__":
    main()
