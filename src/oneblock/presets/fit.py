"""What every way of training a recipe costs, and which of them fits into the memory of a device.

Beside the ways of ``train`` stand its rivals (``presets.rivals``), to look at. An answer is what ``train`` takes: a
recipe with its blocks and micro-batches, a strategy, checkpointing. Before it is given, every job of its plan has made
a step on tensors without content, within the limit.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from oneblock.backbone import BuildBackbone
from oneblock.data.videos import FRAMES
from oneblock.memory import PeakBytes
from oneblock.partition import split_layers
from oneblock.plan import Plan
from oneblock.presets.base import ImageFacts, Recipe, end_to_end
from oneblock.presets.causal import CausalRecipe
from oneblock.presets.cost import SampleFlops, costliest_job, highest, job_peaks, training_flops, with_idle
from oneblock.presets.counted import counted_plan
from oneblock.presets.data import Data, open_clip_codec, open_data
from oneblock.presets.own import sized
from oneblock.presets.rivals import RivalName, rivals
from oneblock.presets.tasks import check_own
from oneblock.presets.video import VideoRecipe
from oneblock.train.strategy import job_specs

Strategy = Literal["end-to-end", "all resident", "own block"]
NO_MICRO_BATCHES = "a gradient that is used as soon as it is there cannot be added up (accumulate={})"
ENOUGH = 3
"""Micro-batches that tell what all need: the first makes gradients, beside which the next have their activations."""


@dataclass(frozen=True)
class Cost:
    """What one way of training costs: bytes at the peak of one process, operations of a step and of the whole run.

    Args:
        strategy: the whole network as a single block; a block with the others waiting on the device; a block alone; or
            a rival that trains the whole network in another way.
        samples_per_step: of the costliest job.
        peak: on the device, of the job whose peak is highest.
        host: bytes that wait in host memory; 0 for a block, as blocks train one after the other.
        bus: bytes between host memory and device in one step.
    """

    strategy: Strategy | RivalName
    blocks: int
    checkpointing: bool
    samples_per_step: int
    peak: PeakBytes
    step_flops: int
    total_flops: int
    host: int = 0
    bus: int = 0

    @property
    def name(self) -> str:
        blocks = f", {self.blocks} blocks" if self.blocks > 1 else ""
        return f"{self.strategy}{blocks}{', checkpointing' if self.checkpointing else ''}"


@dataclass(frozen=True)
class LeftOut:
    """A way that cannot be trained, and why not."""

    name: str
    reason: str


@dataclass(frozen=True)
class Fit:
    """How to train within a device's memory: what it costs, and the recipe with its blocks and micro-batches.

    ``train(fit.recipe, strategy=fit.strategy, machine=Machine(checkpointing=fit.cost.checkpointing), ...)`` does it.
    """

    cost: Cost
    recipe: Recipe

    @property
    def strategy(self) -> Literal["end-to-end", "all"]:
        return "end-to-end" if self.cost.strategy == "end-to-end" else "all"


@dataclass(frozen=True)
class Costs:
    """What every way of training costs and, where a limit was asked for, the one to take.

    Args:
        rows: ways that ``train`` has, end-to-end first, then by the number of blocks.
        rivals: other ways to train end-to-end, which are no answer.
        precision: of the recipe, in which all are counted.
        left_out: ways that cannot be trained as asked.
        limit: bytes, None where none was asked for.
        fit: None where nothing fits, or no limit was asked for.
        least: where nothing fits, what needs the fewest bytes of all.
    """

    rows: tuple[Cost, ...]
    rivals: tuple[Cost, ...] = ()
    precision: str = Recipe.precision
    left_out: tuple[LeftOut, ...] = ()
    limit: int | None = None
    fit: Fit | None = None
    least: Fit | None = None


def cost(
    recipe: Recipe,
    *,
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    frames: int = FRAMES,
    autoencoder: Path | None = None,
    data: Data | None = None,
    fit: int | str = "",
    backbone: BuildBackbone | None = None,
) -> Costs:
    """What training will cost, counted from shapes with the batch, optimizer and weight average that training uses.

    Nothing is allocated: a network far larger than this machine is counted too. The bytes are those of tensors on the
    device that trains; a GPU adds its context, fragmentation and the workspaces of its kernels.

    Args:
        image_size, channels, classes: of images, and of the frames of a video; a text needs nothing.
        frames: of a video.
        autoencoder: directory of one whose latents of such a video are trained on.
        data: in the place of these, the data that would be trained on: their size, and their classes or captions.
        fit: memory of the device, in bytes or as ``"24GiB"``: find the fewest blocks that train in it.
        backbone: a network of one's own in the place of the task's, as of ``train``. It is built of tensors without
            content too, as ``convert`` makes it, and no rivals stand beside it.

    Raises:
        ValueError: the recipe cannot be trained in any number of blocks.
    """
    limit = parse_bytes(fit) if fit else None
    prices = Prices()
    rows: list[Cost] = []
    others: list[Cost] = []
    trained: list[Way] = []
    left_out: list[LeftOut] = []
    shape = (frames,) * isinstance(recipe, VideoRecipe) + (channels, image_size, image_size)
    if autoencoder is not None:
        if not isinstance(recipe, VideoRecipe):
            raise ValueError(
                f"autoencoder={str(autoencoder)!r} is of clips, and the recipe is not for video; give the size and "
                "channels of the latents instead"
            )
        shape = open_clip_codec(autoencoder).encoded_shape(shape)
    images = ImageFacts(shape=shape, num_classes=classes)
    if data is not None:
        _, facts = open_data(recipe, data)
        images = facts if isinstance(facts, ImageFacts) else images
    recipe = sized(recipe, backbone)
    if backbone is not None:
        check_own(counted_plan(recipe.one_block(), images, backbone), backbone)
    for way in ways(recipe, images, backbone):
        try:
            rows += _rows(way, prices)
            learned = recipe.update == "backpropagation"
            others += _rivals(way, prices) if way.whole and learned and backbone is None else []
        except ValueError as error:
            left_out.append(LeftOut(way.name, str(error)))
        else:
            trained.append(way)
    if not rows:
        raise ValueError(left_out[0].reason)
    if others and recipe.accumulate > 1:
        left_out.append(LeftOut("fused Adafactor and block swap", NO_MICRO_BATCHES.format(recipe.accumulate)))
    costs = Costs(tuple(rows), tuple(others), recipe.precision, tuple(left_out), limit)
    if limit is None:
        return costs
    fits, found = fitting(trained, limit, prices)
    fit_or_least = Fit(prices.cost(found, prices.peak(found)), found.recipe)
    return replace(costs, fit=fit_or_least) if fits else replace(costs, least=fit_or_least)


@dataclass(frozen=True)
class Way:
    """One way to train a recipe.

    Args:
        recipe: as ``train`` takes it.
        images: what must be known of images; a text needs nothing.
        blocks: their number; ``whole`` says that strategy ``"end-to-end"`` makes it one.
        backbone: the user's own network, where it is one.
    """

    recipe: Recipe
    images: ImageFacts
    blocks: int
    whole: bool = False
    checkpointing: bool = False
    backbone: BuildBackbone | None = None

    @property
    def name(self) -> str:
        return "end-to-end" if self.whole else "one block" if self.blocks == 1 else f"{self.blocks} blocks"

    @cached_property
    def plan(self) -> Plan:
        """For counting."""
        return counted_plan(end_to_end(self.recipe) if self.whole else self.recipe, self.images, self.backbone)

    @property
    def strategy(self) -> Strategy:
        if self.whole:
            return "end-to-end"
        return "own block" if self.blocks == 1 or self.plan.shared == "private" else "all resident"

    def cut(self, accumulate: int) -> Way:
        """The same in so many micro-batches."""
        return replace(self, recipe=replace(self.recipe, accumulate=accumulate))


class Prices:
    """Counts every way once.

    Args:
        real: on real tensors, which must have room here; the same counts, of small networks sooner.
    """

    def __init__(self, real: bool = False) -> None:
        self.real = real
        self._peaks: dict[Way, Mapping[str, PeakBytes]] = {}
        self._least: dict[Way, int] = {}
        self._flops: dict[tuple[bool, bool], SampleFlops] = {}

    def peaks(self, way: Way) -> Mapping[str, PeakBytes]:
        """Of every job; ``ValueError`` if one could not be trained."""
        if way not in self._peaks:
            self._peaks[way] = job_peaks(way.plan, way.checkpointing, self.real, backbone=way.backbone)
        return self._peaks[way]

    def peak(self, way: Way) -> PeakBytes:
        return highest(self.peaks(way))

    def least(self, way: Way) -> int:
        """What its peak is not below, and hardly above."""
        if way in self._peaks or way.recipe.accumulate <= ENOUGH:
            return self.peak(way).total
        if way not in self._least:
            self._least[way] = highest(job_peaks(way.plan, way.checkpointing, self.real, ENOUGH, way.backbone)).total
        return self._least[way]

    def cost(self, way: Way, peak: PeakBytes, strategy: Strategy | None = None) -> Cost:
        network = way.whole, way.checkpointing  # blocks may differ from the whole in more than their number
        if network not in self._flops:
            self._flops[network] = training_flops(way.plan, way.checkpointing, way.backbone)
        flops, job = self._flops[network], costliest_job(way.plan)
        return Cost(
            strategy=strategy or way.strategy,
            blocks=way.blocks,
            checkpointing=way.checkpointing,
            samples_per_step=job.batch_size,
            peak=peak,
            step_flops=flops.step(job),
            total_flops=flops.run(way.plan),
        )


def ways(recipe: Recipe, images: ImageFacts, backbone: BuildBackbone | None = None) -> Iterator[Way]:
    """End-to-end, then every number of blocks that divides the depth; of given layers their own number alone.

    A network of recurrent depth is one block, unless the recipe asks for more.
    """
    yield Way(replace(recipe.one_block(), blocks=recipe.blocks), images, 1, whole=True, backbone=backbone)
    if recipe.layers:
        yield Way(recipe, images, len(recipe.layers), backbone=backbone)
        return
    depth, _, _ = recipe.dimensions
    numbers = [blocks for blocks in range(2, depth + 1) if depth % blocks == 0]
    if _recurrent(recipe):
        yield Way(recipe.one_block(), images, 1, backbone=backbone)
        numbers = numbers if recipe.blocks > 1 else []
    for blocks in numbers:
        yield Way(_in_blocks(recipe, blocks, depth), images, blocks, backbone=backbone)


def fitting(trained: Sequence[Way], limit: int, prices: Prices) -> tuple[bool, Way]:
    """Whether one of the ways ``trained`` needs ``limit`` bytes or fewer, and that way, or the one that needs least.

    The fewest blocks come first, without checkpointing where that is enough. If none fits, micro-batches are made, as
    few as are enough, of the way with the most blocks whose micro-batches fit. End-to-end training of a network of
    recurrent depth trains another network, and is no answer.
    """
    own = [way for way in trained if not (way.whole and _recurrent(way.recipe))]
    for way in sorted(own, key=lambda way: way.blocks):
        for one in (way, replace(way, checkpointing=True)):
            if _fits(one, limit, prices):
                return True, one
    smallest: list[Way] = []
    for way in sorted(own, key=lambda way: -way.blocks):
        tried = [replace(way.cut(count), checkpointing=True) for count in _micro_batches(way)]
        found = _first(tried, limit, prices)
        if found is not None:
            plain = replace(found, checkpointing=False)
            return True, plain if _fits(plain, limit, prices) else found
        smallest.append(tried[-1] if tried else replace(way, checkpointing=True))
    return False, min(smallest, key=prices.least)


def _first(tried: Sequence[Way], limit: int, prices: Prices) -> Way | None:
    """The first of some ways that fits, where each needs no more memory than the one before."""
    if not tried or prices.least(tried[-1]) > limit:
        return None
    may_fit = bisect_left(tried, True, key=lambda way: prices.least(way) <= limit)
    return next((way for way in tried[may_fit:] if _fits(way, limit, prices)), None)


def _fits(way: Way, limit: int, prices: Prices) -> bool:
    return prices.least(way) <= limit and prices.peak(way).total <= limit


def _micro_batches(way: Way) -> list[int]:
    """Numbers of micro-batches above that of the recipe that cut the batches of all jobs, of those that lead to the
    same sizes the smallest."""
    sizes = {job.batch_size for job in job_specs(way.plan)}
    first: dict[tuple[int, ...], int] = {}
    for count in range(way.recipe.accumulate, min(sizes) + 1):
        first.setdefault(tuple(-(-size // count) for size in sorted(sizes)), count)
    return [count for count in first.values() if count > way.recipe.accumulate]


def _rows(way: Way, prices: Prices) -> list[Cost]:
    """A way without and with checkpointing, where blocks may wait both with the others on the device and without; those
    that are trained in order do not wait."""
    rows = []
    for one in (way, replace(way, checkpointing=True)):
        if one.strategy == "own block" and one.blocks > 1 and not one.plan.in_order:
            rows.append(prices.cost(one, with_idle(one.plan, prices.peaks(one), one.backbone), "all resident"))
        rows.append(prices.cost(one, prices.peak(one)))
    return rows


def _rivals(way: Way, prices: Prices) -> list[Cost]:
    """Those of a way that trains the whole network, without and with checkpointing."""
    found = []
    for one in (way, replace(way, checkpointing=True)):
        whole = prices.cost(one, prices.peak(one))
        for rival in rivals(one.plan, whole.peak, one.checkpointing):
            found.append(replace(whole, strategy=rival.name, peak=rival.peak, host=rival.host, bus=rival.bus))
    return found


def _in_blocks(recipe: Recipe, blocks: int, depth: int) -> Recipe:
    made = replace(recipe, blocks=blocks)
    if made.settled().blocks == blocks:
        return made
    return replace(recipe, layers=split_layers(depth, blocks))  # published settings have a number of their own


def _recurrent(recipe: Recipe) -> bool:
    return isinstance(recipe, CausalRecipe) and recipe.prelude + recipe.coda > 0


def parse_bytes(value: int | str) -> int:
    """``1000000``, ``"24GiB"``, ``"80GB"``, ``"512MiB"`` -> bytes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKMGT]?)(i?)B?", str(value).strip())
    size = 0
    if found:
        number, scale, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(scale.upper() or " "))
    if size < 1:
        raise ValueError(f"size={value!r} is not a number of bytes; write 24GiB, 80GB or 512MiB")
    return size
