"""Four jobs under `oneblock launch --local 4`, disturbed as machines disturb them, end in the same bytes as four left
alone.

    python benchmarks/fault_drill.py --kills 50 --seed 0

What is done to them, while they train on digits:

- random jobs get SIGKILL at random moments: every other time any job, from the first line of Python on, otherwise one
  that has trained since it was started;
- the disk fills: the run lies on a small tmpfs, of which a file takes all but 64 KiB until a job has failed to write;
- a byte of a job's newest checkpoint is flipped while the job is dead;
- the clock of one job jumps a day ahead and back while it trains: its ``time.time`` is replaced (``sitecustomize``),
  the machine's clock stays as it is.

Prints one JSON object; exit code 1 when a byte of the merged models differs, or when one of these did not happen. The
tmpfs needs ``unshare`` of util-linux, as root or where user namespaces are allowed; Linux only.
"""

import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from oneblock.train.checkpoint import checkpoints
from oneblock.train.record import read_heartbeat

BLOCKS = 4
DAY = 86400.0
DISK_BYTES = 32 << 20
FREE_BYTES = 64 << 10  # room for logs and heartbeats, none for a checkpoint
PLAN = ("--size", "nano", "--depth", "4", "--blocks", str(BLOCKS), "--batch-size", "64")
LAUNCH = ("--local", str(BLOCKS), "--threads", "1", "--save-every", "25", "--retries", "1000", "--json")
CLOCK = f"""
import os, sys, time
if "--block" in sys.orig_argv:
    block = sys.orig_argv[sys.orig_argv.index("--block") + 1]
    ahead = os.path.join(os.path.dirname(__file__), "ahead-" + block)
    clock = time.time
    time.time = lambda: clock() + {DAY} * os.path.exists(ahead)
"""


class Launch:
    """``oneblock launch`` of the run at ``directory``, and its jobs as the process table shows them."""

    def __init__(self, directory: Path, clocks: Path) -> None:
        self.directory = directory
        self.clocks = clocks
        path = os.pathsep.join([str(clocks), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._events = open(clocks / f"{directory.name}.jsonl", "wb+")
        words = [sys.executable, "-m", "oneblock.cli", "launch", str(directory), *LAUNCH]
        self.process = subprocess.Popen(words, stdout=self._events, env={**os.environ, "PYTHONPATH": path})

    def jobs(self) -> dict[str, int]:
        """Process ids of the running jobs."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:  # it has ended meanwhile
                continue
            if parent == self.process.pid and "--block" in words:
                found["block-" + words[words.index("--block") + 1]] = int(entry.name)
        return found

    def count(self, text: str) -> int:
        """How often ``text`` stands in the logs of the jobs."""
        return sum(path.read_text(errors="replace").count(text) for path in self.directory.glob("block-*/log.txt"))

    def restarts(self) -> int:
        self._events.seek(0)
        return sum(json.loads(line)["event"] == "restarted" for line in self._events)

    def training(self) -> dict[str, int]:
        """Process ids of the running jobs that have given a sign of life since they were started."""
        beats = {job: read_heartbeat(self.directory / job) for job in self.jobs()}
        return {job: process for job, process in self.jobs().items() if (b := beats.get(job)) and b.process == process}

    def choose(self, moments: random.Random, trained: bool = False) -> tuple[str, int]:
        """One of the running jobs by chance, of those that train if ``trained``."""
        found = self.training if trained else self.jobs
        wait_for(lambda: bool(found()) or self.process.poll() is not None, "a running job", 120.0)
        running = sorted(found().items())
        if not running:
            raise TimeoutError("the run has ended before all disturbances; use a larger --budget")
        return moments.choice(running)


def wait_for(done: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what} in vain")
        time.sleep(0.02)


def kill(launch: Launch, moments: random.Random, trained: bool) -> bool:
    """SIGKILL for a random job; whether it had trained since it was started."""
    job, process = launch.choose(moments, trained)
    had_trained = job in launch.training()
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:  # it has ended by itself a moment ago
        return kill(launch, moments, trained)
    return had_trained


def fill_disk(launch: Launch) -> None:
    """Leave no room for a checkpoint until a job has failed for it."""
    ballast = launch.directory / "ballast"
    said = "No space left on device"
    before = launch.count(said)
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(16 << 10))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        file.truncate(max(0, file.tell() - FREE_BYTES))
    try:
        wait_for(lambda: launch.count(said) > before, "a full disk in a log")
    finally:
        ballast.unlink()


def flip_byte(launch: Launch, moments: random.Random) -> None:
    """Damage the newest checkpoint of a job that has two, and see it passed over."""
    said = "going on from an earlier checkpoint"
    before = launch.count(said)

    def ready() -> list[str]:
        return sorted(job for job in launch.jobs() if len(checkpoints(launch.directory / job)) > 1)

    wait_for(lambda: bool(ready()), "a job with two checkpoints")
    job = moments.choice(ready())
    process = launch.jobs()[job]
    os.killpg(process, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{process}").exists(), "the end of a killed job")
    newest = checkpoints(launch.directory / job)[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    wait_for(lambda: launch.count(said) > before, "a damaged checkpoint in a log")


def jump_clock(launch: Launch, moments: random.Random) -> None:
    """Put a job's clock a day ahead until its heartbeat shows it, and back."""
    job, _ = launch.choose(moments)
    ahead = launch.clocks / job.replace("block", "ahead")
    ahead.touch()

    def seen() -> bool:
        beat = read_heartbeat(launch.directory / job)
        return beat is not None and beat.time > time.time() + DAY / 2

    wait_for(seen, f"a heartbeat of {job} with a jumped clock")
    ahead.unlink()


def disturb(launch: Launch, kills: int, gap: float, moments: random.Random) -> dict[str, int]:
    """Kill ``kills`` times, ``gap`` seconds apart on average, with the other disturbances in between; what happened."""
    others = {
        kills // 5: lambda: fill_disk(launch),
        2 * kills // 5: lambda: flip_byte(launch, moments),
        3 * kills // 5: lambda: jump_clock(launch, moments),
    }
    trained = 0
    for done in range(kills):
        if done in others:
            others[done]()
        time.sleep(moments.uniform(0.0, 2 * gap))
        trained += kill(launch, moments, trained=done % 2 == 1)
    return {
        "kills": kills,
        "kills_before_first_heartbeat": kills - trained,
        "full_disk_errors": launch.count("No space left on device"),
        "damaged_checkpoints_passed_over": launch.count("going on from an earlier checkpoint"),
        "clock_jumps_in_heartbeats": 1,
    }


def merged(run: Path, model: Path) -> dict[str, str]:
    """SHA-256 of every file of the merged model."""
    words = [sys.executable, "-m", "oneblock.cli", "merge", str(run), "--out", str(model), "--json"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(model.iterdir())}


def drill(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    calm, stormy, clocks = (folder / name for name in ("calm", "stormy", "clocks"))
    for directory in (stormy, clocks):
        directory.mkdir()
    (clocks / "sitecustomize.py").write_text(CLOCK)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(stormy)], check=True)
    words = ("train", "images", "--strategy", "plan-only", "--budget", options.budget, "--out", str(calm))
    subprocess.run([sys.executable, "-m", "oneblock.cli", *words, *PLAN], check=True, stderr=subprocess.DEVNULL)
    shutil.copy(calm / "plan.json", stormy)
    began = time.perf_counter()
    alone = Launch(calm, clocks).process.wait()
    undisturbed = time.perf_counter() - began
    began = time.perf_counter()
    launch = Launch(stormy, clocks)
    try:
        happened = disturb(launch, options.kills, options.gap, random.Random(options.seed))
        ended = launch.process.wait(1800)
    finally:
        launch.process.terminate()
        launch.process.wait()
    models = merged(calm, folder / "model-calm"), merged(stormy, folder / "model-stormy")
    return {
        "jobs": BLOCKS,
        **happened,
        "restarts": launch.restarts(),
        "identical": alone == ended == 0 and models[0] == models[1],
        "files_compared": len(models[0]),
        "seconds_undisturbed": round(undisturbed),
        "seconds_disturbed": round(time.perf_counter() - began),
        "hardware": f"{os.cpu_count()} CPU cores",
        "seed": options.seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--gap", type=float, default=3.0, help="mean seconds between two kills")
    parser.add_argument("--budget", default="120k")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-namespace", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.in_namespace:
        # mounts made in a namespace of its own end with the drill, however it ends
        words = ["unshare", "--map-root-user", "--mount", sys.executable, __file__, *sys.argv[1:], "--in-namespace"]
        os.execvp("unshare", words)
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = drill(Path(folder), options)
        except TimeoutError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            subprocess.run(["umount", "--lazy", str(Path(folder) / "stormy")])
    print(json.dumps(row))
    return 0 if row["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
