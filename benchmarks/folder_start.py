"""How long a folder of images takes until training could begin: the first time, and again.

    python benchmarks/folder_start.py /usr/share/openclipart/png

Whole processes, interpreter and libraries included: `oneblock train images --strategy plan-only` on the folder, first
with an empty cache, then with what the first one kept, then the held-out split in Python (`open_images`). With
--threads the first start is repeated with other numbers of threads. Peak memory is the resident set as the system
counts it. Prints a JSON line for each process; what it says of the files goes to standard error.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELD_OUT = """
import sys
from oneblock.data import ImageData
from oneblock.presets.data import open_images
from oneblock.train.shown import shown

size, channels, pixels = map(int, sys.argv[2:])
with shown():
    open_images(ImageData(data=sys.argv[1], image_size=size, channels=channels, max_pixels=pixels), "test")
"""


def measure(words: list[str], name: str, environment: dict[str, str]) -> dict[str, object]:
    """Seconds, CPU seconds and peak MB of one process, and the load of the machine before it."""
    load = os.getloadavg()[0]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{name} ended with status {status}")
    return {
        "start": name,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6),
        "load_before": round(load, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--max-pixels", type=int, default=178_956_970)
    parser.add_argument("--threads", type=int, nargs="*", default=[])
    options = parser.parse_args()
    data = f"folder:{options.folder}"
    settings = [str(value) for value in (options.image_size, options.channels, options.max_pixels)]
    names = ("--image-size", "--channels", "--max-pixels")
    words = ["-m", "oneblock.cli", "train", "images", "--data", data, "--size", "nano", "--strategy", "plan-only"]
    words += [word for pair in zip(names, settings, strict=True) for word in pair]
    with tempfile.TemporaryDirectory() as folder:
        usual = {**os.environ, "ONEBLOCK_DATA": folder}
        print(json.dumps(measure([*words, "--out", f"{folder}/run"], "first", usual)), flush=True)
        print(json.dumps(measure([*words, "--out", f"{folder}/run"], "second", usual)), flush=True)
        print(json.dumps(measure(["-c", HELD_OUT, data, *settings], "held-out split", usual)), flush=True)
        for threads in options.threads:
            fewer = {**usual, "OMP_NUM_THREADS": str(threads)}
            name = f"first, {threads} threads"
            print(json.dumps(measure([*words, "--out", f"{folder}/run", "--no-cache"], name, fewer)), flush=True)


if __name__ == "__main__":
    main()
