"""Masked diffusion of text: blockwise and its rivals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import mean
from typing import ClassVar

from oneblock.checks import check_count
from oneblock.evaluate.masked import TIMES, evaluate_masked, written_masked
from oneblock.evaluate.writing import WINDOWS, Writing
from oneblock.experiment.arms import blocks_alone, shallow_ensemble
from oneblock.experiment.base import Arm, Case, Cell
from oneblock.experiment.data import Texts, open_texts
from oneblock.experiment.summary import COSTS, Row, Scores
from oneblock.guidance import Ensemble
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets.base import end_to_end, shallow
from oneblock.presets.data import Data
from oneblock.presets.masked import MaskedRecipe, plan_length
from oneblock.presets.relay import RELAY, RelayKind
from oneblock.train.loop import Run
from oneblock.train.shards import open_denoiser

SHOWN = 2
"""Samples of a run that its row holds."""


@dataclass(frozen=True, kw_only=True)
class MaskedExperiment:
    """Masked diffusion of text, scored by a bound on its bits per byte on the same windows, times and masks."""

    task: ClassVar[str] = "masked-text"

    windows: int = WINDOWS
    """windows of held-out text that every run is scored on"""
    times: int = TIMES
    """masked shares of every reported band for each of them"""
    report_bands: int = 3
    """bands to report the bound of, the same for every arm"""
    calls: int = 0
    """also a bound on the bits per byte of text that is revealed in so many calls, in an order drawn at random, each
    call with the state of the one before where there are states (0: no)"""
    writing: Writing = field(default_factory=Writing)

    @property
    def usual(self) -> MaskedRecipe:
        return MaskedRecipe(size="nano", budget="100k", batch_size=4, block_batch_size=4, branch=0.5)

    @property
    def arms(self) -> Mapping[str, Arm[MaskedRecipe, MaskedExperiment]]:
        return ARMS

    @property
    def scores(self) -> Scores:
        return SCORES

    def open(self, recipe: MaskedRecipe, data: Data | None, held_out: Data | None) -> Texts:
        if min(self.times, self.report_bands) < 1:
            raise ValueError(f"times={self.times}, report_bands={self.report_bands}: use at least one of each")
        return open_texts(recipe, data, held_out, self.windows)

    def fitted(self, recipe: MaskedRecipe, known: Texts) -> MaskedRecipe:
        return recipe

    def check(self, plans: Mapping[Cell, Sequence[Plan]], known: Texts) -> None:
        for plan, *_ in plans.values():
            check_count("calls", self.calls, least=0, most=plan_length(plan))
            self.writing.prompts(known.facts.vocabulary, plan_length(plan))

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        return {
            "plans": [plan.hash for plan in plans],
            "windows": self.windows,
            "times": self.times,
            "report_bands": self.report_bands,
            **({"bits_in": self.calls} if self.calls else {}),
            "writing": asdict(self.writing),
        }

    def score(self, case: Case[Texts], runs: Sequence[Run]) -> Row:
        networks = [open_denoiser(run.directory, run.blockwise, run.device) for run in runs]
        denoiser = networks[0] if len(networks) == 1 else Ensemble(networks)
        plan = case.plans[0]
        bands = make_partition(plan.partition.law, self.report_bands)
        new, calls = case.known.new, self.calls
        bound = evaluate_masked(denoiser, plan, case.known.test, bands=bands, times=self.times, new=new, calls=calls)
        began = time.perf_counter()
        writing = replace(self.writing, order="policy") if RELAY in plan.recipe else self.writing
        written = written_masked(denoiser, plan, writing, case.cell.seed)
        speed = sum(map(len, written.texts)) / (time.perf_counter() - began)
        taken = {"calls": mean(written.calls)} if writing.order == "policy" else {}
        return {**bound, "characters_per_second": speed, "samples": written.texts[:SHOWN], **taken}

    def line(self, row: Row) -> str:
        in_calls = f", {row['bits_in_calls']:.4f} in {self.calls} calls" if self.calls else ""
        return f"{row['bits_per_byte']:.4f} bits per byte{in_calls}"


def mdlm(recipe: MaskedRecipe) -> MaskedRecipe:
    """The whole network as one block, on the weights of the likelihood bound."""
    return replace(end_to_end(recipe), weighting="bound")


def two_blocks(recipe: MaskedRecipe) -> MaskedRecipe:
    """Two blocks, each trained alone, whatever the recipe says."""
    return replace(blocks_alone(recipe), blocks=2, layers=())


def as_many_steps(recipe: MaskedRecipe) -> MaskedRecipe:
    """Larger steps over the whole noise range, by the number of blocks, so that all arms make about as many steps
    (docs/log.md)."""
    return replace(recipe, batch_size=recipe.batch_size * len(recipe.layer_split))


def learned_as(relay: RelayKind) -> Callable[[MaskedRecipe], MaskedRecipe]:
    """The whole network, trained as ``relay`` says."""
    return lambda recipe: replace(end_to_end(recipe), relay=relay)


def blockwise_relay(recipe: MaskedRecipe) -> MaskedRecipe:
    """Every block trained alone on the rollouts of its band, with states of its own."""
    return replace(blocks_alone(recipe), relay="relay", relay_across=False)


def blockwise_relay_across(recipe: MaskedRecipe) -> MaskedRecipe:
    """The same, each in its turn and going on from the states of the block before."""
    return replace(blockwise_relay(recipe), relay_across=True)


ARMS: dict[str, Arm[MaskedRecipe, MaskedExperiment]] = {
    "mdlm": Arm(recipes=mdlm),
    "end-to-end": Arm(recipes=end_to_end),
    "shallow": Arm(recipes=lambda recipe: shallow(as_many_steps(recipe))),
    "ensemble": Arm(recipes=shallow_ensemble),
    "blockwise": Arm(recipes=blocks_alone),
    "two-blocks": Arm(recipes=two_blocks),
    "branched": Arm(recipes=as_many_steps, branched=True),
    "rollout": Arm(recipes=learned_as("rollout"), usual=False),
    "relay-sg": Arm(recipes=learned_as("relay-sg"), usual=False),
    "relay": Arm(recipes=learned_as("relay"), usual=False),
    "blockwise-relay": Arm(recipes=blockwise_relay, usual=False),
    "blockwise-relay-across": Arm(recipes=blockwise_relay_across, usual=False),
}
SCORES = Scores(
    judged={"bits_per_byte": "lower", "bits_in_calls": "lower"},
    spread=("bits_per_byte", "bits_in_calls", "error", "characters_per_second", *COSTS),
    listed="nats_per_band",
    ours=("blockwise", "two-blocks", "branched", "relay", "blockwise-relay", "blockwise-relay-across"),
    rivals=("mdlm", "end-to-end", "shallow", "ensemble", "rollout", "relay-sg"),
)
