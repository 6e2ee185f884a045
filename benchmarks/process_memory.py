"""Peak resident memory of whole training processes, interpreter and libraries included, as the system counts it.

    python benchmarks/process_memory.py --runs 3

A DiT with 1 GiB of weights (fp32), trained for a few steps of few small images on the CPU: end-to-end; end-to-end with
checkpointing; one of four blocks, from the start and once more from its checkpoint; and the four blocks in turn, idle
ones on disk. Every process also holds gradients, AdamW's moments and a weight average, and writes a checkpoint. Needs
scikit-learn's digits and 9 GB of disk. Prints a JSON line for each process, then the ratios to end-to-end training.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

MODEL = ("--size", "nano", "--depth", "16", "--width", "964", "--heads", "4")
BLOCKS, BATCH, DEPTH = 4, 4, 16
OWN = ("--strategy", "one-block", "--block", "1")
WAYS = {
    "end-to-end": ("--strategy", "end-to-end"),
    "end-to-end, checkpointing": ("--strategy", "end-to-end", "--checkpointing"),
    "own block": OWN,
    "own block, resumed": OWN,
    "in turn, idle on disk": ("--idle", "disk", "--stride", "2"),
}


def peak_of(words: list[str]) -> float:
    """Peak resident GiB of one process: ``ru_maxrss``, which Linux gives in KiB."""
    process = subprocess.Popen([sys.executable, "-m", "oneblock.cli", *words], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with status {status}")
    return usage.ru_maxrss / 2**20


def peaks(steps: int) -> dict[str, float]:
    """Peak of every way of training, one after the other; each but the resumed one in a directory of its own."""
    found = {}
    budget = str(DEPTH * BATCH * steps)
    work = ("--blocks", str(BLOCKS), "--batch-size", str(BATCH), "--block-batch-size", str(BATCH), "--budget", budget)
    with tempfile.TemporaryDirectory() as folder:
        for name, words in WAYS.items():
            out = Path(folder) / name.removesuffix(", resumed")
            if name.endswith("resumed"):
                newest = max((out / "block-1").glob("step-*.safetensors"))
                newest.unlink()  # the process goes on from the checkpoint before the last
            found[name] = peak_of(
                ["train", "images", "--data", "digits", "--out", str(out), *MODEL, *work, *words, "--save-every", "2"]
            )
            if name != "own block":
                subprocess.run(["rm", "-rf", str(out)], check=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    rows: dict[str, list[float]] = defaultdict(list)
    for run in range(options.runs):
        for name, peak in peaks(options.steps).items():
            rows[name].append(peak)
            print(json.dumps({"run": run, "process": name, "peak_gib": round(peak, 3)}), flush=True)
    for name, values in rows.items():
        ratios = [peak / whole for peak, whole in zip(values, rows["end-to-end"], strict=True)]
        row = {"process": name, "median_gib": round(statistics.median(values), 3)}
        print(json.dumps({**row, "of_end_to_end": [round(ratio, 4) for ratio in ratios]}), flush=True)


if __name__ == "__main__":
    main()
