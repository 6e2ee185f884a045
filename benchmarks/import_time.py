"""Time of ``import oneblock``, alone and with all its names loaded, beside ``import torch``: fresh processes,
alternating; medians and their ratios.

python benchmarks/import_time.py --repeats 15
"""

import argparse
import json
import statistics
import subprocess
import sys

PROGRAMS = {
    "torch": "import torch",
    "oneblock": "import oneblock",
    "all_names": "import oneblock; [getattr(oneblock, name) for name in oneblock.__all__]",
}


def seconds(program: str) -> float:
    timed = f"import time; t = time.perf_counter(); {program}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    rows = [{name: seconds(program) for name, program in PROGRAMS.items()} for _ in range(repeats + 1)][1:]
    found = {name: statistics.median(row[name] for row in rows) for name in PROGRAMS}
    found |= {
        f"{name}_ratio": statistics.median(row[name] / row["torch"] for row in rows)
        for name in PROGRAMS
        if name != "torch"
    }
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
