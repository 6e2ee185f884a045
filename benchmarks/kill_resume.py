"""Training killed with SIGKILL at random moments and started again ends in the same bytes as training left alone.

    python benchmarks/kill_resume.py --kills 20

Prints one JSON object; exit code 1 when a byte differs.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from oneblock.train.checkpoint import checkpoint_step, checkpoints

COMMAND = [
    *(sys.executable, "-m", "oneblock.cli", "train", "images", "--size", "nano", "--batch-size", "64"),
    *("--branch", "0.5", "--threads", "1", "--save-every", "20", "--stride", "30"),
]


def start(out: Path, budget: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*COMMAND, "--budget", budget, "--out", str(out)], stderr=subprocess.DEVNULL)


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of the last checkpoint of every job."""
    jobs = sorted(path for path in run.iterdir() if checkpoints(path))
    return {job.name: hashlib.sha256(checkpoints(job)[-1].read_bytes()).hexdigest() for job in jobs}


def progress(run: Path) -> int:
    """Steps in the newest checkpoints of all jobs together."""
    jobs = [checkpoints(path) for path in run.iterdir()] if run.is_dir() else []
    return sum(checkpoint_step(found[-1]) for found in jobs if found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--budget", default="300k")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, stormy = Path(folder) / "calm", Path(folder) / "stormy"
        began = time.perf_counter()
        process = start(calm, options.budget)
        while not (calm / "trunk" / "lock").exists():
            time.sleep(0.01)
        starting = time.perf_counter() - began
        if process.wait():
            return 1
        training = time.perf_counter() - began - starting
        kills: list[dict[str, float]] = []
        while len(kills) < options.kills:
            process = start(stormy, options.budget)
            # any moment from the first line of Python on, and on average not more training than the kills share out
            wait = moments.uniform(0, starting + 2 * training / options.kills)
            try:
                if process.wait(wait):
                    return 1
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills.append({"after_seconds": round(wait, 2), "steps_saved": progress(stormy)})
        if len(kills) < options.kills:
            print(f"the run ended after {len(kills)} kills; use a larger --budget", file=sys.stderr)
            return 1
        finished = start(stormy, options.budget).wait() == 0
        same = finished and digests(calm) == digests(stormy)
        row = {"kills": len(kills), "identical": same, "jobs": len(digests(calm)), "moments": kills}
        print(json.dumps(row))
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
