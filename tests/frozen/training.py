"""Training: the checkpoints at the end of tiny runs, of every task and every way of sharing stem and head."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from frozen.machinery import Ok, data_words
from safetensors import safe_open
from torch import Tensor

FILE = "checkpoints.json"
AVERAGES = "averages.safetensors"
MIDDLE = 2

WORK = "--batch-size 8 --block-batch-size 8 --threads 1"
# 2 layers in 2 blocks, 4 steps of 8 samples each
WIDE = f"--depth 2 --width 16 --heads 2 --blocks 2 --budget 64 {WORK}"
SLIM = f"--depth 2 --width 8 --heads 2 --blocks 2 --budget 64 {WORK}"
TEXT = "--length 16"

CASES = {
    "images": f"images {WIDE} --flip",
    "branched": f"images {SLIM} --branch 0.5 --budget 96",
    "joint": f"images {SLIM} --shared joint",
    "synced": f"images {SLIM} --shared synced --sync-every 2",
    "classify": f"classify {WIDE} --crop 1",
    "masked-text": f"masked-text {SLIM} {TEXT} --weighting bound",
    "text": f"text {SLIM} {TEXT}",
    "recurrent-text": f"recurrent-text --depth 1 --width 8 --heads 2 --budget 96 {WORK} {TEXT}",
}


def run(ok: Ok, out: Path, case: str, *more: str) -> None:
    """Train a case, or go on with it."""
    task, *words = CASES[case].split()
    ok("train", task, *data_words(task), "--out", out, "--json", *words, *more)


def jobs(out: Path) -> dict[str, Path]:
    """The directories of the jobs of a run; that of the trunk may have either of two names."""
    found = {path.name: path for path in sorted(out.iterdir()) if path.is_dir()}
    return {"trunk" if name == "seed" else name: path for name, path in found.items()}


def final(directory: Path) -> Path:
    """The newest checkpoint of a job."""
    return sorted(directory.glob("step-*.safetensors"))[-1]


def interrupt(out: Path) -> None:
    """Leave what a run has after it was killed in the middle of its trunk, or of its blocks if it has none."""
    found = jobs(out)
    for name, directory in found.items():
        if "trunk" in found and name != "trunk":
            shutil.rmtree(directory)
            continue
        late = [path for path in directory.glob("step-*.safetensors") if _step(path) > MIDDLE]
        assert late and final(directory) in late and len(list(directory.glob("step-*.safetensors"))) > len(late)
        for path in late:
            path.unlink()


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in sorted(file.keys())}


def digest(path: Path) -> str:
    """SHA-256 of the names, types, shapes and bytes of all tensors of a checkpoint."""
    sha = hashlib.sha256()
    for name, tensor in tensors(path).items():
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def measure(out: Path) -> dict[str, Any]:
    """The bytes of every job's last checkpoint: of the file for a block, of the tensors for the trunk, whose file
    says how its job is called."""
    found = {name: final(directory) for name, directory in jobs(out).items()}
    return {
        name: digest(path) if name == "trunk" else hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
    }


def averages(out: Path, case: str) -> dict[str, Tensor]:
    """The averaged weights at the end of every job: ``case/job/name`` -> tensor."""
    return {
        f"{case}/{job}/{name.removeprefix('ema/')}": tensor
        for job, directory in jobs(out).items()
        for name, tensor in tensors(final(directory)).items()
        if name.startswith("ema/")
    }
