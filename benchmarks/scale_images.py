"""Image generators at a scale where it means something: blocks and tuned rivals, 12 layers, 12M layer evaluations.

    python benchmarks/scale_images.py --out runs/scale --device cuda --deadline 400 > rows.jsonl
    python benchmarks/scale_images.py --out runs/tiny --device cpu --tiny      # the same path, in a minute or two

What `oneblock compare images` does, on Fashion-MNIST, with one difference: the rivals that train on the whole noise
range are tuned at this scale. Seed 0 trains `end-to-end` and `shallow` with every pair of two batches and two learning
rates; further seeds train the best of each by held-out loss. Every arm gets the same layer evaluations. Runs are done
in an order in which a deadline leaves the most to say: all arms of seed 0, the rest of the tuning, then seed by seed.

A JSON row per run, as soon as it is scored, with its curve over sampling work; at the end the tables. The same --out
goes on where it was stopped. Needs the core, einops, safetensors and the data set.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import oneblock as ob
from oneblock.data import ImageData
from oneblock.experiment.base import Arm
from oneblock.experiment.grid import Cell, Comparison, Grid
from oneblock.experiment.images import ARMS, SCORES, ImageExperiment
from oneblock.presets import ImageRecipe
from oneblock.report.comparison import draw, report
from oneblock.train.drive import Watch
from oneblock.train.machine import Machine, Switch

BATCHES, RATES = (384, 128), (1.0, 2.0)
"""Of the rivals that are tuned; rates as shares of the recipe's."""
TUNED = ("end-to-end", "shallow")
OTHERS = ("ensemble", "experts", "blockwise", "branched")
STEPS = (4, 8, 12, 24, 72)
Row = dict[str, Any]


def tuned(arm: str, batch_size: int, rate: float, recipe: ImageRecipe) -> ImageRecipe:
    """The recipe of a rival with a batch of so many samples, and so many times the usual rate."""
    found = ARMS[arm].recipes(recipe)
    assert isinstance(found, ImageRecipe)
    usual = found.optimizer_settings.learning_rate
    return replace(found, batch_size=batch_size, learning_rate=rate * usual)


@dataclass(frozen=True, kw_only=True)
class Scale(ImageExperiment):
    """Image generators, and their tuned rivals as arms of their own."""

    variants: Mapping[str, Arm[ImageRecipe, ImageExperiment]] = field(default_factory=dict)

    @property
    def arms(self) -> Mapping[str, Arm[ImageRecipe, ImageExperiment]]:
        return {**ARMS, **self.variants}


def variants(batches: Sequence[int]) -> dict[str, Arm[ImageRecipe, ImageExperiment]]:
    """The rivals in every setting, by name."""
    return {
        f"{arm} {batch_size} x{rate:g}": Arm(recipes=partial(tuned, arm, batch_size, rate))
        for arm in TUNED
        for batch_size in batches
        for rate in RATES
    }


def best(rows: Sequence[Row], arm: str) -> str:
    """The name of the setting of ``arm`` with the lowest held-out loss of seed 0."""
    found = [row for row in rows if row["seed"] == 0 and row["arm"].startswith(f"{arm} ")]
    return str(min(found, key=lambda row: row["loss"])["arm"])


def cells(names: Sequence[str], budget: str, seeds: int, rows: list[Row]) -> Iterator[Cell]:
    """The runs, in order; which settings later seeds train follows from ``rows``, which grow meanwhile."""
    usual = [next(name for name in names if name.startswith(f"{arm} ")) for arm in TUNED]
    for name in [*usual, *OTHERS, *(name for name in names if name not in usual)]:
        yield Cell(arm=name, budget=budget, seed=0)
    for seed in range(1, seeds):
        for name in [*(best(rows, arm) for arm in TUNED), *OTHERS]:
            yield Cell(arm=name, budget=budget, seed=seed)


def final(rows: Sequence[Row]) -> list[Row]:
    """The rows of the arms: of each rival those of its best setting, under its own name."""
    chosen = {best(rows, arm): arm for arm in TUNED if any(row["arm"].startswith(f"{arm} ") for row in rows)}
    return [{**row, "arm": chosen.get(row["arm"], row["arm"]), "setting": row["arm"]} for row in rows
            if row["arm"] in chosen or row["arm"] in OTHERS]  # fmt: skip


def show(row: Row) -> None:
    print(json.dumps(row), flush=True)


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--capture", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--budget", default="12M")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--deadline", type=float, default=1e9, help="seconds after which no further run begins")
    parser.add_argument("--tiny", action="store_true", help="digits and a small network, to try it out")
    options = parser.parse_args()
    tiny: bool = options.tiny
    torch.set_float32_matmul_precision("high")  # of sampling and scoring; training is in bf16
    recipe = ImageRecipe(depth=12, width=256, heads=4, patch=4, batch_size=384, branch=0.5, precision="bf16")
    batches, data = BATCHES, ImageData(data="fashion-mnist", data_dir=options.data_dir)
    if tiny:
        recipe = replace(recipe, depth=6, width=32, heads=2, patch=2, batch_size=48)
        batches, data = (48, 16), ImageData(data="digits")
    images = 100 if tiny else options.samples
    experiment = Scale(
        num_samples=images,
        sampling_steps=(4, 8) if tiny else STEPS,
        sampling_images=min(images, 2000),
        variants=variants(batches),
    )
    switches: dict[str, Switch] = {"compile": options.compile, "capture": options.capture}
    grid: Grid[Any, Any] = Grid(
        experiment=experiment,
        recipe=recipe,
        data=data,
        held_out=None,
        out=options.out,
        machine=Machine(device=options.device, **switches),
        watch=Watch(bars=False),
    )
    budget = "6k" if tiny else options.budget
    card = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    show({"torch": torch.__version__, "card": card, **{key: str(value) for key, value in vars(options).items()}})
    known, rows = grid.open(), list[Row]()
    for cell in cells(list(experiment.variants), budget, options.seeds, rows):
        passed = time.monotonic() - began
        if passed > options.deadline:
            show({"left_out": cell.name, "seconds": round(passed)})
            continue
        with_cell = replace(grid, cells=[cell])
        plans = with_cell.check(known)[cell]
        row = {**with_cell.row(cell, plans, known), "budget": cell.budget, "run": cell.name}
        rows.append(row)
        show({**row, "seconds": round(time.monotonic() - began - passed, 1)})
    comparison = Comparison(task="images", out=options.out, rows=final(rows), scores=SCORES)
    for table in report(comparison).tables:
        print(table.title, *("\t".join(line) for line in (table.columns, *table.rows)), sep="\n", file=sys.stderr)
    try:
        show({"pictures": [str(path) for path in draw(comparison)], "of": ob.__name__})
    except ImportError as error:
        show({"no pictures": str(error)})


if __name__ == "__main__":
    main()
