"""Time of ``import oneblock`` beside ``import torch``, in fresh processes, alternating; medians and their ratio.

python benchmarks/import_time.py --repeats 15
"""

import argparse
import json
import statistics
import subprocess
import sys


def seconds(module: str) -> float:
    program = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    pairs = [(seconds("torch"), seconds("oneblock")) for _ in range(repeats + 1)][1:]
    torch, oneblock = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(json.dumps({"torch": round(torch, 3), "oneblock": round(oneblock, 3), "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
