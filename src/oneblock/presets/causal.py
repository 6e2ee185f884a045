"""Autoregressive text with a GPT, and with one of recurrent depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, Self, cast

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.checks import check_count
from oneblock.condition import Tokens
from oneblock.models.cache import Cache
from oneblock.models.gpt import GPT, GPTConfig, Streams
from oneblock.noise import LogNormal
from oneblock.plan import Plain, Plan
from oneblock.presets.base import OwnBackbone, TextFacts, TextRecipe, network_config
from oneblock.presets.classify import LabelInput, LabelLaw, table_law
from oneblock.presets.masked import num_symbols, own_text_architecture, plan_length
from oneblock.table import normalised, random_unit, simplex
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.causal import CausalText

WIDEST = 2**16
"""The longest vectors that stand for symbols."""
TokenTable = Literal["simplex", "random", "co-occurrence"]


@dataclass(frozen=True, kw_only=True)
class CausalRecipe(TextRecipe):
    """The GPT of autoregressive text and how its work is spent; with ``prelude`` or ``coda`` above 0 it is a network of
    recurrent depth (``recurrent_recipe``)."""

    task: ClassVar[str] = "text"

    streams: Streams = "one"
    """noisy targets carried by the token before (one); beside the text, as tokens of their own, for twice the work
    (two); or left out (none: an ordinary language model)"""
    prelude: int = 0
    """layers that read the text once, before those that --depth counts (recurrent depth)"""
    coda: int = 0
    """layers that read out, after those that --depth counts (recurrent depth)"""
    table: TokenTable = "simplex"
    """the vectors that stand for the symbols; random ones suit large vocabularies, and those of co-occurrence lie close
    where symbols have the same neighbours in the training text"""
    label_width: int = 0
    """length of random and co-occurrence vectors (0: the width of the network, at most one for each symbol)"""
    law: LabelLaw = "entropy"
    """noise levels by how much they leave open of a token, or EDM's log-normal"""
    inputs: LabelInput = "bayes"
    """what the network is shown of a noisy token: the evidence for each symbol; the same, also added to its logits by
    Bayes' rule; or the noisy vector, scaled"""
    clean: float = 0.0
    """share of every batch whose noisy tokens tell nothing: there it is an ordinary language model"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("label_width", self.label_width, least=0, most=WIDEST)

    def ordinary(self) -> Self:
        return replace(self, streams="none", inputs="evidence", clean=0.0)

    def plan(self, facts: TextFacts, backbone: OwnBackbone | None = None) -> Plan:
        width = self.label_width or self.dimensions[1]
        table = _table(self.table, facts.vocabulary.size, width, self.seed, facts.rows)
        if backbone is None:
            architecture = self._gpt(facts, table)
            passes, ends = work_factors(self.streams, self.prelude, self.coda)
        else:
            architecture, passes, ends = own_text_architecture(backbone, facts, self), 1, 0
        settings: Mapping[str, Plain] = {
            **cast(Mapping[str, Plain], facts.vocabulary.to_dict()),
            "table": self.table,
            "table_width": table.shape[1],
            "rows": list(facts.rows),
            "inputs": self.inputs,
            "clean": self.clean,
            "passes": passes,
            "end_layers": ends,
        }
        law = table_law(table) if self.law == "entropy" else LogNormal()
        return self._plan(facts, architecture, law, "equal-mass", settings)

    def _gpt(self, facts: TextFacts, table: Tensor) -> dict[str, Plain]:
        depth, width, heads = self.dimensions
        symbols = facts.vocabulary.size
        config = GPTConfig(
            vocabulary=symbols,
            context=self.length,
            label_width=table.shape[1] if self.inputs == "scaled" else symbols,
            depth=depth,
            width=width,
            heads=heads,
            kv_heads=self.kv_heads,
            streams=self.streams,
            prelude=self.prelude,
            coda=self.coda,
        )
        return {"name": "gpt", **asdict(config)}


def work_factors(streams: Streams, prelude: int, coda: int) -> tuple[int, int]:
    """How often a layer of a GPT works on every token, and how many layers' work is done before and after those that
    ``depth`` counts."""
    return (2, prelude + 2 * coda) if streams == "two" else (1, prelude + coda)


def recurrent_recipe() -> CausalRecipe:
    """A network of recurrent depth, which is one block."""
    return CausalRecipe(depth=4, prelude=1, coda=1, blocks=1, streams="one")


def gpt_config(plan: Plan) -> GPTConfig:
    """The GPT of a plan for autoregressive text."""
    return network_config(GPTConfig, plan)


def plan_streams(plan: Plan) -> Streams:
    """Where the noisy targets of a plan for autoregressive text stand; a backbone of the user's own is shown them
    beside the text."""
    return cast(Streams, plan.architecture.get("streams", "two"))


def token_table(plan: Plan) -> Tensor:
    """(v, k): the rows that stand for the symbols of a plan for autoregressive text."""
    kind, width = cast(TokenTable, plan.recipe["table"]), cast(int, plan.recipe["table_width"])
    rows = tuple(cast(list[float], plan.recipe["rows"]))
    return _table(kind, num_symbols(plan), width, plan.seed, rows)


def _table(kind: TokenTable, vocabulary: int, width: int, seed: int, rows: tuple[float, ...]) -> Tensor:
    if kind == "simplex":
        return simplex(vocabulary)
    if kind == "random":
        return random_unit(vocabulary, width, seed)
    if not rows or len(rows) % vocabulary:
        raise ValueError(
            f"rows={len(rows)} numbers do not make {vocabulary} rows; give those of oneblock.table.cooccurrence"
        )
    return normalised(torch.tensor(rows).view(vocabulary, -1))


def causal_task(plan: Plan) -> CausalText:
    """The task of a plan for autoregressive text."""
    if plan.task != "text":
        raise ValueError(f"task={plan.task!r}: this plan is not for autoregressive text; use one with task 'text'")
    return _task(plan, token_table(plan))


def empty_causal_task(plan: Plan) -> CausalText:
    """The task with a table without content, for counting."""
    return _task(plan, empty_token_table(plan))


def _task(plan: Plan, table: Tensor) -> CausalText:
    return CausalText(table, plan.partition.law, cast(float, plan.recipe["clean"]))


def empty_token_table(plan: Plan) -> Tensor:
    return torch.empty(num_symbols(plan), cast(int, plan.recipe["table_width"]))


class BlockReading:
    """A block that has read the beginning of texts (``sample.causal.Reading``): its cache behind its frame.

    Args:
        block: a denoiser whose backbone is a GPT.
        count: texts that are read side by side.
    """

    def __init__(self, block: BlockDenoiser, count: int) -> None:
        if not isinstance(block.backbone, GPT):
            raise ValueError(
                f"{type(block.backbone).__name__} cannot write: writing needs a cache, which only models.gpt.GPT has; "
                "evaluate() works with any backbone"
            )
        self.frame = block.frame
        self.cache = Cache(block.backbone, count)

    def ask(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.frame.outputs(z, sigma, self.cache.ask(self.frame.inputs(z, sigma), self.frame.noise(sigma)))

    def read(self, tokens: Tensor, z: Tensor, sigma: Tensor) -> None:
        self.cache.read(tokens, self.frame.inputs(z, sigma), self.frame.noise(sigma))


def block_readings(plan: Plan, denoiser: Denoiser, levels: Sequence[float], count: int) -> list[BlockReading]:
    """A reading of the block at each of ``levels``, for ``sample.causal.write``; all blocks are kept.

    Calls of one block share a reading, unless the tokens that it reads carry noise of the call's level.
    """
    carried = plan_streams(plan) == "one"
    found: dict[int, BlockReading] = {}
    readings = []
    for level in levels:
        owner = int(plan.partition.block_at(torch.tensor([level]))[0])
        if carried or owner not in found:
            found[owner] = BlockReading(denoiser.block(owner), count)
        readings.append(found[owner])
    return readings


def empty_causal(plan: Plan, count: int, block: int | None) -> Batch:
    """A batch of ``count`` windows without content."""
    tokens = torch.zeros(count, plan_length(plan), dtype=torch.long)
    z = torch.empty(*tokens.shape, cast(int, plan.recipe["table_width"]))
    return Batch(Noised(z, torch.ones(count), block), tokens, Tokens(tokens.clone()))
