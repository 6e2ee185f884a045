"""Rows of results: every arm of a tiny comparison, and what a tiny network is planned to cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frozen.machinery import Ok, data_words

FILE = "rows.json"
TIMED = ("train_seconds", "sampling_seconds", "images_per_second", "characters_per_second")
RENAMED = ("per_character", "per_byte")
"""Bits per character are bits per byte where a character is a byte, and may be called so."""

NET = "--size nano --width 8 --heads 2"
BATCH = "--batch-size 8 --threads 1"
TWO = f"{NET} --depth 2 --blocks 2 --block-batch-size 8 {BATCH}"
TEXT = "--length 16 --windows 6"

COMPARISONS = {
    "images": f"{TWO} --budget 96 --num-samples 20 --steps 4",
    "classify": f"{TWO} --budget 640",
    "masked-text": f"{TWO} {TEXT} --budget 128 --times 2 --reveals 2 --count 2",
    "text": f"{TWO} {TEXT} --budget 128 --branch 0.5 --count 1 --tokens 8",
    "recurrent-text": (
        f"{NET} {BATCH} {TEXT} --depth 1 --budget 96 --iterations 4 --back 2 --calls 3 --count 1 --tokens 8"
    ),
}
COSTS = {
    "images": f"{NET} --depth 2 --image-size 8 --channels 1",
    "classify": f"{NET} --depth 2 --image-size 8 --channels 1",
    "masked-text": f"{NET} --depth 2 --length 16",
    "text": f"{NET} --depth 2 --length 16 --vocabulary bytes",
    "recurrent-text": f"{NET} --depth 1 --length 16",
}
CASES = (*(f"compare {task}" for task in COMPARISONS), *(f"plan {task}" for task in COSTS))


def measure(ok: Ok, out: Path, case: str) -> dict[str, Any]:
    """What a case gives, without times: name of the run or of the way of training -> row."""
    verb, task = case.split()
    if verb == "plan":
        (found,) = ok("plan", task, "--json", *COSTS[task].split())
        return {cost["name"]: cost for cost in found["costs"]}
    words = COMPARISONS[task].split()
    *_, found = ok("compare", task, *data_words(task), "--out", out, "--seeds", "1", "--json", *words)
    return {row["run"]: plain(row) for row in found["runs"]}


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row under the later names, with nothing that the machine's speed decides."""
    kept = {key: "a time" if key in TIMED and value is not None else value for key, value in row.items()}
    return {key.replace(*RENAMED): value for key, value in kept.items()}


def calculated(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what may change as a whole where a number changes in its last digit: what was written, and plans,
    whose names are the hashes of calculated numbers."""
    return {key: value for key, value in row.items() if key not in ("samples", "plan", "plans")}
