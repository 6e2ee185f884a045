"""One suite for all ways to take steps; on a CPU a recorded step is the work itself, after the same warm-up. On a GPU:
``ONEBLOCK_TEST_DEVICE=cuda``."""

import gc
import math
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import DEVICE
from tiny import IMAGES, TINY, tiny_classify_plan, tiny_plan, tiny_run
from torch import Tensor, nn

from oneblock.data import Batches, Characters, MemorySource, Samples
from oneblock.ops import CannotRecordError, Recorded
from oneblock.plan import Plan
from oneblock.presets import CausalRecipe, MaskedRecipe, TextFacts, blockwise, plan_task
from oneblock.tasks.base import Batch, Loss
from oneblock.train import stepper as module
from oneblock.train.block import BlockLearner, block_learner, block_losses, compile_layers
from oneblock.train.feed import Feed
from oneblock.train.learner import Backpropagation, Learned, Losses, NonFiniteError, learn
from oneblock.train.loop import BlockJob, steps
from oneblock.train.parallel import Ranks
from oneblock.train.step import OptimizerSettings
from oneblock.train.stepper import EagerStepper, GuardedStepper, Stepper, why_eager
from oneblock.train.strategy import all_blocks, job_specs, plan_optimizer

HERE = MemorySource(IMAGES).to(DEVICE)
KINDS: dict[str, Callable[..., Stepper]] = {
    "eager": EagerStepper,
    "guarded": partial(GuardedStepper, record=False, every=3),
    "captured": partial(GuardedStepper, every=3),
}
LATE = ["guarded", "captured"]
STEPS = 6
TEXT = {name: value for name, value in TINY.items() if name != "patch"}


class Texts:
    """Windows of 16 random characters."""

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        generator = torch.Generator().manual_seed(seed % 1000 + step)
        return Samples(torch.randint(27, (batch_size, 16), generator=generator).to(DEVICE), None)


def text_plan(recipe: type[CausalRecipe] | type[MaskedRecipe], **changes: Any) -> Plan:
    return recipe(**{**TEXT, "length": 16, **changes}).plan(TextFacts(vocabulary=Characters()))


PLANS: dict[str, tuple[Plan, Batches]] = {
    "images": (tiny_plan(), HERE),
    "bf16": (tiny_plan(OptimizerSettings(precision="bf16")), HERE),
    "micro-batches": (tiny_plan(OptimizerSettings(accumulate=3)), HERE),
    "classify": (tiny_classify_plan(weighting="normalised"), HERE),
    "squared": (tiny_classify_plan(loss="squared"), HERE),
    "masked-text": (text_plan(MaskedRecipe, weighting="bound", schedule="cosine"), Texts()),
    "text": (text_plan(CausalRecipe, clean=0.25), Texts()),
}


@dataclass
class Training:
    """A learner, what takes its steps, and its batches."""

    learner: BlockLearner
    stepper: Stepper
    feed: Feed
    told: list[str]

    def run(self, steps: int = STEPS, changed: Callable[[int, Batch], Batch] = lambda step, batch: batch) -> Any:
        """The numbers of all steps, those of the last ones too."""
        found: list[Learned] = []
        for step in range(steps):
            found += self.stepper.take(changed(step, self.feed.batch(step)))
        return [*found, *self.stepper.read()]

    def tensors(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.learner.tensors().items()}


def training(kind: str, case: str = "images", checkpointing: bool = False, first: int = 0, **words: Any) -> Training:
    plan, source = PLANS[case]
    spec, task = job_specs(plan)[0], plan_task(plan).to(DEVICE)
    learner = block_learner(spec, blockwise(plan).denoiser(0, checkpointing).to(DEVICE), plan_optimizer(plan))
    told: list[str] = []
    if kind != "eager":
        words["tell"] = told.append
    stepper = KINDS[kind](learner, partial(block_losses, learner, task), spec.batch_size, **words)
    feed = Feed(plan, spec, task, source, DEVICE, first=first)
    return Training(learner, stepper, feed, told)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(t.equal(other[name]) for name, t in one.items())


@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_stepper_takes_the_steps_of_the_engine(kind: str, case: str) -> None:
    ours, engine = training(kind, case), training("eager", case)
    found = ours.run()
    spec = ours.learner.course
    for step, one in enumerate(found):
        task = plan_task(PLANS[case][0]).to(DEVICE)
        losses = block_losses(engine.learner, task, engine.feed.batch(step))
        expected = learn([engine.learner], losses, 8)
        assert (one.step, one.learning_rate) == (step + 1, expected.learning_rate)
        assert (one.loss, one.plain, *one.norms) == pytest.approx(
            (expected.loss, expected.plain, *expected.norms), rel=1e-3 if case == "bf16" else 1e-4
        )
    assert ours.learner.step == len(found) == STEPS == spec.last_step
    for name, tensor in engine.learner.tensors().items():
        torch.testing.assert_close(ours.learner.tensors()[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
    assert ours.told == []


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_and_compiled_layers_change_nothing(kind: str) -> None:
    plain, ours = training(kind), training(kind, checkpointing=True)
    compile_layers(ours.learner.module)
    for layer in ours.learner.module.layers.values():
        assert layer._compiled_call_impl is not None
        layer._compiled_call_impl = None  # a compiler is not at hand everywhere, and takes seconds
    assert [one.loss for one in ours.run()] == pytest.approx([one.loss for one in plain.run()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_learner_that_was_saved_goes_on_to_the_byte(kind: str) -> None:
    whole, part = training(kind), training(kind)
    whole.run()
    part.run(3)
    rest = training(kind, first=3)
    rest.learner.load(part.tensors(), 3)
    for step in range(3, STEPS):
        rest.stepper.take(rest.feed.batch(step))
    assert [one.step for one in rest.stepper.read()] == []
    assert same(rest.tensors(), whole.tensors())


def test_layers_that_are_alike_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the next block too, so that it starts at once."""
    from torch._dynamo.testing import CompileCounter  # takes seconds to load

    counter, usual = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda layer, **words: usual(layer, backend=counter, **words))
    frames = []
    for block in (0, 1):
        plan, source = PLANS["images"]
        spec, task = job_specs(plan)[block], plan_task(plan).to(DEVICE)
        learner = block_learner(spec, blockwise(plan).denoiser(block).to(DEVICE), plan_optimizer(plan))
        compile_layers(learner.module)
        stepper = GuardedStepper(learner, partial(block_losses, learner, task), spec.batch_size, every=1)
        feed = Feed(plan, spec, task, source, DEVICE, first=0)
        (learned,) = stepper.take(feed.batch(0))
        assert math.isfinite(learned.loss)
        frames.append(counter.frame_count)
    assert frames == [1, 1]


@pytest.mark.parametrize("kind", LATE)
def test_warming_up_moves_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with the learning rate of a step, and with moments that are there already."""
    ours = training("eager")
    ours.run(3)
    seen: list[dict[str, Tensor]] = []

    class Watched(Recorded[Tensor]):
        def __init__(self, work: Callable[[], Tensor], device: torch.device) -> None:
            seen.append(ours.tensors())
            super().__init__(work, device)
            seen.append(ours.tensors())

    monkeypatch.setattr(module, "Recorded", Watched)
    losses = partial(block_losses, ours.learner, plan_task(PLANS["images"][0]).to(DEVICE))
    late = GuardedStepper(ours.learner, losses, 8, every=1, record=kind == "captured")
    module.set_learning_rate(ours.learner.optimizer, 1.0)
    (learned,) = late.take(ours.feed.batch(3))
    assert len(seen) == (2 if kind == "captured" else 0)
    assert late.recorded == (kind == "captured")
    assert not seen or same(*seen)
    engine = training("eager")
    assert learned.loss == pytest.approx(engine.run(4)[-1].loss)
    for name, tensor in engine.tensors().items():
        torch.testing.assert_close(ours.tensors()[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


def spoilt(bad: int) -> Callable[[int, Batch], Batch]:
    """Batches of which that of step ``bad`` holds a number that is not finite."""

    def changed(step: int, batch: Batch) -> Batch:
        if step != bad:
            return batch
        z = batch.noised.z.clone()
        z[3] = math.inf
        return replace(batch, noised=replace(batch.noised, z=z))

    return changed


@pytest.mark.parametrize("bad", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_not_finite_reaches_nothing(kind: str, bad: int) -> None:
    """Nor do the finite ones after it, which were taken before anybody looked."""
    ours, until = training(kind), training(kind)
    found: list[Learned] = []
    where = rf"block-0: loss nan, gradient norm nan at step {bad}, noise band \[.*\]; what was saved before is intact"
    with pytest.raises(NonFiniteError, match=where):
        for step in range(STEPS):
            found += ours.stepper.take(spoilt(bad)(step, ours.feed.batch(step)))
            if ours.stepper.failure is not None:
                raise ours.stepper.failure
    expected = until.run(bad)
    assert [one.step for one in found] == [one.step for one in expected] == list(range(1, bad + 1))
    assert [one.loss for one in found] == [one.loss for one in expected]
    assert ours.learner.step == bad
    if bad:  # without a step there are no moments on the one side, and zeros on the other
        assert same(ours.tensors(), until.tensors())
    else:
        fresh = training("eager").tensors()
        assert all(t.equal(fresh[name]) if name in fresh else not t.any() for name, t in ours.tensors().items())


@pytest.mark.parametrize("kind", LATE)
def test_numbers_are_read_together(kind: str) -> None:
    ours = training(kind)
    taken = [len(ours.stepper.take(ours.feed.batch(step))) for step in range(5)]
    assert taken == [0, 0, 3, 0, 0]
    assert [one.step for one in ours.stepper.read()] == [4, 5]
    assert ours.stepper.read() == []


def test_how_many_are_read_together_follows_from_their_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 0.1 s: one, to know it, then five at a time, about half a second; one that takes no time: 100."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    ours = training("guarded", every=None)
    batch = ours.feed.batch(0)
    read = []
    for seconds, count in ((0.1, 11), (1e-4, 125)):
        for _ in range(count):
            now[0] += seconds
            found = ours.stepper.take(batch)
            ours.learner.step %= STEPS
            read += [len(found)] if found else []
    assert read == [1, 5, 5, 5, 100]


class Drawing(nn.Module):
    """A layer that draws from torch's own generator."""

    def __init__(self, layer: nn.Module, draw: Callable[[], object]) -> None:
        super().__init__()
        self.layer, self.draw = layer, draw

    def forward(self, h: Tensor, modulation: Any) -> Tensor:
        self.draw()
        out: Tensor = self.layer(h, modulation)
        return out


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random], ids=["torch", "python"])
def test_a_network_that_draws_is_not_recorded(draw: Callable[[], object]) -> None:
    ours, plain = training("captured"), training("guarded")
    layers = ours.learner.module.layers
    for name, layer in layers.items():
        layers[name] = Drawing(layer, draw)
    assert [one.loss for one in ours.run()] == [one.loss for one in plain.run()]
    assert not ours.stepper.recorded
    assert ours.told == ["it draws random numbers from a generator of torch's or Python's own"]
    assert same({name: t for name, t in ours.tensors().items() if "layers" not in name}, {
        name: t for name, t in plain.tensors().items() if "layers" not in name
    })  # fmt: skip


def test_a_recording_sees_the_batch_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it reads stands where it stood: with the first batch never replaced, all losses would be of that batch."""
    ours, plain = training("captured"), training("eager")
    assert [one.loss for one in ours.run()] == pytest.approx([one.loss for one in plain.run()], rel=1e-4)
    still = training("captured")
    monkeypatch.setattr(Batch, "copy_", lambda self, other: None)
    assert [one.loss for one in still.run()][1:] != pytest.approx([one.loss for one in plain.run()][1:], rel=1e-2)


def test_who_must_wait() -> None:
    learner = training("eager").learner
    assert why_eager(learner) == ""
    learner.ranks = Ranks("ddp", 0, 2)
    assert why_eager(learner) == "several processes train the block"
    learner.ranks = Ranks()
    learner.settings = replace(learner.settings, optimizer="adamw8bit")
    assert why_eager(learner) == "the step of adamw8bit is counted on the processor"
    learner.settings = replace(learner.settings, optimizer="adamw")

    def other(networks: Any, losses: list[Losses], samples: int, step: int) -> Loss:
        return Backpropagation()(networks, losses, samples, step)

    learner.update = other
    assert why_eager(learner) == "its gradients are not found by backpropagation"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"shared": "joint"}, "blocks that share stem and head take turns"),
        ({"optimizer": OptimizerSettings(optimizer="adamw8bit")}, "the step of adamw8bit is counted on the processor"),
    ],
    ids=["joint", "8 bits"],
)
def test_what_is_not_recorded_is_told_in_a_line(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    if "optimizer" in changes:
        pytest.importorskip("torchao")
    told: list[str] = []
    plan = tiny_plan(**changes)
    run = tiny_run(tmp_path / "asked", plan, capture=True, warn=told.append)
    reports = list(all_blocks(run))
    line = "its steps are launched one kernel after the other, not recorded: "
    assert sorted(set(told)) == [f"block-{block}: {line}{why}" for block in (0, 1)]
    assert [one.loss for one in reports] == [one.loss for one in all_blocks(tiny_run(tmp_path / "not", plan))]


def test_work_that_cannot_be_recorded_says_why() -> None:
    with pytest.raises(CannotRecordError, match="it draws random numbers"):
        Recorded(lambda: torch.rand(3, device=DEVICE), DEVICE)
    before = torch.default_generator.get_state(), random.getstate()
    with pytest.raises(CannotRecordError, match="it draws random numbers"):
        Recorded(lambda: (torch.rand(3), random.random()), torch.device("cpu"))
    assert before[0].equal(torch.default_generator.get_state()) and before[1] == random.getstate()
    counted = [0]

    def work() -> int:
        counted[0] += 1
        return counted[0]

    again = Recorded(work, torch.device("cpu"))
    assert (again(), again()) == (4, 5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("capture", [False, True])
def test_nothing_of_a_job_stays_when_it_is_over(
    tmp_path: Path, capture: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is free for the next block at once, whenever Python may look for cycles."""
    monkeypatch.setattr(nn.Module, "compile", hold_itself)
    job = BlockJob(tiny_run(tmp_path, capture=capture, compile=compiled), job_specs(tiny_plan())[0])
    reports = steps(job, 100)
    next(reports)
    held = [weakref.ref(t) for t in (*job.learner.weights.values(), *job.learner.averages.values())]
    gc.disable()
    try:
        assert all(one() is not None for one in held)
        reports.close()
        assert all(one() is None for one in held)
    finally:
        gc.enable()


def hold_itself(layer: nn.Module, **words: Any) -> None:
    """What compiling does to a layer, as far as memory goes."""
    layer._kept = [layer]  # type: ignore[assignment]
