"""Peak memory of opening a long text, above that of the interpreter with torch, and of training on it.

    python benchmarks/text_memory.py --megabytes 200

A file of so many megabytes of made-up words in lines is written, tokens are made of it (characters, bytes, byte
pairs, rows of JSON, a folder of documents, gzip), and three batches are drawn, each in a process of its own. Prints a
JSON line for each: seconds; the peak of the process's own memory and of all its resident memory while the text is
opened; and that of its own memory while batches are drawn. Pages of the mapped token file, which the system takes back
when it needs them, are in neither.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = 50_000
LENGTH = 128
KINDS = {
    "characters": "x.txt",
    "bytes": "x.txt",
    "bpe:1000": "x.txt",
    "bytes, rows of JSON": "x.jsonl",
    "bytes, a folder": "folder",
    "bytes, gzip": "x.txt.gz",
}


def write_text(folder: Path, megabytes: int) -> None:
    """The same text as one file, in a folder of three documents, as rows of JSON, and packed."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(WORDS)]
    (folder / "folder").mkdir()
    left, number = megabytes * 10**6, 0
    with open(folder / "x.txt", "w") as text, open(folder / "x.jsonl", "w") as rows:
        while left > 0:
            line = " ".join(draw.choices(words, k=80)) + f", {number}.\n"
            left, number = left - text.write(line), number + 1
            rows.write(json.dumps({"text": line}) + "\n")
    for name in ("b", "c"):
        (folder / "folder" / f"{name}.txt").write_text(f"A short document, {name}.\n" * 1000)
    os.link(folder / "x.txt", folder / "folder" / "a.txt")
    with open(folder / "x.txt", "rb") as text, gzip.open(folder / "x.txt.gz", "wb", 1) as packed:
        shutil.copyfileobj(text, packed)


def own_bytes() -> int:
    """Memory of this process that no file holds, as Linux counts it now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Peak:
    """The highest ``own_bytes`` while it is entered, looked at every few milliseconds."""

    def __enter__(self) -> "Peak":
        self.before, self.highest, self._end = own_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._end.wait(0.005):
            self.highest = max(self.highest, own_bytes())

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def measure(folder: Path, kind: str) -> None:
    """Print one row, from within a process that has done nothing else."""
    from oneblock.data import TextBatches, TokenSource, open_text, open_vocabulary, read_words
    from oneblock.data.progress import listening

    spec, vocabulary = f"file:{folder / KINDS[kind]}", kind.partition(",")[0]
    before, began = resident_peak(), time.perf_counter()
    with listening(note=lambda _: None):
        with Peak() as opening:
            found = open_vocabulary(vocabulary, lambda: read_words(spec, "train"))
            file = open_text(spec, "train", found, cache=folder / "cache")
        row = {"text": kind, "tokens": len(file), "seconds": round(time.perf_counter() - began, 1)}
        row |= {"open_mb": mb(opening.highest - opening.before), "open_resident_mb": mb(resident_peak() - before)}
        with Peak() as training:
            source = TextBatches(TokenSource(file, LENGTH))
            for step in (0, 1, 2 * len(source.source) // 64):
                source.batch(step, 64, seed=0)
        row |= {"batches_mb": mb(training.highest - training.before)}
    print(json.dumps(row), flush=True)


def mb(count: int) -> float:
    return round(max(count, 0) / 10**6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--inside", nargs=2, metavar=("FOLDER", "KIND"), help="used by itself")
    options = parser.parse_args()
    if options.inside:
        measure(Path(options.inside[0]), options.inside[1])
        return
    with tempfile.TemporaryDirectory() as name:
        write_text(Path(name), options.megabytes)
        for kind in options.only:
            subprocess.run([sys.executable, __file__, "--inside", name, kind], check=True)


if __name__ == "__main__":
    main()
