"""Does the library do on a device what it should? Recorded steps, a stop and a resumption, a model opened and asked.

    python benchmarks/gpu_check.py --device cuda

Needs the core alone: samples are random images and a text that is written here. One JSON row per check: of every task,
whether a run that lost its last checkpoints ends in the same bytes as one that was left alone, how far its losses are
from those of a run whose steps are not recorded, which of its steps could not be, and that its model samples and is
scored there; the same of a network of the user's own and of a rival. Then layer evaluations per second of training as
users start it, beside those of the recorded step alone, and the seconds until a process's first compiled step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.data import MemorySource, synthetic_images
from oneblock.model import ClassifyModel, ImageModel
from oneblock.presets import Recipe
from oneblock.presets.run import make_plan, start_run
from oneblock.train.block import block_losses
from oneblock.train.checkpoint import checkpoints
from oneblock.train.drive import Watch
from oneblock.train.feed import Feed
from oneblock.train.loop import BlockJob
from oneblock.train.record import METRICS_FILE, read_rows
from oneblock.train.stepper import GuardedStepper
from oneblock.train.strategy import job_specs

Row = dict[str, Any]
QUIET = Watch(bars=False)
IMAGES = synthetic_images(512, 16, 3, 4, seed=0)
WORDS = "the cat sat on the mat and a dog ran to the gate while rain fell on the old town . "
SMALL: dict[str, Any] = {"size": "nano", "depth": 4, "width": 32, "heads": 2, "batch_size": 16}
BLOCKS: dict[str, Any] = {**SMALL, "blocks": 2, "block_batch_size": 16, "budget": 16 * 4 * 24}


class Points(nn.Module):
    """A network of the user's own, for vectors of eight numbers."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(9, 32), nn.Linear(32, 8)
        self.layers = nn.ModuleDict({str(i): PointLayer() for i in layers})

    def stem(self, z: Tensor, noise: Tensor, condition: ob.Condition) -> tuple[Tensor, None]:
        return self.enter(torch.cat([z, noise[:, None]], dim=1)), None

    def head(self, h: Tensor, modulation: None) -> Tensor:
        return self.leave(h)


class PointLayer(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU())

    def forward(self, h: Tensor, modulation: None) -> Tensor:
        return h + super().forward(h)


class DroppedPoints(Points):
    """Draws in every step: its steps cannot be recorded."""

    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        for layer in self.layers.values():
            layer.append(nn.Dropout(0.2))


def cases(folder: Path) -> Iterator[tuple[str, Recipe, Any, Any, Callable[[ob.Model], Any]]]:
    """Name, recipe, data, backbone, and a question to the model."""
    text = folder / "text.txt"
    text.write_text(WORDS * 200)
    images, texts = MemorySource(IMAGES), f"file:{text}"

    def sample(model: ob.Model) -> Any:
        assert isinstance(model, ImageModel)
        return model.sample(count=8, steps=8)

    def classify(model: ob.Model) -> Any:
        assert isinstance(model, ClassifyModel)
        return model.classify(IMAGES.images[:64]).probabilities

    def score(model: ob.Model) -> Any:
        return model.evaluate()["nats_per_token"]

    yield "images", ob.ImageRecipe(**BLOCKS), images, None, sample
    yield "images, branched", ob.ImageRecipe(**BLOCKS, branch=0.5), images, None, sample
    yield "images, bf16", ob.ImageRecipe(**BLOCKS, precision="bf16"), images, None, sample
    yield "images, micro-batches", ob.ImageRecipe(**BLOCKS, accumulate=3), images, None, sample
    yield "images, joint", ob.ImageRecipe(**BLOCKS, shared="joint"), images, None, sample
    yield "classify", ob.ClassifyRecipe(**BLOCKS), images, None, classify
    yield "masked-text", ob.MaskedRecipe(**BLOCKS, length=32), texts, None, score
    yield "text", ob.CausalRecipe(**BLOCKS, length=32), texts, None, score
    recurrent = replace(ob.recurrent_recipe(), **{**SMALL, "depth": 2, "budget": 16 * 4 * 12}, length=32)
    yield "recurrent-text", recurrent, texts, None, score
    points = TensorDataset(torch.randn(256, 8, generator=torch.Generator().manual_seed(0)))
    yield "own network", ob.ImageRecipe(**BLOCKS, conditional=False), points, Points, sample
    yield "own network, dropout", ob.ImageRecipe(**BLOCKS, conditional=False), points, DroppedPoints, sample


def files(run: Path) -> dict[str, bytes]:
    """The newest checkpoint of every job."""
    return {job.name: checkpoints(job)[-1].read_bytes() for job in sorted(run.iterdir()) if job.is_dir()}


def losses(run: Path) -> Tensor:
    return torch.tensor(
        [float(row["plain"]) for path in sorted(run.glob(f"*/{METRICS_FILE}")) for row in read_rows(path)]
    )


def check(folder: Path, device: str) -> Iterator[Row]:
    """The checks of every case."""
    for name, recipe, data, backbone, ask in cases(folder):
        base = folder / name.replace(" ", "-")
        told: list[str] = []
        watch = Watch(bars=False, warn=told.append)
        train = partial(ob.train, recipe, data=data, backbone=backbone, watch=watch)
        # a compiler takes seconds for every shape: those of the last rows are enough
        recorded = ob.Machine(device=device, save_every=4, keep=100, compile="off", capture="on")
        whole, resumed, eager = (base / place for place in ("whole", "resumed", "eager"))
        for place in (whole, resumed):
            train(out=place, machine=recorded)
        train(out=eager, machine=replace(recorded, capture="off"))
        for job in (job for job in resumed.iterdir() if job.is_dir()):
            for path in checkpoints(job)[2:]:
                path.unlink()
        train(out=resumed, machine=recorded)
        apart = (losses(whole) - losses(eager)).abs() / losses(eager)
        answer = torch.as_tensor(ask(ob.Model.open(whole, device=device, backbone=backbone))).double()
        yield {
            "check": name,
            "resumed_in_the_same_bytes": files(whole) == files(resumed),
            "losses_apart_from_eager": float(f"{float(apart.max()):.2g}"),
            "not_recorded": sorted({line.partition(": ")[2] for line in told}),
            "device_bytes": torch.cuda.max_memory_allocated() if device.startswith("cuda") else None,
            "answers": list(answer.shape),
            "finite": bool(answer.isfinite().all()),
        }


def check_rival(folder: Path, device: str) -> Row:
    """Greedy, which trains its blocks in turn on the engine of the library."""
    from oneblock.models.vit import ViTConfig
    from oneblock.rivals import Greedy, RivalSettings, train_rival

    config = ViTConfig(
        image_size=16, channels=3, num_classes=4, label_width=4, depth=4, width=32, heads=2, patch=4, noisy_token="none"
    )
    source, settings = MemorySource(IMAGES), RivalSettings(budget=16 * 4 * 30, batch_size=16, device=device)
    whole, halved = Greedy(config, 2), Greedy(config, 2)
    count = sum(1 for _ in train_rival(whole, source, settings))
    stopped = train_rival(Greedy(config, 2), source, settings, folder / "rival", fingerprint="x", save_every=5)
    for _ in range(count // 2):
        next(stopped)
    stopped.close()
    for _ in train_rival(halved, source, settings, folder / "rival", fingerprint="x", save_every=5):
        pass
    images = torch.rand(32, 3, 16, 16) * 2 - 1
    same = whole.probabilities(images).equal(halved.probabilities(images))
    return {"check": "rival", "resumed_to_the_same_answers": same}


def speed(folder: Path, device: str, evaluations: int, steps: int) -> Iterator[Row]:
    """Layer evaluations per second of ``ob.train``, files and all: width 256, 49 tokens, 12 layers in 3 blocks; beside
    those of its recorded step alone, on one batch."""
    images = MemorySource(synthetic_images(2048, 28, 1, 8, seed=0))
    recipe = ob.ImageRecipe(
        depth=12, width=256, heads=4, patch=4, batch_size=128, block_batch_size=128, precision="bf16"
    )
    machine = ob.Machine(device=device)
    for name, changed in (("own block", recipe), ("end-to-end", replace(recipe, blocks=1))):
        one = replace(changed, budget=evaluations)
        alone, first = step_alone(one, images, folder / "alone" / name, machine, steps)
        began = time.perf_counter()
        done = ob.train(one, data=images, out=folder / "speed" / name, machine=machine, watch=QUIET)
        yield {
            "speed": name,
            "evaluations_per_second": round(evaluations / done.seconds),
            "step_alone": round(alone),
            "of_the_step_alone": round(evaluations / done.seconds / alone, 3),
            "seconds": round(time.perf_counter() - began, 1),
            "seconds_to_the_first_step": round(first, 1),
        }


def step_alone(
    recipe: ob.ImageRecipe, images: MemorySource, out: Path, machine: ob.Machine, steps: int
) -> tuple[float, float]:
    """Layer evaluations per second of the same step again and again, ``steps`` at a time; the seconds to the first,
    compiling included."""
    plan, source = make_plan(recipe, images)
    run = start_run(plan, out, source, machine)
    spec = job_specs(plan)[-1]
    job = BlockJob(run, spec)
    began = time.perf_counter()
    job.restore()
    batch = Feed(plan, spec, run.task, run.source, run.device, first=0, prefetch=run.prefetch).batch(0)
    losses = partial(block_losses, job.learner, run.task)
    stepper = GuardedStepper(job.learner, losses, spec.batch_size, record=run.capture, every=steps)
    stepper.take(batch)
    stepper.read()
    first = time.perf_counter() - began
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(steps):
            stepper.take(batch)
            job.learner.step = 1  # the schedule would end
        rates.append(steps * spec.step_evaluations / (time.perf_counter() - began))
    stepper.close()
    return statistics.median(rates), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--evaluations", type=int, default=3_000_000, help="of each way of training that is timed")
    parser.add_argument("--steps", type=int, default=50, help="of the recorded step alone, timed together")
    options = parser.parse_args()
    card = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    print(json.dumps({"torch": torch.__version__, "python": sys.version.split()[0], "device": card}), flush=True)
    folder = Path(tempfile.mkdtemp())
    try:
        rows = (check(folder, options.device), iter([check_rival(folder, options.device)]))
        for row in (row for each in rows for row in each):
            print(json.dumps(row), flush=True)
        for row in speed(folder, options.device, options.evaluations, options.steps):
            print(json.dumps(row), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
