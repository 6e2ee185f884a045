r"""Cyclic denoising against what is known of it: the law of the exact denoiser, a learned toy, planted images.

    python benchmarks/cyclic.py theorem > rows.jsonl
    python benchmarks/cyclic.py toy --seeds 3 > rows.jsonl
    python benchmarks/cyclic.py canary --out runs/canary --seeds 3 > rows.jsonl
    python benchmarks/cyclic.py depth --runs runs/copies-1 runs/copies-4 runs/copies-16 --out depth.png > rows.jsonl

`theorem`: 2048 points of two Gaussians in 8 dimensions, 20 of them targets, 500 cycles: the share of chains that never
leave, measured, beside the product and the bound of Theorem 1 (`audit.exact`), at shares gamma of DDPM's linear
schedule. `toy`: a small network learns 128 points (as a control also 2048); the share of its samples that are copies,
one-shot with three samplers and after cycles, and how many different points were seen for the same calls. `canary`:
digits, 200 images of which ten stand there 1, 4 or 16 times, and once not at all; what the audit finds of the ten.
`depth`: draws how deep the basins of planted images are, against their copies, of finished `oneblock compare audit`. A
JSON row each.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

import oneblock as ob
from oneblock.audit.copies import KAPPA, Known, is_memorised, known, nearest
from oneblock.audit.cyclic import REVERSES, Reverse, amplitude, cycle, cycle_grid
from oneblock.audit.exact import Empirical, comes_back, leaves_at_most
from oneblock.condition import Nothing
from oneblock.data import EncodedSource, ImageSet, MemorySource, Pixels, load_images
from oneblock.evaluate.audit import audit_images
from oneblock.evaluate.auditing import Audited, Auditing
from oneblock.experiment.reopened import reopen
from oneblock.sample import karras_grid
from oneblock.sample.generate import generate
from oneblock.train.drive import Watch

Row = dict[str, Any]
DIMENSIONS, APART = 8, 4.0
"""Of the points, and the distance of the two Gaussians, of standard deviation 1 each."""


def points(count: int, seed: int) -> Tensor:
    """Points (count, 8), float64, of two Gaussians."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.arange(count) % 2 * 2.0 - 1.0
    drawn = torch.randn(count, DIMENSIONS, generator=generator, dtype=torch.float64)
    drawn[:, 0] += side * APART / 2
    return drawn


def theorem(options: argparse.Namespace) -> Iterator[Row]:
    data = points(options.points, options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    chosen = torch.randperm(len(data), generator=generator)[: options.targets]
    for gamma in options.gammas:
        sigma = amplitude(gamma, "gamma")
        back, error = comes_back(data, chosen, sigma, options.draws, generator)
        bound = (1 - leaves_at_most(data, chosen, sigma)) ** options.cycles
        stayed = _stayed(data, chosen, sigma, options, generator)
        product = back**options.cycles
        yield {
            "gamma": gamma,
            "sigma": sigma,
            "q": sigma**2,
            "measured": float(stayed.mean()),
            "measured_error": float((stayed * (1 - stayed) / options.repeats).mean().sqrt() / len(chosen) ** 0.5),
            "product": float(product.mean()),
            "product_error": float((options.cycles * back ** (options.cycles - 1) * error).square().sum().sqrt())
            / len(chosen),
            "bound": float(bound.mean()),
        }


def _stayed(
    data: Tensor, chosen: Tensor, sigma: float, options: argparse.Namespace, generator: torch.Generator
) -> Tensor:
    """The share (k,) of chains of each target that are drawn as their target in every cycle; the others are let go."""
    exact, alive = Empirical(data), chosen.repeat(options.repeats)
    for _ in range(options.cycles):
        noise = torch.randn(len(alive), DIMENSIONS, generator=generator, dtype=data.dtype)
        weights = exact.weights(data[alive] + sigma * noise, torch.full((len(alive),), sigma, dtype=data.dtype))
        alive = alive[torch.multinomial(weights, 1, generator=generator)[:, 0] == alive]
    return torch.stack([(alive == index).double().sum() for index in chosen]) / options.repeats


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, modulation: None) -> Tensor:
        return h + self.f(h)


class Network(nn.Module):
    def __init__(self, layers: range, width: int = 128) -> None:
        super().__init__()
        self.lift, self.out = nn.Linear(DIMENSIONS + 1, width), nn.Linear(width, DIMENSIONS)
        self.layers = nn.ModuleDict({str(i): Layer(width) for i in layers})

    def stem(self, z: Tensor, noise: Tensor, condition: ob.Condition) -> tuple[Tensor, None]:
        return self.lift(torch.cat([z, noise[:, None]], dim=-1)), None

    def head(self, h: Tensor, modulation: None) -> Tensor:
        return self.out(h)


def toy(options: argparse.Namespace) -> Iterator[Row]:
    for seed in range(options.seeds):
        for count in (options.points, options.control):
            data = points(count, seed).float()
            for steps, denoiser in _learned(data, options.steps, seed):
                base = {"seed": seed, "points": count, "steps": steps}
                yield from ({**base, **row} for row in _toy_rows(denoiser, known(data), options, seed))


def _learned(data: Tensor, steps: list[int], seed: int) -> Iterator[tuple[int, ob.BlockDenoiser]]:
    """A denoiser of the whole range after every number of ``steps``."""
    torch.manual_seed(seed)
    partition = ob.make_partition(ob.LogNormal(), 1)
    denoiser = ob.BlockDenoiser(Network(range(2)), ob.Precondition(sigma_data=float(data.std())))
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-3)
    for step in range(1, max(steps) + 1):
        y = data[torch.randint(len(data), (128,))]
        loss = ob.denoising_loss(denoiser, y, None, sigma=partition.draw(0, len(y)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in steps:
            yield step, denoiser


def _toy_rows(denoiser: ob.BlockDenoiser, among: Known, options: argparse.Namespace, seed: int) -> Iterator[Row]:
    law = ob.LogNormal()
    samplers: list[tuple[Reverse, int]] = [("euler", 50), ("euler", 200), ("ancestral", options.fine)]
    for sampler, steps in samplers:
        start = _samples(denoiser, sampler, steps, options.chains, seed)
        yield {"how": "one-shot", "sampler": sampler, "sampler_steps": steps, **_copied(start, among)}
    for gamma, cycles in zip(options.gammas, options.cycles, strict=True):
        grid = cycle_grid(law, amplitude(gamma, "gamma"), options.cycle_steps)
        generator = torch.Generator().manual_seed(seed)
        *_, last = cycle(denoiser, start, grid, cycles, generator, None, "ancestral")
        calls = options.chains * (options.fine + cycles * options.cycle_steps)
        rival = _samples(denoiser, "euler", 50, calls // 50, seed + 1)
        yield {
            "how": "cycles",
            "gamma": gamma,
            "q": float(grid[0]) ** 2,
            "cycles": cycles,
            "calls": calls,
            **_copied(last, among),
            "one_shot_filtered_distinct": _copied(rival, among)["distinct"],
        }


def _samples(denoiser: ob.BlockDenoiser, sampler: Reverse, steps: int, count: int, seed: int) -> Tensor:
    law = ob.LogNormal()
    grid = karras_grid(law.low, law.high, steps)
    return generate(denoiser, REVERSES[sampler], grid, Nothing(count), (DIMENSIONS,), seed)


def _copied(samples: Tensor, among: Known) -> Row:
    hits = is_memorised(samples, among, KAPPA)
    return {"copies": float(hits.double().mean()), "distinct": len(nearest(samples, among).index[hits].unique())}


def canary(options: argparse.Namespace) -> Iterator[Row]:
    chosen, held_out = load_images("digits").first(options.images), load_images("digits", "test")
    for seed in range(options.seeds):
        for copies in options.copies:
            again = torch.cat([torch.arange(options.images), torch.arange(options.planted).repeat(max(0, copies - 1))])
            trained = chosen.take(again if copies else again[options.planted :])
            for blocks in options.blocks:
                model = _trained(
                    trained, options.out / f"{blocks}-blocks-{copies}-copies-seed{seed}", blocks, options.budget, seed
                )
                # without copies too, the ten are looked for among all images
                looked_for = chosen.take(again)
                yield {"seed": seed, "copies": copies, "blocks": blocks, **_found(model, looked_for, held_out, options)}


def _trained(images: ImageSet, out: Path, blocks: int, budget: str, seed: int) -> ob.Model:
    recipe = ob.ImageRecipe(size="nano", blocks=blocks, budget=budget, batch_size=64, seed=seed)
    ob.train(recipe, data=MemorySource(replace(images, name="canary")), out=out, watch=Watch(bars=False))
    return ob.Model.open(out)


def _found(model: ob.Model, images: ImageSet, held_out: ImageSet, options: argparse.Namespace) -> Row:
    sources = [EncodedSource(MemorySource(one), Pixels()) for one in (images, held_out)]
    row = audit_images(model.denoiser, model.plan, Audited(*sources), Auditing(chains=options.chains)).row
    ten = [memory for memory in row["memories"] if memory["image"] < options.planted]
    return {
        "found": len(ten),
        "others": len(row["memories"]) - len(ten),
        "half_at": [memory["half_at"] for memory in ten if memory["half_at"] is not None],
        "base_rate": row["base_rate"],
        "false_copies": max(one["false_copies"][0] for one in row["rows"]),
        "copies": [[one["how"], one.get("sigma"), *one["copies"], one["distinct"]] for one in row["rows"]],
        "auc": row["membership"]["auc"],
        "verdict": row["verdict"],
    }


def depth(options: argparse.Namespace) -> Iterator[Row]:
    from oneblock.report.picture import RangedLine, ranged_lines

    rows = sorted((row for run in options.runs for row in reopen(run).comparison.rows), key=lambda row: row["copies"])
    lines = []
    for color, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        points = []
        for copies in dict.fromkeys(row["copies"] for row in rows):
            mine = [row for row in rows if (row["arm"], row["copies"]) == (arm, copies)]
            depths = [row["depth"] for row in mine if row["depth"] is not None]
            yield {"arm": arm, "copies": copies, "found": [row["planted_found"] for row in mine], "half_at": depths}
            points += [(copies, mean(depths), min(depths), max(depths))] if depths else []
        lines.append(RangedLine(arm, points, color, 1))
    shown = [line for line in lines if line.points]
    ranged_lines(shown, options.out, "copies of an image", "sigma at which half of the chains leave")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    law = verbs.add_parser("theorem")
    law.add_argument("--gammas", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1])
    law.add_argument("--points", type=int, default=2048)
    law.add_argument("--targets", type=int, default=20)
    law.add_argument("--cycles", type=int, default=500)
    law.add_argument("--repeats", type=int, default=50)
    law.add_argument("--draws", type=int, default=20_000)
    law.add_argument("--seed", type=int, default=0)
    law.set_defaults(run=theorem)
    learned = verbs.add_parser("toy")
    learned.add_argument("--seeds", type=int, default=3)
    learned.add_argument("--points", type=int, default=128)
    learned.add_argument("--control", type=int, default=2048)
    learned.add_argument("--steps", type=int, nargs="+", default=[2000, 5000, 12_000])
    learned.add_argument("--chains", type=int, default=256)
    learned.add_argument("--gammas", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.3])
    learned.add_argument("--cycles", type=int, nargs="+", default=[40, 30, 15, 10])
    learned.add_argument("--cycle-steps", type=int, default=20)
    learned.add_argument("--fine", type=int, default=500, help="steps of the ancestral one-shot samples")
    learned.set_defaults(run=toy)
    planted = verbs.add_parser("canary")
    planted.add_argument("--out", type=Path, required=True)
    planted.add_argument("--seeds", type=int, default=3)
    planted.add_argument("--images", type=int, default=200)
    planted.add_argument("--planted", type=int, default=10)
    planted.add_argument("--copies", type=int, nargs="+", default=[0, 1, 4, 16])
    planted.add_argument("--blocks", type=int, nargs="+", default=[1, 3])
    planted.add_argument("--budget", default="400k")
    planted.add_argument("--chains", type=int, default=Auditing.chains)
    planted.set_defaults(run=canary)
    deep = verbs.add_parser("depth")
    deep.add_argument("--runs", type=Path, nargs="+", required=True)
    deep.add_argument("--out", type=Path, required=True)
    deep.set_defaults(run=depth)
    options = parser.parse_args()
    for row in options.run(options):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
