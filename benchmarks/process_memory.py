"""Peak resident memory of whole training processes, interpreter and libraries included, as the system counts it.

    python benchmarks/process_memory.py --runs 3

A DiT with 1 GiB of weights (fp32), trained for two steps of --batch-size images of 16 tokens on the CPU: end-to-end;
end-to-end with checkpointing; one of four blocks, from the start and once more from its first checkpoint; and the four
blocks in turn, idle ones on disk. A block's batch is as large as that of the whole network. Every process also holds
gradients, AdamW's moments and a weight average, and writes checkpoints. Needs scikit-learn's digits and 10 GB of disk.
Prints a JSON line for each process, then the ratios to end-to-end training.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

MODEL = ("--size", "nano", "--depth", "28", "--width", "732", "--heads", "4")  # the depth of DiT-XL
BLOCKS, DEPTH, STEPS = 4, 28, 2
OWN = ("--strategy", "one-block", "--block", "1")
WAYS = {
    "end-to-end": ("--strategy", "end-to-end"),
    "end-to-end, checkpointing": ("--strategy", "end-to-end", "--checkpointing"),
    "own block": OWN,
    "own block, resumed": OWN,
    "in turn, idle on disk": ("--order", "turns", "--turn-seconds", "0", "--idle", "disk"),
}


def peak_of(words: list[str]) -> float:
    """Peak resident GiB of one process: ``ru_maxrss``, which Linux gives in KiB."""
    process = subprocess.Popen([sys.executable, "-m", "oneblock.cli", *words], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with status {status}")
    return usage.ru_maxrss / 2**20


def peaks(batch_size: int) -> Iterator[tuple[str, float]]:
    """Peak of every way of training, one after the other; each but the resumed one in a directory of its own."""
    work = (
        *("--blocks", str(BLOCKS), "--batch-size", str(batch_size), "--block-batch-size", str(batch_size)),
        *("--budget", str(DEPTH * batch_size * STEPS), "--save-every", "1"),
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, words in WAYS.items():
            out = Path(folder) / name.removesuffix(", resumed")
            if name.endswith("resumed"):
                newest = max((out / "block-1").glob("step-*.safetensors"))
                newest.unlink()  # the process goes on from the checkpoint before the last
            command = ["train", "images", "--data", "digits", "--out", str(out), *MODEL, *work, *words]
            yield name, peak_of(command)
            if name != "own block":
                subprocess.run(["rm", "-rf", str(out)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    rows: dict[str, list[float]] = defaultdict(list)
    for run in range(options.runs):
        for name, peak in peaks(options.batch_size):
            rows[name].append(peak)
            row = {"run": run, "process": name, "batch_size": options.batch_size}
            print(json.dumps({**row, "peak_gib": round(peak, 3)}), flush=True)
    for name, values in rows.items():
        ratios = [peak / whole for peak, whole in zip(values, rows["end-to-end"], strict=True)]
        row = {"process": name, "median_gib": round(statistics.median(values), 3)}
        print(json.dumps({**row, "of_end_to_end": [round(ratio, 4) for ratio in ratios]}), flush=True)


if __name__ == "__main__":
    main()
