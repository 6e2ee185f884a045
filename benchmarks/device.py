"""Seconds and bytes of training on one device, for every strategy, at equal samples per step; then what the task adds.

    python benchmarks/device.py images --size S --patch 2 --length 32 --batch-size 256 --device cuda > rows.jsonl
    python benchmarks/device.py text --size B --length 1024 --blocks 4 --batch-size 8 --device cuda > rows.jsonl
    python benchmarks/device.py images --size nano --length 16 --batch-size 4 --steps 2 --images 4 --device cpu

Random samples; medians after warming up. Peak bytes are those of torch.cuda.max_memory_allocated on CUDA (null
elsewhere), beside the bytes that are planned from shapes in the same precision; `workspace_bytes` are what the kernels
of matrix products keep for themselves, which no plan counts, and `planned_share` is the sum of both as a share of the
peak. For CUDA the plan is told what its norms keep, which is less than a CPU's do, as `oneblock plan` counts them. Each
of our strategies is measured twice: with its kernels launched one by one, and with a step that is recorded and whose
layers are compiled (--layers). Images are also sampled. Text has bytes as symbols, and its blocks carry noisy targets
in --streams; the forms of two-stream attention (`ops`) are timed and measured beside it, forward and backward.

The rivals of `presets.rivals` train the whole network too: 8-bit Adam (torchao; a row says so where it is missing; its
step runs eagerly unless --compile), fused Adafactor (torch.optim.Adafactor in a hook of each parameter), FSDP2 with CPU
offload, in a process group of this one process. Needs the core and the library's own modules, and nothing else.
"""

import argparse
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import ClassIds
from oneblock.data import Bytes, Samples
from oneblock.evaluate.device import recorded
from oneblock.evaluate.images import Sampling
from oneblock.ops import Attend, concatenated, flex, two_pass
from oneblock.plan import Plan
from oneblock.presets import (
    SIZES,
    CausalRecipe,
    ImageFacts,
    ImageRecipe,
    TextFacts,
    all_resident,
    blockwise,
    gpt_config,
    image_shape,
    plan_task,
    training_peak,
)
from oneblock.presets.rivals import rivals
from oneblock.sample import SAMPLERS, karras_grid
from oneblock.sample.generate import generate
from oneblock.tasks.base import Batch
from oneblock.train.block import BlockLearner, block_learner, block_losses, compile_layers, train_step
from oneblock.train.learner import Learner
from oneblock.train.machine import compiles
from oneblock.train.parallel import Ranks
from oneblock.train.stepper import GuardedStepper
from oneblock.train.strategy import job_specs, plan_optimizer

Row = dict[str, Any]
WARM_UP = 3


@dataclass(frozen=True)
class Way:
    """A strategy of training."""

    name: str
    checkpointing: bool = False
    resident: bool = False
    recorded: bool = False


def both(ways: tuple[Way, ...]) -> tuple[Way, ...]:
    """Each with its kernels launched one by one, and with a step recorded and its layers compiled."""
    return tuple(replace(way, recorded=recorded) for way in ways for recorded in (False, True))


WHOLE = both((Way("end-to-end"), Way("end-to-end, checkpointing", True)))
EIGHT_BIT = "8-bit Adam"
FUSED = "fused Adafactor"
OFFLOADED = "FSDP2 offload"
RIVALS = tuple(Way(name, checkpointing) for name in (EIGHT_BIT, FUSED, OFFLOADED) for checkpointing in (False, True))
OWN = both((Way("all resident", resident=True), Way("own block"), Way("own block, checkpointing", True)))


def measured(step: Callable[[], object], steps: int, device: torch.device) -> Row:
    """Median seconds of ``step`` and the most bytes allocated."""
    reset_peak(device)
    seconds = []
    for _ in range(steps + WARM_UP):
        wait(device)
        began = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds[WARM_UP:]), "peak_bytes": peak_bytes(device)}


def reset_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def workspaces(device: torch.device) -> int:
    """Bytes that the kernels of matrix products keep after the first, forward and backward."""
    if device.type != "cuda":
        return 0
    layer, x = nn.Linear(512, 512, device=device), torch.randn(512, 512, device=device)
    with torch.autocast("cuda", torch.bfloat16):
        y = layer(x)
    y.sum().backward()
    del layer, x, y
    gc.collect()
    wait(device)
    return int(torch.cuda.memory_allocated(device))


class NormOfCuda(torch.autograd.Function):
    """The bytes of torch's fused RMS norm, which keeps its input and a number for each row; no numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)


@contextmanager
def kernels_of(device: torch.device) -> Iterator[None]:
    """Plan with what the kernels of ``device`` keep: a CPU's RMS norm is several, which keep its input twice."""
    plain = nn.functional.rms_norm

    def norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        return NormOfCuda.apply(x, weight)  # type: ignore[no-untyped-call]

    if device.type == "cuda":
        nn.functional.rms_norm = norm  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.functional.rms_norm = plain


@dataclass(frozen=True)
class Bench:
    """What all strategies have in common.

    Args:
        steps: that are timed.
        compile: pass the step of 8-bit Adam through torch.compile.
        workspaces: see there.
        compiles: pass the layers of recorded steps through torch.compile.
    """

    device: torch.device
    steps: int
    compile: bool
    workspaces: int
    compiles: bool = False

    def row(
        self, plan: Plan, samples: Tensor, step: Callable[[], object], planned: int, allocated: int | None = None
    ) -> Row:
        """Training by ``step``, and the bytes that were ``planned``; ``allocated``: before the steps that are timed."""
        row, spec = measured(step, self.steps, self.device), job_specs(plan)[-1]
        peak = row["peak_bytes"] if allocated is None else allocated
        items = samples.numel() if plan.task == "text" else len(samples)
        return {
            **row,
            "peak_bytes": peak,
            "planned_bytes": planned,
            "workspace_bytes": self.workspaces,
            "planned_share": None if peak is None else (planned + self.workspaces) / peak,
            "layer_evaluations_per_second": spec.step_evaluations / row["seconds"],
            "items_per_second": items / plan.num_blocks / row["seconds"],  # tokens or images, seen once by every block
        }

    def batch(self, plan: Plan, samples: Tensor) -> Batch:
        """``samples`` for the plan's last block (all are alike)."""
        spec, generator = job_specs(plan)[-1], torch.Generator().manual_seed(0)
        sigma = plan.partition.levels(*spec.band, len(samples), generator)
        labelled = Samples(samples, torch.zeros(len(samples), dtype=torch.long))
        return plan_task(plan).draw(labelled, sigma, spec.block, generator).to(self.device)

    def learner(self, plan: Plan, way: Way, block: int) -> BlockLearner:
        with self.device:  # where large networks are made sooner
            denoiser = blockwise(plan).denoiser(block, way.checkpointing).to(self.device)
        return block_learner(job_specs(plan)[block], denoiser, plan_optimizer(plan), compile=self.compile)


def train(plan: Plan, way: Way, samples: Tensor, bench: Bench) -> Row:
    """A step of the plan's last block."""
    specs, task, batch = job_specs(plan), plan_task(plan), bench.batch(plan, samples)
    waiting = [bench.learner(plan, way, block) for block in range(plan.num_blocks - 1)] if way.resident else []
    for job, other in zip(specs, waiting, strict=False):
        train_step(job, other, task, batch)  # so that it has an optimizer's moments
    trained = bench.learner(plan, way, plan.num_blocks - 1)
    with kernels_of(bench.device):
        planned = (all_resident if way.resident else training_peak)(plan, way.checkpointing).total
    if not way.recorded:
        return bench.row(plan, samples, lambda: train_step(specs[-1], trained, task, batch), planned)
    if bench.compiles:
        compile_layers(trained.module)
    losses = partial(block_losses, trained, task)
    told: list[str] = []
    stepper = GuardedStepper(trained, losses, len(batch), every=bench.steps + WARM_UP + 1, tell=told.append)
    reset_peak(bench.device)
    began = time.perf_counter()
    stepper.take(batch)
    stepper.read()
    ready = time.perf_counter() - began
    allocated = peak_bytes(bench.device)  # a replay allocates nothing: what it uses was allocated as it was recorded
    row = bench.row(plan, samples, lambda: stepper.take(batch), planned, allocated)
    stepper.close()
    return {**row, "seconds_to_the_first_step": ready, "compiled": bench.compiles, "not_recorded": told}


def train_rival(plan: Plan, way: Way, samples: Tensor, bench: Bench) -> Row:
    """A step of a rival that trains the whole network of ``plan``."""
    if way.name == EIGHT_BIT:
        plan = replace(plan, recipe={**plan.recipe, "optimizer": "adamw8bit"})
        try:
            return train(plan, replace(way, name="end-to-end"), samples, bench)
        except ImportError as error:
            return {"missing": str(error)}
    task, batch = plan_task(plan), bench.batch(plan, samples)
    with kernels_of(bench.device):
        counted = rivals(plan, training_peak(plan, way.checkpointing), way.checkpointing)
    found = next(rival for rival in counted if rival.name == way.name)
    elsewhere = {"planned_host_bytes": found.host, "planned_bus_bytes": found.bus}
    step: Callable[[], object]
    if way.name == FUSED:
        fused = fused_learner(plan, way, bench)
        step = partial(fused.update, [fused.network.train()], block_losses(fused, task, batch), len(batch), 0)
        return {**bench.row(plan, samples, step, found.peak.total), **elsewhere}
    with alone(bench.device) as mesh:
        step = partial(train_step, job_specs(plan)[0], offloaded_learner(plan, way, bench, mesh), task, batch)
        return {**bench.row(plan, samples, step, found.peak.total), **elsewhere}


def fused_learner(plan: Plan, way: Way, bench: Bench) -> BlockLearner:
    """Its update moves every weight as soon as the gradient is there, which is let go; in bf16 weights have 16 bits."""
    learner = bench.learner(plan, way, 0)
    learner.averages.clear()
    optimizers: dict[Tensor, torch.optim.Optimizer] = {}

    def update(parameter: Tensor) -> None:
        optimizers[parameter].step()
        parameter.grad = None

    for parameter in learner.module.parameters():
        if plan_optimizer(plan).precision == "bf16":
            parameter.data = parameter.data.to(torch.bfloat16)
        optimizers[parameter] = torch.optim.Adafactor([parameter], lr=learner.learning_rate, foreach=False)
        parameter.register_post_accumulate_grad_hook(update)
    return learner


@contextmanager
def alone(device: torch.device) -> Iterator[DeviceMesh]:
    """A process group of this process."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield init_device_mesh(device.type, (1,))
    finally:
        dist.destroy_process_group()


class OffloadedLearner(Learner[BlockDenoiser]):
    """A learner whose weights are on the CPU between two layers, and that computes on ``device``."""

    device: torch.device

    def autocast(self) -> torch.autocast:
        return self.settings.autocast(self.device)


def offloaded_learner(plan: Plan, way: Way, bench: Bench, mesh: DeviceMesh) -> OffloadedLearner:
    """Weights, gradients, averages and moments in host memory, where AdamW works."""
    denoiser = blockwise(plan).denoiser(0, way.checkpointing)
    half = torch.bfloat16 if plan_optimizer(plan).precision == "bf16" else None
    shard: Any = partial(
        fully_shard,
        mesh=mesh,
        mp_policy=MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False),
        offload_policy=CPUOffloadPolicy(pin_memory=bench.device.type == "cuda"),
    )
    for layer in denoiser.layers.values():
        shard(layer)
    shard(denoiser)
    ranks = Ranks("fsdp", rank=0, size=1)
    learner = OffloadedLearner(
        job_specs(plan)[0], denoiser, plan_optimizer(plan), trained=denoiser.backbone, ranks=ranks
    )
    learner.device = bench.device
    return learner


def sample(plan: Plan, images: int, steps: int, device: torch.device) -> Row:
    """Median images per second over the whole noise range."""
    blocks = blockwise(plan)
    denoiser = Denoiser(plan.partition, lambda b: blocks.denoiser(b).to(device).eval())
    asked = recorded(denoiser, warnings.warn) if device.type == "cuda" else denoiser
    grid = karras_grid(plan.partition.law.low, plan.partition.law.high, steps)
    classes = ClassIds(torch.arange(images, device=device) % 10)

    def once() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            generate(asked, SAMPLERS[Sampling.sampler], grid, classes, image_shape(plan), 0, images)

    row = measured(once, 5, device)
    return {**row, "images_per_second": images / row["seconds"]}


def attention(plan: Plan, count: int, steps: int, device: torch.device) -> Iterator[Row]:
    """Two-stream attention of one layer in each of its forms, forward and backward."""
    config = gpt_config(plan)
    shape = (count, config.heads, 2 * config.context, config.width // config.heads)
    dtype = torch.bfloat16 if plan_optimizer(plan).precision == "bf16" else torch.float32
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    forms: dict[str, Attend] = {"two-pass": two_pass, "concatenated": concatenated}
    if device.type == "cuda":  # FlexAttention has no backward pass elsewhere
        forms["flex"] = flex
    for name, form in forms.items():
        row = measured(lambda form=form: form(q, k, v).sum().backward(), steps, device)  # type: ignore[misc]
        yield {"form": name, **row}


def image_case(options: argparse.Namespace) -> tuple[Plan, Plan, Tensor]:
    """The whole network, its blocks, and what they are trained on."""
    recipe = ImageRecipe(patch=options.patch, **shared_recipe(options))
    facts = ImageFacts(shape=(1, options.length, options.length), num_classes=10)
    whole = recipe.plan(facts)
    samples = torch.randn(options.batch_size, *image_shape(whole), generator=torch.Generator().manual_seed(0))
    return whole, replace(recipe, blocks=options.blocks).plan(facts), samples


def text_case(options: argparse.Namespace) -> tuple[Plan, Plan, Tensor]:
    """The same for text: the whole network is an ordinary GPT."""
    recipe = CausalRecipe(length=options.length, **shared_recipe(options))
    facts = TextFacts(vocabulary=Bytes())
    whole = recipe.ordinary().plan(facts)
    own = replace(recipe, streams=options.streams, blocks=options.blocks).plan(facts)
    shape = (options.batch_size, options.length)
    return whole, own, torch.randint(Bytes().size, shape, generator=torch.Generator().manual_seed(0))


def shared_recipe(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "size": options.size,
        "blocks": 1,
        "batch_size": options.batch_size,
        "block_batch_size": options.batch_size,
        "budget": 10**9,
        "precision": options.precision,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["images", "text"])
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--length", type=int, default=32, help="pixels of a side, or tokens")
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--streams", choices=["one", "two"], default="one")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--sampling-steps", type=int, default=24)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="the step of 8-bit Adam")
    parser.add_argument(
        "--layers", choices=["auto", "on", "off"], default="auto", help="whether recorded steps compile"
    )
    parser.add_argument("--only", nargs="*", default=[], help="strategies whose names hold one of these, nothing else")
    options = parser.parse_args()
    device = torch.device(options.device)
    known = {"torch": torch.__version__, **vars(options), "device": str(device)}
    if device.type == "cuda":
        known["device"] = torch.cuda.get_device_name(device)

    def show(measure: str, row: Row) -> None:
        print(json.dumps({"measure": measure, **row, **known}), flush=True)

    whole, own, samples = (image_case if options.task == "images" else text_case)(options)
    bench = Bench(device, options.steps, options.compile, workspaces(device), compiles(device, options.layers))
    for plan, ways, trains in ((whole, WHOLE, train), (whole, RIVALS, train_rival), (own, OWN, train)):
        for way in ways:
            if not options.only or any(part in way.name for part in options.only):
                chosen = {"strategy": way.name, "checkpointing": way.checkpointing, "recorded": way.recorded}
                show("train", {**chosen, **trains(plan, way, samples, bench)})
    if options.only:
        return
    if options.task == "images":
        for plan in (whole, own):
            row = sample(plan, options.images, options.sampling_steps, device)
            show("sample", {"num_blocks": plan.num_blocks, **row})
    else:
        for row in attention(own, options.batch_size, options.steps, device):
            show("attention", row)


if __name__ == "__main__":
    main()
