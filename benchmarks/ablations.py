"""The choices of DiffusionBlocks, one changed at a time, at equal work.

    python benchmarks/ablations.py --out runs/ablations --budget 900k --workers 2
    python benchmarks/ablations.py --task classify --choices shared --out runs/shared --budget 300k --seeds 3 --patch 7

``paper``: bands, overlap, number of blocks (Tables 7, 8 and 10 of arXiv 2506.14202), of images; ``shared``: who trains
stem and head, of images or classifiers.

Plain blocks without --branch, as in the paper. Losses are reported on the same three bands for every variant. Options
that are not named here go to ``oneblock compare``. What is finished is not run again. Prints a JSON object per variant.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Name, arm of `oneblock compare images`, options that differ from the base (3 blocks, equal mass, overlap 0.05).
Variant = tuple[str, str, list[str]]
PAPER: list[Variant] = [
    ("blocks-3", "blockwise", []),
    ("bands-log-uniform", "blockwise", ["--bands", "log-uniform"]),
    ("overlap-0", "blockwise", ["--overlap", "0"]),
    ("overlap-0.1", "blockwise", ["--overlap", "0.1"]),
    ("blocks-1", "end-to-end", []),
    ("blocks-2", "blockwise", ["--blocks", "2"]),
    ("blocks-6", "blockwise", ["--blocks", "6"]),
]
SHARED: list[Variant] = [
    ("private", "blockwise", []),
    ("synced-1", "blockwise", ["--shared", "synced", "--sync-every", "1"]),
    ("synced-30", "blockwise", ["--shared", "synced", "--sync-every", "30"]),
    ("synced-1000", "blockwise", ["--shared", "synced", "--sync-every", "1000"]),
    ("joint", "blockwise", ["--shared", "joint"]),
]
SCORES = {
    "images": ("loss", "band_losses", "frechet", "frechet_floor", "kernel", "recall"),
    "classify": ("accuracies", "accuracy", "ece", "nll"),
}


def run(options: argparse.Namespace, variant: Variant) -> dict[str, object]:
    name, arm, changed = variant
    command = [
        *(sys.executable, "-m", "oneblock.cli", "compare", options.task, "--json", "--out", str(options.out / name)),
        *("--data", options.data, "--size", options.size, "--budget", options.budget, "--threads", "1"),
        *("--arms", arm, "--seeds", str(options.seeds), "--branch", "0", "--hold", "0.5", *changed, *options.more),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = json.loads(done.stdout)["runs"]
    kept = ("seed", *SCORES[options.task], "layer_evaluations", "peak_bytes")
    return {"variant": name, "arm": arm, "runs": [{key: row[key] for key in kept} for row in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=["images", "classify"], default="images")
    parser.add_argument("--choices", choices=["paper", "shared"], default="paper")
    parser.add_argument("--only", nargs="+", default=[], help="names of variants (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--budget", default="900k")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    options, options.more = parser.parse_known_args()
    if options.task == "classify" and options.choices == "paper":
        parser.error("--choices paper has the tables of images; use --choices shared for classifiers")
    with ThreadPoolExecutor(options.workers) as pool:
        variants = PAPER if options.choices == "paper" else SHARED
        variants = [variant for variant in variants if not options.only or variant[0] in options.only]
        for row in pool.map(lambda variant: run(options, variant), variants):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
