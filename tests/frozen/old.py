"""A run and its merged model as they were written when they were frozen: ``old-run`` and ``old-model``.

They came from ``oneblock train images --data digits --out old-run WORDS`` and ``oneblock merge old-run --out
old-model``. Lock files are left out, and the heartbeats tell of a host and a process that never were. They are never
made again: what people have trained must stay readable. Only the images that they give may be frozen anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from frozen.machinery import HERE, Ok
from safetensors.torch import load_file
from torch import Tensor

RUN = HERE / "old-run"
MODEL = HERE / "old-model"
IMAGES = HERE / "old-images.safetensors"
FILE = "old.json"
WORDS = (
    "--depth 2 --width 4 --heads 1 --blocks 2 --branch 0.5 --batch-size 8 --block-batch-size 8 --budget 128 --threads 1"
).split()
SAMPLING = "--per-class 2 --steps 4 --sampler euler --threads 1 --json".split()


def copy(to: Path) -> tuple[Path, Path]:
    """The run and the model in a directory that may be written to."""
    return shutil.copytree(RUN, to / "old-run"), shutil.copytree(MODEL, to / "old-model")


def sample(ok: Ok, model: Path) -> Tensor:
    """Images (20, 1, 8, 8), uint8, two of each class."""
    out = model.parent / f"{model.name}.png"
    ok("sample", model, "--out", out, *SAMPLING)
    found = load_file(out.with_suffix(".safetensors"))
    assert torch.equal(found["labels"], torch.arange(10).repeat_interleave(2))
    return found["images"]
