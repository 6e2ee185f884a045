"""Variants of blockwise autoregressive text: what each choice moves, in bits per byte on held-out text.

    python benchmarks/text_variants.py --out runs/variants --budget 100k --only ordinary shallow two one

Every variant gets the same work; two streams count twice, as a layer works on twice as many tokens. One JSON row per
variant and seed goes to OUT/rows.jsonl: bits per byte after every call on each path, alone and pooled.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from oneblock.blockwise import DenoiserLike
from oneblock.data import open_text
from oneblock.evaluate.writing import held_out
from oneblock.plan import Plan
from oneblock.presets import CausalRecipe, blockwise, gpt_config, parse_count, plan_vocabulary, token_table, train
from oneblock.sample.causal import Calls, predict
from oneblock.tasks.causal import code_length, log_likelihood
from oneblock.train.drive import Watch
from oneblock.train.machine import Machine
from oneblock.train.shards import open_denoiser

RATE = 2e-3
ORDINARY = {"streams": "none", "blocks": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "ordinary": ORDINARY,
    "shallow": {**ORDINARY, "depth": 2},
    "ensemble": {"streams": "none"},
    "two": {},
    "one": {"streams": "one"},
    "two-b1": {"blocks": 1},
    "one-b1": {"streams": "one", "blocks": 1},
    "two-bayes": {"inputs": "bayes"},
    "one-bayes": {"streams": "one", "inputs": "bayes"},
    "two-lognormal": {"law": "log-normal", "inputs": "scaled", "table": "random"},
    "two-clean": {"clean": 0.5},
    "one-clean": {"streams": "one", "clean": 0.5},
    "two-branched": {"branch": 0.5},
    "one-branched": {"streams": "one", "branch": 0.5},
    "none-bayes": {"streams": "none", "inputs": "bayes"},
    "none-bayes-branch80": {"streams": "none", "inputs": "bayes", "branch": 0.8},
    "one-bayes-branched": {"streams": "one", "inputs": "bayes", "branch": 0.5},
    "one-bayes-branch80": {"streams": "one", "inputs": "bayes", "branch": 0.8},
    "one-bayes-branch80-clean": {"streams": "one", "inputs": "bayes", "branch": 0.8, "clean": 0.5},
    "ensemble-branch80": {"streams": "none", "branch": 0.8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="books")
    parser.add_argument("--budget", default="100k")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.only:
            row = run(options, name, seed)
            with open(options.out / "rows.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def run(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train and score one variant."""
    directory = options.out / f"{name}-{options.budget}-seed{seed}"
    machine = Machine(threads=options.threads)
    began = time.process_time()
    trained = train(
        variant(options, name, seed), out=directory, data=options.data, machine=machine, watch=Watch(bars=False)
    )
    seconds, plan = time.process_time() - began, trained.plan
    denoiser = open_denoiser(directory, blockwise(plan), machine.torch_device())
    tokens = held_out(open_text(options.data, "test", plan_vocabulary(plan)), options.length, options.windows).tokens
    return {
        "variant": name,
        "seed": seed,
        "budget": options.budget,
        "cpu_seconds": round(seconds, 1),
        "edges": [round(edge, 3) for edge in plan.edges],
        **scores(plan, denoiser, tokens),
    }


def variant(options: argparse.Namespace, name: str, seed: int) -> CausalRecipe:
    """Two streams work on twice as many tokens, and get half as many steps for it."""
    recipe = CausalRecipe(
        length=options.length,
        size="nano",
        streams="two",
        inputs="evidence",
        batch_size=options.batch_size,
        block_batch_size=options.batch_size,
        hold=0.5,
        seed=seed,
        learning_rate=RATE,
    )
    recipe = replace(recipe, **VARIANTS[name])
    streams = 2 if recipe.streams == "two" else 1
    return replace(recipe, budget=parse_count(options.budget) // streams)


def scores(plan: Plan, denoiser: DenoiserLike, tokens: torch.Tensor) -> dict[str, Any]:
    """Bits per byte after every call."""
    table, streams = token_table(plan), gpt_config(plan).streams
    levels = plan.edges[: plan.num_blocks]
    if streams == "none" and plan.recipe["inputs"] != "bayes":
        return {"ensemble": ensemble(plan, denoiser, tokens)}
    found = {}
    for path, pool, draws in (
        ("none", "evidence", 1),
        ("mean", "last", 1),
        ("mean", "mean", 1),
        ("mean", "evidence", 1),
        ("euler", "evidence", 8),
        ("euler", "last", 8),
        ("redraw", "last", 1),
        ("redraw", "last", 8),
        ("redraw", "mean", 8),
    ):
        calls = Calls(levels=levels, path=path, pool=pool)  # type: ignore[arg-type]
        found[f"{path}-{pool}-{draws}"] = bits(table, denoiser, tokens, calls, streams == "one", draws)
    return found


def bits(
    table: torch.Tensor, denoiser: DenoiserLike, tokens: torch.Tensor, calls: Calls, carried: bool, draws: int
) -> list[float]:
    each = []
    for seed in range(draws):
        steps = predict(denoiser, table, tokens, calls, carried, seed)
        each.append(torch.stack([log_likelihood(p, tokens) for p in steps]))
    lengths = code_length(torch.stack(each)).mean((1, 2)) / torch.tensor(2.0).log()
    return [round(value, 4) for value in lengths.tolist()]


def ensemble(plan: Plan, denoiser: DenoiserLike, tokens: torch.Tensor) -> list[float]:
    """Ordinary networks, their probabilities averaged one after another."""
    table = token_table(plan)
    calls = Calls(levels=plan.edges[: plan.num_blocks], path="mean", pool="mean")
    return bits(table, denoiser, tokens, calls, False, 1)


if __name__ == "__main__":
    main()
