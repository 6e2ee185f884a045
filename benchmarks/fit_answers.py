"""Do the answers of `oneblock plan ... --fit` train within the bytes that they promise?

    python benchmarks/fit_answers.py --options 500

Random options of all five verbs, on networks and data that are small enough to be trained here; for each a limit
between 0.7 of what its tightest way needs without micro-batches and what its loosest does. If nothing fits, the limit
is what the planner says is the least. The words of the answer are parsed as by `oneblock train` and go from there
through the real training loop: two steps of every job on real data (the trunk all of its own), idle blocks on disk, and
where stem and head are shared all blocks with what they exchange.

The search counts on tensors without content, as `oneblock plan` does, for every eighth set, and for the others on real
ones, which is five times as fast and gives the same numbers (tests/test_memory.py); the bytes that are promised are
always counted as `oneblock plan` does.

What is counted in training are the storages that live at a time on the device that trains: weights, averages and
moments of every block that is there, its batch, and everything that a step makes, seen operation by operation; not the
data set, nor the samples before they are handed to the step. The counter knows nothing of the planner's. Prints a JSON
line for each set of options and one for all. Needs scikit-learn's digits, and tokenizers and torchao for the options
that use them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, make_dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oneblock.launch.words import training_words
from oneblock.optim.adamw import state_tensors
from oneblock.plan import Plan
from oneblock.presets import CausalRecipe, ClassifyRecipe, ImageRecipe, MaskedRecipe, recurrent_recipe
from oneblock.presets.base import ImageFacts, Recipe
from oneblock.presets.fit import Prices, Way, fitting, ways
from oneblock.presets.run import Strategy, make_plan, start_run
from oneblock.tasks.base import Batch
from oneblock.train import loop, shared
from oneblock.train.learner import Learner
from oneblock.train.machine import HERE, Machine
from oneblock.train.stepper import EagerStepper
from oneblock.train.strategy import Turns, all_blocks, job_specs, plan_optimizer

IMAGES = ImageFacts(shape=(1, 8, 8), num_classes=10)
USUAL: dict[str, Recipe] = {
    "images": ImageRecipe(),
    "classify": ClassifyRecipe(),
    "masked-text": MaskedRecipe(),
    "text": CausalRecipe(),
    "recurrent-text": recurrent_recipe(),
}
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
"""As the command line has it."""
STEPS = 2
"""Of every job: the first makes the moments, beside which the second trains."""
PLANNED = 8
"""Every so many answers the search counts as `oneblock plan` does; otherwise on real tensors."""
TEXT = "the cat sat on the mat. a dog ran to the cat and the mat was gone, though nobody had seen a dog. "


def options_of(verb: str, draw: random.Random, deepest: int = 4, batches: int = 10) -> list[str]:
    """Words after ``oneblock plan VERB``, for a network of up to ``deepest`` layers and up to ``batches`` samples."""
    depth, batch = min(deepest, draw.choice((1, 1, 2, 2, 2, 3, 4))), draw.randint(1, batches)
    words = ["--size", "nano", "--depth", depth, "--width", draw.choice((8, 16, 32)), "--heads", 2]
    words += ["--batch-size", batch, "--budget", depth * batch * draw.randint(4, 12) * (1 + (verb == "recurrent-text"))]
    maybe = {
        ("--block-batch-size", draw.randint(1, 8)): 0.3,
        ("--branch", draw.choice((0.2, 0.5))): 0.35,
        ("--shared", draw.choice(("joint", "synced"))): 0.4,
        ("--sync-every", 1): 0.8,
        ("--accumulate", draw.randint(2, 4)): 0.25,
        ("--precision", "bf16"): 0.2,
        ("--optimizer", "adamw8bit"): 0.05,
        ("--layers", *_split(depth, draw)): 0.15,
        ("--seed", draw.randint(0, 9)): 0.3,
    } | TASKS[verb](draw)
    words += [word for given, chance in maybe.items() if draw.random() < chance for word in given]
    return [str(word) for word in words]


def _split(depth: int, draw: random.Random) -> list[int]:
    cuts = sorted(draw.sample(range(1, depth), draw.randint(0, depth - 1)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, depth], strict=True)]


Maybe = dict[tuple[Any, ...], float]


def _images(draw: random.Random) -> Maybe:
    return {
        ("--patch", draw.choice((2, 4, 8))): 0.6,
        ("--flip",): 0.3,
        ("--no-conditional",): 0.2,
        ("--bands", "log-uniform"): 0.2,
        ("--label-dropout", 0.0): 0.2,
    }


def _classify(draw: random.Random) -> Maybe:
    return {
        ("--patch", draw.choice((2, 4))): 0.5,
        ("--table", draw.choice(("orthonormal", "random", "prototypes"))): 0.5,
        ("--inputs", draw.choice(("bayes", "scaled"))): 0.5,
        ("--noisy-token", "class"): 0.3,
        ("--modulated",): 0.3,
        ("--skip",): 0.1,
        ("--weighting", draw.choice(("edm", "clipped", "normalised"))): 0.4,
        ("--loss", "squared"): 0.3,
        ("--recipe", "paper"): 0.1,
        ("--settings", draw.choice(("cifar100", "tiny-imagenet"))): 0.05,
        ("--crop", 1): 0.2,
    }


def _text(draw: random.Random) -> Maybe:
    return {
        ("--length", draw.choice((2, 8, 16, 24))): 1.0,
        ("--vocabulary", draw.choice(("bytes", "bpe:260"))): 0.3,
        ("--kv-heads", 1): 0.2,
    }


def _masked(draw: random.Random) -> Maybe:
    return _text(draw) | {("--schedule", "cosine"): 0.4, ("--weighting", draw.choice(("bound", "even"))): 0.6}


def _causal(draw: random.Random) -> Maybe:
    return _text(draw) | {
        ("--streams", draw.choice(("two", "two", "none"))): 0.4,
        ("--table", draw.choice(("random", "co-occurrence"))): 0.5,
        ("--label-width", draw.randint(2, 20)): 0.3,
        ("--law", "log-normal"): 0.7,
        ("--inputs", draw.choice(("evidence", "scaled"))): 0.5,
        ("--clean", 0.3): 0.2,
    }


def _recurrent(draw: random.Random) -> Maybe:
    return _causal(draw) | {
        ("--prelude", draw.randint(0, 2)): 0.4,
        ("--coda", draw.randint(0, 2)): 0.4,
        ("--blocks", 2): 0.15,
    }


TASKS: dict[str, Callable[[random.Random], Maybe]] = {
    "images": _images,
    "classify": _classify,
    "masked-text": _masked,
    "text": _causal,
    "recurrent-text": _recurrent,
}


class Living(TorchDispatchMode):
    """The most bytes of storages that live at a time; those of ``tensors`` are there from the start."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0
        self.add(tensors)

    def add(self, tensors: Iterable[Tensor]) -> None:
        for storage in (t.untyped_storage() for t in tensors):
            if storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.drop, storage._cdata)
        self.peak = max(self.peak, self.now)

    def drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "tensor_attrs") for kind in types):
            return NotImplemented  # tensors inside tensors are seen one by one
        result = func(*args, **(kwargs or {}))
        self.add(t for t in tree_leaves(result) if isinstance(t, Tensor) and not hasattr(t, "tensor_attrs"))
        return result


@dataclass
class Device:
    """What a training has on its device: the learners that live, and the highest peak of what it does with them."""

    learners: weakref.WeakSet[Learner[Any]] = field(default_factory=weakref.WeakSet)
    peak: int = 0
    most: int = 0
    """learners at a time"""

    def made(self, make: Callable[..., Learner[Any]]) -> Callable[..., Learner[Any]]:
        @wraps(make)
        def made(*args: Any, **options: Any) -> Learner[Any]:
            learner = make(*args, **options)
            self.learners.add(learner)
            return learner

        return made

    def counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def counted(*args: Any, **options: Any) -> Any:
            batches = (one.tensors() for one in args if isinstance(one, Batch))
            held = [*self.held(), *(t for tensors in batches for t in tensors)]
            with Living(held) as living:
                done = work(*args, **options)
            self.peak, self.most = max(self.peak, living.peak), max(self.most, len(self.learners))
            return done

        return counted

    def held(self) -> Iterator[Tensor]:
        for learner in self.learners:
            yield from learner.weights.values()
            yield from learner.module.buffers()
            yield from learner.averages.values()
            for p in learner.weights.values():
                yield from state_tensors(learner.optimizer, p).values()


def parsed(verb: str, words: Sequence[str]) -> tuple[Recipe, Strategy, Machine]:
    """The words after ``oneblock train VERB``, by the parser of the command line from the dataclasses that it mirrors;
    tests/cli/test_fit.py has the command line itself do it."""
    kind = type(USUAL[verb])
    settings = [
        ("model", kind, field(default=USUAL[verb])),
        ("strategy", Strategy, field(default="all")),
        ("machine", Machine, field(default=HERE)),
    ]
    found: Any = tyro.cli(make_dataclass("Train", settings, frozen=True, kw_only=True), args=list(words), config=CONFIG)
    return found.model, found.strategy, found.machine


def answered(verb: str, words: Sequence[str], draw: random.Random, real: bool) -> tuple[int, bool, Way]:
    """The limit, whether it was drawn (or is the least that there is), and the way that fits."""
    recipe, _, _ = parsed(verb, words)
    prices, trained, reasons = Prices(real), [], []
    for way in ways(recipe, IMAGES):
        try:
            prices.peaks(way)
            trained.append(way)
        except ValueError as error:
            reasons.append(str(error))
    if not trained:
        raise ValueError(reasons[0])
    peaks = [prices.peak(way).total for way in trained]
    low = 0.7 * min(peaks)
    limit = round(low * (max(peaks) / low) ** draw.random())
    fits, found = fitting(trained, limit, prices)
    return limit if fits else prices.peak(found).total, fits, found


def trained_within(verb: str, words: Sequence[str], data: str, folder: Path, way: Way) -> tuple[Device, Counter[str]]:
    """Train what ``oneblock train VERB WORDS`` does, a few steps of every job."""
    recipe, strategy, machine = parsed(verb, words)
    plan, source = make_plan(recipe, data, strategy=strategy)
    if what_costs(plan) != what_costs(way.plan) or machine.checkpointing != way.checkpointing:
        raise ValueError("the words of the answer train something else")
    device, steps = Device(), Counter[str]()
    usual = loop.block_learner, EagerStepper.take, shared.average, shared._hand_over
    loop.block_learner, EagerStepper.take = device.made(usual[0]), device.counted(usual[1])
    shared.average, shared._hand_over = device.counted(usual[2]), device.counted(usual[3])
    try:
        turns = Turns(seconds=0, idle="disk") if plan.shared == "private" else None
        with closing(all_blocks(start_run(plan, folder, source, machine), turns)) as reports:
            ends = {job.name: min(job.last_step, job.first_step + STEPS) for job in job_specs(plan)}
            for report in reports:
                steps[report.job] = report.step
                if len(steps) == len(ends) and all(steps[job] >= end for job, end in ends.items()):
                    break
    finally:
        loop.block_learner, EagerStepper.take, shared.average, shared._hand_over = usual
    return device, steps


def what_costs(plan: Plan) -> tuple[Any, ...]:
    """All of a plan that bytes depend on."""
    jobs = [(job.name, job.layers, job.batch_size, job.first_step, job.last_step) for job in job_specs(plan)]
    return dict(plan.architecture), plan.shared, plan.recipe.get("table_width"), plan_optimizer(plan), jobs


def asked(number: int, seed: int, text: str, deepest: int = 4, batches: int = 10) -> dict[str, Any]:
    """One set of options: the answer, and what training it needs."""
    real = number % PLANNED != 0
    draw = random.Random(f"{seed}/{number}")
    verb = list(USUAL)[number % len(USUAL)]
    while True:
        words = options_of(verb, draw, deepest, batches)
        try:
            limit, drawn, way = answered(verb, words, draw, real)
            break
        except ValueError:
            continue  # options that no number of blocks can be trained with
    peak = Prices().peak(way)
    answer = training_words(
        way.recipe, USUAL[verb], end_to_end=way.whole, blocks=way.blocks, checkpointing=way.checkpointing
    )
    row = {"number": number, "verb": verb, "asked": " ".join(words), "limit": limit, "drawn": drawn}
    row |= {"answer": " ".join(answer), "searched": "real" if real else "fake", "promised": peak.total}
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = text if "text" in verb else "digits"
            device, steps = trained_within(verb, answer, data, Path(folder) / "run", way)
        except Exception as error:
            return row | {"real": None, "within": False, "error": f"{type(error).__name__}: {error}"}
    return row | {
        "real": device.peak,
        "resident": device.most,
        "jobs": len(steps),
        "within": device.peak <= peak.total <= limit,
    }


def write_text(folder: Path) -> Path:
    path = folder / "cats.txt"
    path.write_text("".join(TEXT[i:] + TEXT[:i] for i in range(0, 90, 3)) * 5)
    return path


def total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many answers hold, and how near to what they promise."""
    shares = sorted(row["real"] / row["promised"] for row in rows if row["real"])
    return {
        "options": len(rows),
        "within": sum(row["within"] for row in rows),
        "limits_drawn": sum(row["drawn"] for row in rows),
        "of_promised": {"least": shares[0], "median": shares[len(shares) // 2], "most": shares[-1]},
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--options", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first, to share out the work")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ONEBLOCK_DATA"] = folder
        path = write_text(Path(folder))
        for number in range(options.first, options.first + options.options):
            rows.append(asked(number, options.seed, f"file:{path}"))
            print(json.dumps(rows[-1]), flush=True)
    print(json.dumps(total(rows) | {"seconds": round(time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
