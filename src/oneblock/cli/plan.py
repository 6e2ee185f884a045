"""``oneblock plan images``, ``classify``, ``masked-text``, ``text`` and ``recurrent-text``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, TypeVar

from oneblock.cli import console
from oneblock.cli.class_options import ClassifyOptions
from oneblock.cli.image_options import ImageOptions
from oneblock.cli.options import ModelOptions, changed_words, parse_bytes
from oneblock.cli.picture import bars
from oneblock.cli.text_options import (
    CausalOptions,
    MaskedOptions,
    TextOptions,
    num_symbols,
    ordinary,
    recurrent_options,
)
from oneblock.data import Bytes
from oneblock.memory import PeakBytes
from oneblock.plan import Plan
from oneblock.presets import (
    SIZES,
    SampleFlops,
    all_resident,
    costliest_job,
    plan_budget,
    training_flops,
    training_peak,
)
from oneblock.presets.causal import with_symbols
from oneblock.train.strategy import job_specs

RESIDENT = "all resident"
AnyOptions = TypeVar("AnyOptions", bound=ModelOptions)


@dataclass(frozen=True)
class Cost:
    """What one way of training costs: bytes at the peak of one process, operations of a step and of the whole run."""

    strategy: str
    blocks: int
    checkpointing: bool
    samples_per_step: int
    peak: PeakBytes
    step_flops: int
    total_flops: int

    @property
    def name(self) -> str:
        blocks = f", {self.blocks} blocks" if self.blocks > 1 else ""
        return f"{self.strategy}{blocks}{', checkpointing' if self.checkpointing else ''}"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the verbs that plan have in common."""

    verb: ClassVar[str]
    model: ModelOptions

    fit: str = ""
    """memory of the device, e.g. 24GiB: answer with the fewest blocks that train in it"""
    chart: Path | None = None
    """write the bytes by kind as a PNG"""
    json: bool = False
    """print one JSON object instead of a table"""

    def run(self) -> None:
        limit = parse_bytes(self.fit) if self.fit else None
        costs = list(self.costs())
        answer = None if limit is None else self.fitting(costs, limit)
        if self.chart is not None:
            draw(costs, self.chart, limit)
        if self.json:
            fit = {} if limit is None else {"fit": {"limit": limit, "options": answer}}
            console.emit({"costs": [{"name": cost.name, **asdict(cost)} for cost in costs], **fit})
            return
        _report(costs)
        if self.chart is not None:
            console.say(f"picture: {self.chart}")
        if limit is not None:
            if answer is None:
                least = min(costs, key=lambda cost: cost.peak.total)
                raise ValueError(
                    f"nothing here trains in --fit {self.fit}, not even one sample at a time; {least.name} needs "
                    f"{least.peak.total / 2**30:.3f} GiB for its batch: use a smaller network or a larger device"
                )
            print(f"fits {self.fit}: oneblock train {self.verb} {' '.join(answer)}")

    def costs(self) -> Iterator[Cost]:
        """Every strategy: the whole network, then for every number of blocks that divides the depth all blocks on the
        device and the own block alone, each also with checkpointing."""
        flops = {checkpointing: training_flops(self.plan(1), checkpointing) for checkpointing in (False, True)}
        for plan in self.plans():
            for checkpointing in (False, True):
                yield from _costs(plan, checkpointing, flops[checkpointing])

    def plans(self) -> Iterator[Plan]:
        """One plan for each number of blocks, fewest first; only the one asked for when layers are given."""
        yield self.plan(1)
        if self.model.layers:
            yield self.plan(len(self.model.layers))
            return
        depth = self.model.depth or SIZES[self.model.size][0]
        yield from (self.plan(blocks) for blocks in range(2, depth + 1) if depth % blocks == 0)

    def plan(self, blocks: int) -> Plan:
        """The plan with so many blocks; with a single one it is that of `--strategy end-to-end`."""
        raise NotImplementedError

    def fitting(self, costs: list[Cost], limit: int) -> list[str] | None:
        """Options of `oneblock train` for the fewest blocks that fit, without checkpointing where that is
        enough; smaller micro-batches come last, with as many blocks as there can be."""
        own = [cost for cost in costs if cost.strategy != RESIDENT]
        for cost in sorted(own, key=lambda cost: (cost.blocks, cost.checkpointing)):
            if cost.peak.total <= limit:
                return self.options(cost, self.model.accumulate)
        last = own[-1]
        plan = self.plan(last.blocks)
        accumulate = 2 * self.model.accumulate
        while accumulate <= last.samples_per_step:
            smaller = replace(plan, recipe={**plan.recipe, "accumulate": accumulate})
            if training_peak(smaller, checkpointing=True).total <= limit:
                return self.options(last, accumulate)
            accumulate *= 2
        return None

    def options(self, cost: Cost, accumulate: int) -> list[str]:
        """The words after `oneblock train` that train this way: the user's own, then what decides the memory.
        The data are not among them."""
        model = replace(self.model, accumulate=accumulate, blocks=ModelOptions.blocks)
        if cost.blocks == 1:
            model = replace(model, layers=(), branch=0.0)
            words = [*changed_words(model, type(self.model)()), "--strategy", "end-to-end"]
        else:
            words = changed_words(model, type(self.model)()) + ([] if model.layers else ["--blocks", str(cost.blocks)])
        return words + (["--checkpointing"] if cost.checkpointing else []) + self.data_words()

    def data_words(self) -> list[str]:
        """Words of the command line for what the network needs to know of the data, beside the data themselves."""
        return []


@dataclass(frozen=True, kw_only=True)
class PlanPictures(Planned):
    """What the verbs that plan for images have in common."""

    image_size: int = 32
    """height and width of the images (or latents) in pixels"""
    channels: int = 3
    """of the images (or latents)"""
    classes: int = 10
    """number of classes"""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.image_size, self.image_size


@dataclass(frozen=True, kw_only=True)
class PlanImages(PlanPictures):
    """What training an image generator will cost, before any of it is trained: bytes and floating-point operations.

    Counted from shapes, with the batch, optimizer and weight average that `oneblock train images` would use. Nothing is
    allocated: a network far larger than this machine is planned too. The bytes are those of tensors; a GPU adds its
    context, fragmentation and the workspaces of its kernels.
    """

    verb: ClassVar[str] = "images"
    model: ImageOptions = field(default_factory=ImageOptions)

    def plan(self, blocks: int) -> Plan:
        return _with_blocks(self.model, blocks).plan_for(self.image_shape, self.classes)


@dataclass(frozen=True, kw_only=True)
class PlanClassify(PlanPictures):
    """What training a classifier will cost, before any of it is trained: bytes and floating-point operations.

    Counted as by `oneblock plan images`; end-to-end is an ordinary ViT.
    """

    verb: ClassVar[str] = "classify"
    model: ClassifyOptions = field(default_factory=ClassifyOptions)

    def plan(self, blocks: int) -> Plan:
        model = _with_blocks(self.model, blocks)
        if blocks == 1:
            model = replace(model, noisy_token="none", modulated=False, recipe="oneblock")
        return model.plan_for(self.image_shape, self.classes)


@dataclass(frozen=True, kw_only=True)
class PlanWriting(Planned):
    """What the verbs that plan for text have in common."""

    vocabulary: str = TextOptions.vocabulary
    """characters (a to z and space), bytes, or bpe:SIZE"""

    def data_words(self) -> list[str]:
        return [] if self.vocabulary == TextOptions.vocabulary else ["--vocabulary", self.vocabulary]


@dataclass(frozen=True, kw_only=True)
class PlanMaskedText(PlanWriting):
    """What training masked diffusion of text will cost, before any of it is trained: bytes and operations.

    Counted as by `oneblock plan images`; no text is needed.
    """

    verb: ClassVar[str] = "masked-text"
    model: MaskedOptions = field(default_factory=MaskedOptions)

    def plan(self, blocks: int) -> Plan:
        # Byte pairs are not learned here: of a vocabulary only the number of symbols costs anything.
        plan = _with_blocks(self.model, blocks).plan_for(Bytes())
        return replace(plan, architecture={**plan.architecture, "vocabulary": num_symbols(self.vocabulary)})


@dataclass(frozen=True, kw_only=True)
class PlanText(PlanWriting):
    """What training an autoregressive language model will cost, before any of it is trained: bytes and operations.

    Counted as by `oneblock plan images`; no text is needed; end-to-end is an ordinary GPT.
    """

    verb: ClassVar[str] = "text"
    model: CausalOptions = field(default_factory=CausalOptions)

    def plan(self, blocks: int) -> Plan:
        model = _with_blocks(self.model, blocks)
        if blocks == 1 and model.prelude + model.coda == 0:
            model = ordinary(model)
        return with_symbols(model.plan_for(Bytes()), num_symbols(self.vocabulary))


@dataclass(frozen=True, kw_only=True)
class PlanRecurrentText(PlanText):
    """What training a language model of recurrent depth will cost, before any of it is trained.

    Counted as by `oneblock plan images`; no text is needed. One pass a step, whatever the number of calls later.
    """

    verb: ClassVar[str] = "recurrent-text"
    model: CausalOptions = field(default_factory=recurrent_options)

    def plans(self) -> Iterator[Plan]:
        yield self.plan(1)


def _with_blocks(model: AnyOptions, blocks: int) -> AnyOptions:
    if blocks == 1:
        return replace(model, blocks=1, layers=(), branch=0.0)
    return model if model.layers else replace(model, blocks=blocks)


def _costs(plan: Plan, checkpointing: bool, flops: SampleFlops) -> Iterator[Cost]:
    jobs = job_specs(plan, plan_budget(plan))
    largest = costliest_job(plan)
    step = flops.step(largest)
    per_evaluation = step / largest.step_evaluations
    work = sum(job.evaluations for job in jobs)
    own = training_peak(plan, checkpointing)
    peaks = {"end-to-end": own} if plan.num_blocks == 1 else {RESIDENT: all_resident(plan, own), "own block": own}
    for strategy, peak in peaks.items():
        total = round(work * per_evaluation)
        yield Cost(strategy, plan.num_blocks, checkpointing, largest.batch_size, peak, step, total)


def _unit(costs: list[Cost]) -> tuple[str, int]:
    return ("GiB", 2**30) if costs[0].peak.total >= 2**30 else ("MiB", 2**20)


def draw(costs: list[Cost], path: Path, limit: int | None) -> None:
    """Bytes by kind of every strategy as bars, and the limit as a line."""
    unit, size = _unit(costs)
    stacks = {cost.name: {kind: share / size for kind, share in cost.peak.by_kind.items()} for cost in costs}
    bars(stacks, path, f"{unit} at the peak of a step", None if limit is None else limit / size)


def _report(costs: list[Cost]) -> None:
    kinds = {"Parameter": "weights", "Gradient": "gradients", "Optstate": "optimizer", "Activation": "activations"}
    whole = costs[0].peak.total
    unit, size = _unit(costs)

    def row(cost: Cost) -> tuple[str, ...]:
        known = [cost.peak.by_kind.get(kind, 0) for kind in kinds]
        return (
            cost.strategy,
            str(cost.blocks),
            "yes" if cost.checkpointing else "-",
            str(cost.samples_per_step),
            f"{cost.peak.total / size:.2f}",
            f"{whole / cost.peak.total:.1f}x",
            *(f"{share / size:.2f}" for share in (*known, cost.peak.total - sum(known))),
            f"{cost.step_flops / 1e9:.4g}",
            f"{cost.total_flops / 1e12:.4g}",
        )

    columns = (
        "strategy",
        "blocks",
        "ckpt",
        "samples",
        f"peak {unit}",
        "less",
        *kinds.values(),
        "rest",
        "GFLOP",
        "TFLOP",
    )
    title = "one training process at the peak of a step; GFLOP of a step, TFLOP of the whole run"
    console.table(title, columns, map(row, costs))
    if len({cost.samples_per_step for cost in costs}) > 1:
        print("A block's step takes its share of the batch, as in training; --block-batch-size N plans equal batches.")
