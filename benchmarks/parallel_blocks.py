"""Two blocks on two cores against one after the other: wall time of ``oneblock launch``, from start to end.

    python benchmarks/parallel_blocks.py --pairs 3

Both ways run in a network namespace without interfaces (``unshare --net``, which needs Linux and root), so that no byte
can leave a process; the bytes its loopback has counted are printed. One after the other is run with one thread, as each
of the two, and with two threads, as one would do it on such a machine. What the machine itself gives two processes at
once is measured beside each pair by products of matrices, one thread each. Prints a JSON line for each pair, then
medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONEBLOCK = (sys.executable, "-m", "oneblock.cli")
PLAN = ("--data", "digits", "--size", "nano", "--width", "384", "--heads", "6", "--blocks", "2", "--batch-size", "64")
WAYS = {"together": (2, 1), "one after the other": (1, 1), "one after the other, two threads": (1, 2)}


def launch(budget: str, local: int, threads: int) -> tuple[float, int]:
    """Seconds from start to end, and bytes that the loopback interface of its network namespace has seen."""
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        plan = [*ONEBLOCK, "train", "images", *PLAN, "--budget", budget, "--strategy", "plan-only", "--out", run]
        subprocess.run(plan, check=True, stderr=subprocess.DEVNULL)
        words = [*ONEBLOCK, "launch", run, "--local", str(local), "--threads", str(threads), "--retries", "0"]
        inside = 'set -e; "$@" >/dev/null 2>&1; cat /proc/net/dev'
        began = time.perf_counter()
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", inside, "sh", *words], check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
    fields = next(line for line in done.stdout.splitlines() if line.strip().startswith("lo:")).split()
    return seconds, int(fields[1]) + int(fields[9])


PRODUCTS = """
import sys, time, torch
torch.set_num_threads(1)
a = torch.randn(512, 512)
sys.stdin.readline()
began, count = time.perf_counter(), 0
while time.perf_counter() - began < 5:
    a @ a
    count += 1
print(count)
"""


def ceiling() -> float:
    """Products that two processes at once make in five seconds, over those of one."""

    def products(num_processes: int) -> int:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen([sys.executable, "-c", PRODUCTS], **pipes) for _ in range(num_processes)]
        time.sleep(5)  # torch is imported meanwhile
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return sum(int(process.communicate()[0]) for process in processes)

    return products(2) / products(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--budget", default="10k")
    options = parser.parse_args()
    rows = []
    for pair in range(options.pairs):
        seconds, exchanged = {}, 0
        for name, (local, threads) in WAYS.items():
            seconds[name], seen = launch(options.budget, local, threads)
            exchanged += seen
        rows.append(seconds)
        row = {"pair": pair, "seconds": seconds, "bytes_exchanged": exchanged, "machine_ceiling": ceiling()}
        print(json.dumps(row), flush=True)
    for name in list(WAYS)[1:]:
        ratios = [row[name] / row["together"] for row in rows]
        print(json.dumps({"against": name, "throughput": ratios, "median": statistics.median(ratios)}), flush=True)


if __name__ == "__main__":
    main()
