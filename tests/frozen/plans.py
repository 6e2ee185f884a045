"""Plans: what every task and every option makes of a run, before any of it is trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from frozen.machinery import Ok, data_words

FILE = "plans.json"
SMALL = "--depth 2 --width 16 --heads 2 --batch-size 8 --block-batch-size 8 --budget 64"
OPTIMIZER = "--learning-rate 0.003 --weight-decay 0.1 --clip 0.5 --accumulate 2 --precision bf16"
BRANCHED = "--branch 0.5 --hold 0.25 --warmup 0.1"

# The first of each task is the one that the others are told from; the end-to-end plans are those of a training step.
CASES = (
    "images",
    "images --size S",
    "images --depth 4 --width 48 --heads 3 --blocks 2",
    "images --depth 6 --layers 1 2 3",
    "images --budget 300k --batch-size 32 --block-batch-size 8 --seed 7",
    f"images {BRANCHED}",
    "images --bands log-uniform --overlap 0.2",
    "images --bands 2.5,0.4",
    "images --whole-share 0.25",
    "images --label-dropout 0.2 --flip --patch 4",
    "images --objective flow --shift 3 --time-mean -0.4",
    "images --objective x",
    "images --objective meanflow",
    "images --head ddt --head-width 144",
    "images --codec pca:2",
    "images --align 0.5",
    "images --image-size 16 --channels 3",
    "images --shared joint",
    "images --shared synced --sync-every 7",
    f"images {OPTIMIZER}",
    "images --optimizer adamw8bit",
    "images --blocks 1",
    f"images --strategy end-to-end {SMALL}",
    "classify",
    "classify --size nano --blocks 2",
    "classify --depth 6 --layers 1 2 3",
    "classify --recipe paper",
    "classify --settings cifar100",
    "classify --settings tiny-imagenet --patch 2",
    "classify --settings cifar100 --recipe paper --blocks 2",
    "classify --table orthonormal --label-width 12",
    "classify --table random --label-width 20",
    "classify --table prototypes",
    "classify --law log-normal",
    "classify --inputs bayes",
    "classify --inputs scaled",
    "classify --noisy-token class",
    "classify --noisy-token none",
    "classify --modulated",
    "classify --weighting edm",
    "classify --weighting clipped",
    "classify --weighting normalised",
    "classify --loss squared --label-smoothing 0.1",
    "classify --crop 1 --flip --operations 2 --magnitude 5",
    f"classify {BRANCHED}",
    f"classify --shared joint {OPTIMIZER}",
    f"classify --strategy end-to-end {SMALL}",
    "masked-text",
    "masked-text --size nano --blocks 2 --length 16",
    "masked-text --schedule cosine",
    "masked-text --weighting bound",
    "masked-text --heads 4 --kv-heads 2",
    "masked-text --vocabulary bytes",
    "masked-text --vocabulary bpe:272",
    f"masked-text {BRANCHED}",
    f"masked-text --strategy end-to-end --length 16 {SMALL}",
    "text",
    "text --size nano --blocks 2 --length 16",
    "text --streams two",
    "text --streams none --inputs evidence",
    "text --prelude 1 --coda 1 --blocks 1",
    "text --table random --label-width 12",
    "text --table co-occurrence --label-width 5",
    "text --law log-normal",
    "text --inputs scaled",
    "text --clean 0.25 --heads 4 --kv-heads 2",
    "text --vocabulary bytes --table random",
    "text --vocabulary bpe:272",
    f"text {BRANCHED} {OPTIMIZER}",
    f"text --strategy end-to-end --length 16 {SMALL}",
    "recurrent-text",
    "recurrent-text --depth 2 --prelude 2 --coda 3 --width 32 --heads 2",
    f"recurrent-text --strategy end-to-end --length 16 {SMALL}",
)


def is_base(case: str) -> bool:
    return " " not in case


def base(case: str) -> str:
    return case.split()[0]


def measure(ok: Ok, out: Path, case: str) -> dict[str, Any]:
    """The hash of a plan, its jobs, and its settings."""
    task, *words = case.split()
    strategy = [] if "--strategy" in words else ["--strategy", "plan-only"]
    *_, row = ok("train", task, *data_words(task), "--out", out, "--threads", "1", "--json", *strategy, *words)
    text = (out / "plan.json").read_text()
    assert row["plan"] == hashlib.sha256(text.encode()).hexdigest()[:16], "the hash is that of the file"
    return {"hash": row["plan"], "settings": settings(json.loads(text))}


def settings(plan: dict[str, Any]) -> dict[str, Any]:
    """The settings of a plan by name, those inside a mapping as ``recipe.budget``; of long lists what tells them from
    others."""
    flat: dict[str, Any] = {}
    for key, value in plan.items():
        inner = {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
        flat.update({name: _short(v) for name, v in inner.items()})
    return flat


def _short(value: Any) -> Any:
    if not isinstance(value, list) or len(value) <= 12:
        return value
    if isinstance(value[0], str):
        return {"count": len(value), "digest": hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]}
    return {"count": len(value), "sum": sum(value), "squares": sum(float(v) ** 2 for v in value)}
