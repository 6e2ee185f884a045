"""Training stopped by signals at random moments and started again ends in the same bytes as training left alone.

    python benchmarks/kill_resume.py --stops 20
    python benchmarks/kill_resume.py --stops 10 --signals TERM INT USR1 HUP --save-every 1000000 --verb launch

After a signal that is not KILL nothing may be lost: the step that is being taken ends and is saved. Prints one JSON
object; exit code 1 when a byte differs or a step was lost.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from oneblock.launch.status import status
from oneblock.train.checkpoint import checkpoint_step, checkpoints

ONEBLOCK = [sys.executable, "-m", "oneblock"]
TASKS = ["images", "classify", "masked-text", "text", "recurrent-text"]
JOBS = (
    "import sys; from pathlib import Path; from oneblock.cli.__main__ import main;"
    "from oneblock.plan import read_plan; from oneblock.train.strategy import job_specs;"
    "jobs = [spec.name.rpartition('-')[2] for spec in job_specs(read_plan(Path(sys.argv[1])))];"
    "codes = (main(['job', sys.argv[1], '--block', job, *sys.argv[2:]]) for job in jobs);"
    "sys.exit(next((code for code in codes if code), 0))"
)
"""Trains the jobs of a run one after the other, and stops with the first that is stopped."""
TURNS = ("--order", "turns", "--turn-seconds", "0.5")
"""Of ``train``: several blocks are under way when it is stopped."""
SENTENCE = "the cat sat on the mat and a dog ran to the gate while rain fell on the old town . "


def recipe(options: argparse.Namespace, text: Path) -> list[str]:
    """What is trained: on digits, or on a text that repeats itself."""
    words = ["train", options.task, "--size", "nano", "--batch-size", "64", "--budget", options.budget]
    if options.task.endswith("text"):
        text.write_text(SENTENCE * 2000)
        words += ["--data", f"file:{text}", "--length", "32"]
    return words + ([] if options.task == "recurrent-text" else ["--branch", "0.5"])


def start(out: Path, options: argparse.Namespace, text: Path) -> "subprocess.Popen[bytes]":
    """Train all jobs: in turn, one after the other, or each in a process of its own."""
    machine = ["--threads", "1", "--save-every", str(options.save_every)]
    if options.verb == "train":
        words = [*ONEBLOCK, *recipe(options, text), *machine, *TURNS, "--out", str(out)]
        return subprocess.Popen(words, stderr=subprocess.DEVNULL)
    if not out.exists():
        words = [*ONEBLOCK, *recipe(options, text), "--strategy", "plan-only", "--out", str(out)]
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    words = [*ONEBLOCK, "launch"] if options.verb == "launch" else [sys.executable, "-c", JOBS]
    return subprocess.Popen([*words, str(out), *machine], stderr=subprocess.DEVNULL)


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of the last checkpoint of every job."""
    jobs = sorted(path for path in run.iterdir() if path.is_dir() and checkpoints(path))
    return {job.name: hashlib.sha256(checkpoints(job)[-1].read_bytes()).hexdigest() for job in jobs}


def progress(run: Path) -> int:
    """Steps in the newest checkpoints of all jobs together."""
    found = [checkpoints(path) for path in run.iterdir() if path.is_dir()] if run.is_dir() else []
    return sum(checkpoint_step(paths[-1]) for paths in found if paths)


def unsaved(run: Path) -> int:
    """Steps of the job that lost most."""
    return max(job.step - job.saved for job in status(run)) if (run / "plan.json").exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--signals", nargs="+", default=["KILL"], choices=["KILL", "TERM", "INT", "USR1", "HUP"])
    parser.add_argument("--task", default="images", choices=TASKS)
    parser.add_argument("--verb", default="train", choices=["train", "job", "launch"])
    parser.add_argument("--save-every", type=int, default=20)
    parser.add_argument("--budget", default="300k")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in ("INT", "HUP"):  # ignored by background jobs of a shell, which trainings would inherit
        signal.signal(signal.Signals[f"SIG{name}"], signal.default_int_handler)
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, stormy = Path(folder) / "calm", Path(folder) / "stormy"
        text = Path(folder) / "text.txt"
        began = time.perf_counter()
        process = start(calm, options, text)
        while not list(calm.glob("*/lock")):
            time.sleep(0.01)
        starting = time.perf_counter() - began
        if process.wait():
            return 1
        training = time.perf_counter() - began - starting
        stops: list[dict[str, object]] = []
        while len(stops) < options.stops:
            process = start(stormy, options, text)
            # any moment from the first line of Python on, and on average not more training than the stops share out
            wait = moments.uniform(0, starting + 2 * training / options.stops)
            try:
                if process.wait(wait):
                    return 1
                break
            except subprocess.TimeoutExpired:
                name = moments.choice(options.signals)
                process.send_signal(signal.Signals[f"SIG{name}"])
                process.wait()
                lost = 0 if name == "KILL" else unsaved(stormy)
                stops.append({"after": round(wait, 2), "signal": name, "saved": progress(stormy), "lost": lost})
        if len(stops) < options.stops:
            print(f"the run ended after {len(stops)} stops; use a larger --budget", file=sys.stderr)
            return 1
        same = start(stormy, options, text).wait() == 0 and digests(calm) == digests(stormy)
        lost = max(int(str(stop["lost"])) for stop in stops)
        row = {"task": options.task, "verb": options.verb, "stops": len(stops), "identical": same, "lost": lost}
        print(json.dumps({**row, "jobs": len(digests(calm)), "moments": stops}))
        return 0 if same and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
