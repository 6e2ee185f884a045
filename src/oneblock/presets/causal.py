"""Autoregressive text with a GPT, and with one of recurrent depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import Tokens
from oneblock.data import Vocabulary
from oneblock.models.cache import Cache
from oneblock.models.gpt import GPT, GPTConfig, Streams
from oneblock.noise import LogNormal
from oneblock.plan import Plain, Plan
from oneblock.presets.base import Recipe, network_config
from oneblock.presets.classify import LabelInput, LabelLaw, table_law
from oneblock.table import normalised, random_unit, simplex
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.causal import CausalText

TokenTable = Literal["simplex", "random", "co-occurrence"]


@dataclass(frozen=True, kw_only=True)
class CausalRecipe(Recipe):
    """What a plan for autoregressive text needs.

    Args:
        vocabulary: of the tokens; the plan holds it.
        length: tokens of a training window.
        kv_heads: heads of keys and values; 0 is ``heads``.
        streams: where the noisy targets stand (``models.gpt``); ``"none"`` is an ordinary language model.
        prelude, coda: layers before and after those that ``depth`` counts; with either above 0 it is a recurrent-depth
            network.
        table: the rows that stand for the symbols: a simplex, random unit vectors of length ``label_width`` (0: the
            width of the network), or those of ``table.cooccurrence``, whose values are ``rows``.
        law, inputs: see ``presets.classify.ClassifyRecipe``.
        clean: share of every batch without any information in z (``tasks.causal.CausalText``).
    """

    vocabulary: Vocabulary
    length: int
    kv_heads: int = 0
    streams: Streams = "one"
    prelude: int = 0
    coda: int = 0
    table: TokenTable = "simplex"
    rows: tuple[float, ...] = ()
    label_width: int = 0
    law: LabelLaw = "entropy"
    inputs: LabelInput = "bayes"
    clean: float = 0.0


def causal_plan(recipe: CausalRecipe) -> Plan:
    """The plan of a run on autoregressive text; ``ValueError`` on anything that does not fit together."""
    depth, width, heads = recipe.dimensions
    table = _table(recipe.table, recipe.vocabulary.size, recipe.label_width or width, recipe.seed, recipe.rows)
    config = GPTConfig(
        vocabulary=recipe.vocabulary.size,
        context=recipe.length,
        label_width=table.shape[1] if recipe.inputs == "scaled" else recipe.vocabulary.size,
        depth=depth,
        width=width,
        heads=heads,
        kv_heads=recipe.kv_heads,
        streams=recipe.streams,
        prelude=recipe.prelude,
        coda=recipe.coda,
    )
    passes = 2 if recipe.streams == "two" else 1
    settings: Mapping[str, Plain] = {
        **cast(Mapping[str, Plain], recipe.vocabulary.to_dict()),
        "table": recipe.table,
        "table_width": table.shape[1],
        "rows": list(recipe.rows),
        "inputs": recipe.inputs,
        "clean": recipe.clean,
        "passes": passes,
        "end_layers": recipe.prelude + passes * recipe.coda,
    }
    law = table_law(table) if recipe.law == "entropy" else LogNormal()
    return recipe.plan("text", {"name": "gpt", **asdict(config)}, law, "equal-mass", settings)


def with_symbols(plan: Plan, symbols: int) -> Plan:
    """A plan with another number of symbols, for counting: the noise law stays as it is."""
    width = symbols if plan.recipe["table"] == "simplex" else cast(int, plan.recipe["table_width"])
    shown = width if plan.recipe["inputs"] == "scaled" else symbols
    architecture = {**plan.architecture, "vocabulary": symbols, "label_width": shown}
    return replace(plan, architecture=architecture, recipe={**plan.recipe, "table_width": width})


def gpt_config(plan: Plan) -> GPTConfig:
    """The GPT of a plan for autoregressive text."""
    return network_config(GPTConfig, plan)


def token_table(plan: Plan) -> Tensor:
    """(v, k): the rows that stand for the symbols of a plan for autoregressive text."""
    kind, width = cast(TokenTable, plan.recipe["table"]), cast(int, plan.recipe["table_width"])
    rows = tuple(cast(list[float], plan.recipe["rows"]))
    return _table(kind, gpt_config(plan).vocabulary, width, plan.seed, rows)


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
    return torch.empty(gpt_config(plan).vocabulary, cast(int, plan.recipe["table_width"]))


class BlockReading:
    """A block that has read the beginning of texts (``sample.causal.Reading``): its cache behind its frame.

    Args:
        block: a denoiser whose backbone is a GPT.
        count: texts that are read side by side.
    """

    def __init__(self, block: BlockDenoiser, count: int) -> None:
        assert isinstance(block.backbone, GPT), "a plan for autoregressive text has a GPT"
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
    carried = gpt_config(plan).streams == "one"
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
    tokens = torch.zeros(count, gpt_config(plan).context, dtype=torch.long)
    z = torch.empty(*tokens.shape, cast(int, plan.recipe["table_width"]))
    return Batch(Noised(z, torch.ones(count), block), tokens, Tokens(tokens.clone()))
