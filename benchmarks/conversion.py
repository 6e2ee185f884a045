r"""Does it pay to start from a trained network? A teacher becomes blocks, experts or specialists, at equal work.

    oneblock train images --data fashion-mnist --size nano --strategy end-to-end --budget 900k --hold 0.5 \
        --out runs/teacher-0
    python benchmarks/conversion.py --teachers runs/teacher-0 --out runs/conversion > rows.jsonl
    python benchmarks/conversion.py --table rows.jsonl

Every teacher is a run of one block. Its arms, all with the same budget after the teacher: `scratch` are blocks that
start fresh; `slices` are blocks of the teacher's own layers in order; `specialists` have the layers that each band
needs most (`choose_layers`); `pruned` is one network of a block's depth for the whole range, chosen and started in the
same way: the control of specialising; `experts` are the whole network for each band, and `continued` is the teacher
itself, trained on over the whole range: the control of experts. Specialists and the pruned network are also
`distilled`: trained against the teacher's answers, whose forward passes are not in the budget (`teacher_evaluations`
counts them, in layers forward); `branched` is the pruned network for half of the work, and then a specialist for each
band. `teacher` is the teacher itself, and `chosen` what specialists answer before any training. A JSON row each:
held-out loss of three bands, Frechet distance, layer evaluations of a sample, layers, seconds. The same --out goes on
where it was stopped. `--table` prints means and standard deviations over the teachers.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import oneblock as ob
from oneblock.convert.converted import Converted
from oneblock.presets import ImageRecipe, Recipe
from oneblock.train.drive import Watch
from oneblock.train.strategy import job_specs

BRANCH = 0.5
"""Share of the work after which a pruned network becomes specialists."""
QUIET = Watch(bars=False)
Row = dict[str, Any]


def arms(
    teacher: Converted, recipe: ImageRecipe, per_block: int, data: str
) -> Iterator[tuple[str, Recipe, Converted | None, str]]:
    """Name, recipe, network and strategy."""
    chosen = ob.choose_layers(teacher, recipe, per_block, data)
    whole = replace(recipe, blocks=1)
    yield "scratch", replace(recipe, depth=teacher.count), None, "all"
    yield "slices", recipe, teacher.pick(range(per_block * recipe.blocks)), "all"
    yield "specialists", recipe, teacher.pick(chosen), "all"
    pruned = teacher.pick(ob.choose_layers(teacher, whole, per_block, data))
    yield "pruned", whole, pruned, "end-to-end"
    yield (
        "experts",
        ob.experts(replace(recipe, depth=teacher.count)),
        teacher.pick(teacher.picks * recipe.blocks),
        "all",
    )
    yield "continued", replace(whole, depth=teacher.count), teacher, "end-to-end"
    yield "specialists, distilled", recipe, teacher.pick(chosen), "all"
    yield "pruned, distilled", whole, pruned, "end-to-end"
    branched = replace(recipe, branch=BRANCH)
    yield "branched, distilled", branched, pruned.pick(pruned.picks * recipe.blocks), "all"
    # a step of one sample moves nothing that could be measured: what the choice is worth by itself
    least = replace(recipe, budget=per_block * recipe.blocks, batch_size=1, block_batch_size=1, learning_rate=1e-12)
    yield "chosen", least, teacher.pick(chosen), "all"


def scored(model: ob.Model, data: str, steps: list[int], samples: int) -> Row:
    """The losses once, and quality and speed at every number of steps, the first one named plainly."""
    every: list[Row] = []
    for count in steps:
        found = model.evaluate(data, num_samples=samples, report_bands=3, steps=count)  # type: ignore[call-arg]
        work = {"sampling_work": count * max(model.plan.layers)}
        every.append({name: found[name] for name in ("frechet", "frechet_floor", "images_per_second")} | work)
    return {name: found[name] for name in ("loss", "band_losses")} | every[0] | {"curve": every}


def trained(place: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one teacher."""
    model = ob.Model.open(place)
    asked = set(options.arms)
    recipe = ImageRecipe(
        size="nano", blocks=options.blocks, budget=options.budget, hold=0.5, seed=model.plan.seed,
        learning_rate=options.learning_rate,
    )  # fmt: skip
    told: Row = {"teacher": place.name, "budget": options.budget, "learning_rate": options.learning_rate}
    if not asked or "teacher" in asked:
        row = {"arm": "teacher", "layers": list(model.plan.layers), **told}
        yield row | scored(model, options.data, options.steps, options.samples)
    teacher = ob.convert(model.network)
    for name, changed, network, strategy in arms(teacher, recipe, options.per_block, options.data):
        if asked and name not in asked:
            continue
        out = options.out / f"{place.name}-{name.replace(', ', '-')}"
        distilled = name.endswith("distilled")
        began = time.perf_counter()
        done = ob.train(
            changed,
            backbone=network,
            data=options.data,
            out=out,
            strategy=strategy,  # type: ignore[arg-type]
            teacher=model if distilled else None,
            watch=QUIET,
            machine=ob.Machine(threads=1),
        )
        row = {"arm": name, "train_seconds": time.perf_counter() - began, **told}
        samples = sum((job.last_step - job.first_step) * job.batch_size for job in job_specs(done.plan))
        row["teacher_evaluations"] = samples * teacher.count if distilled else 0
        row["picks"] = None if network is None else list(network.picks)
        row["layers"] = list(done.plan.layers)
        made = ob.Model.open(out, backbone=network)
        yield row | scored(made, options.data, options.steps, options.samples)


def table(rows: list[Row]) -> str:
    """Means and standard deviations over the teachers, an arm a line; distances by layer evaluations of a sample."""
    found: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        found.setdefault(
            (row["arm"], "" if row["arm"] == "teacher" else row["budget"], row["learning_rate"]), []
        ).append(row)
    works = sorted({one["sampling_work"] for row in rows for one in row["curve"]}, reverse=True)
    lines = ["| arm | budget | rate | loss | of bands | " + " | ".join(f"FD at {work}" for work in works) + " | n |"]
    lines.append("|---" * (6 + len(works)) + "|")
    for (arm, budget, rate), own in found.items():
        bands = ", ".join(f"{mean(row['band_losses'][i] for row in own):.3f}" for i in range(3))
        cells = [arm, budget, f"{rate:g}" if rate else "", spread([row["loss"] for row in own], 4), bands]
        for work in works:
            cells.append(spread([c["frechet"] for row in own for c in row["curve"] if c["sampling_work"] == work], 1))
        lines.append("| " + " | ".join([*cells, str(len(own))]) + " |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    """``mean ± standard deviation``."""
    if not values:
        return ""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="+", type=Path, default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/conversion"))
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--budget", default="150k")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--per-block", type=int, default=2)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, nargs="+", default=[24])
    parser.add_argument("--learning-rate", type=float, default=0.0, help="0 is the recipe's")
    parser.add_argument("--arms", nargs="*", default=[])
    parser.add_argument("--table", nargs="*", type=Path, default=[])
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for path in options.table for line in path.read_text().splitlines()]))
    for place in options.teachers:
        for row in trained(place, options):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
