"""How likely written text is at equal diversity: runs of one comparison, each at several temperatures.

    python benchmarks/matched_diversity.py --runs runs/text --out runs/diversity --arms end-to-end shallow branched

Every run writes texts of its length. Their diversity is the entropy of their characters, their likelihood that of
6-grams of the training text. One JSON row per run and temperature goes to OUT/rows.jsonl; then each arm's bits per
character where it meets the entropy of held-out text, and OUT/diversity.png.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from oneblock.blockwise import Denoiser
from oneblock.evaluate.causal import plan_calls
from oneblock.evaluate.masked import write_masked
from oneblock.evaluate.text import n_grams
from oneblock.evaluate.writing import Writing, held_out
from oneblock.metrics import SamplingPoint, matched_perplexity, text_quality
from oneblock.plan import Plan
from oneblock.presets import block_readings, blockwise, plan_length, plan_vocabulary, token_table
from oneblock.presets.data import plan_text
from oneblock.report.picture import curves
from oneblock.sample.causal import write
from oneblock.train.shards import open_denoiser, open_plan

Row = dict[str, Any]
DEVICE = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="directories of comparisons")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.7, 0.85, 1.0, 1.15])
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    results = [path for runs in options.runs for path in sorted(runs.glob("*/result.json"))]
    found = [(json.loads(path.read_text())["arm"], path.parent) for path in results]
    chosen = [(arm, directory) for arm, directory in found if arm in options.arms]
    if not chosen:
        parser.error(f"no finished run of {options.arms} in {options.runs}; allowed: {sorted({a for a, _ in found})}")
    if len(options.runs) > 1:  # arms of two comparisons may have one name
        chosen = [(f"{directory.parent.name}: {arm}", directory) for arm, directory in chosen]
    plan = open_plan(chosen[0][1])
    scorer = n_grams(plan_text(plan, "train"))
    windows = held_out(plan_text(plan, "test"), plan_length(plan), options.texts).tokens
    real = text_quality([plan_vocabulary(plan).decode(row) for row in windows], scorer, "characters").as_row()
    rows: list[Row] = []
    with open(options.out / "rows.jsonl", "w") as file:
        for arm, directory in chosen:
            plan = open_plan(directory)
            denoiser = open_denoiser(directory, blockwise(plan), DEVICE)
            for temperature in options.temperatures:
                texts = written(plan, denoiser, options.texts, temperature)
                quality = text_quality(texts, scorer, "characters").as_row()
                rows.append({"arm": arm, "run": directory.name, "temperature": temperature, **quality})
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    points = arm_points(rows)
    target = real["unigram_entropy"]
    for name, point in matched_perplexity(points, target).items():
        found_row = {"arm": name, "entropy": round(target, 4), "temperature": round(point.temperature, 3)}
        print(json.dumps({**found_row, "bits_per_character": round(math.log2(point.perplexity), 4)}))
    print(json.dumps({"arm": "held-out", **real}))
    lines = {arm: [(p.entropy, math.log2(p.perplexity)) for p in each] for arm, each in points.items()}
    lines["held-out text"] = [(target, real["bits_per_character"])]
    curves(lines, options.out / "diversity.png", "entropy of the characters, bits", f"bits under {scorer.name}")


def written(plan: Plan, denoiser: Denoiser, count: int, temperature: float) -> list[str]:
    """``count`` texts of the plan's length, side by side."""
    if plan.task == "masked-text":
        return write_masked(denoiser, plan, Writing(count=count, temperature=temperature))
    calls, length = plan_calls(plan), plan_length(plan)
    readings = block_readings(plan, denoiser, calls.levels, count)
    prompt = torch.zeros(count, 0, dtype=torch.long)
    steps = write(readings, token_table(plan), prompt, length, calls, temperature)
    return [plan_vocabulary(plan).decode(row) for row in torch.stack(list(steps), dim=1)]


def arm_points(rows: list[Row]) -> dict[str, list[SamplingPoint]]:
    """Of each arm at each temperature, means over its runs."""
    groups: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["arm"], row["temperature"]].append(row)
    points: dict[str, list[SamplingPoint]] = defaultdict(list)
    for (arm, temperature), each in sorted(groups.items()):
        entropy = statistics.fmean(row["unigram_entropy"] for row in each)
        points[arm].append(SamplingPoint(temperature, entropy, statistics.fmean(row["perplexity"] for row in each)))
    return dict(points)


if __name__ == "__main__":
    main()
