"""Options of text: which text and vocabulary, networks, and how text is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from oneblock.cli.options import ModelOptions
from oneblock.data import BytePair, Bytes, Characters, TokenFile, Vocabulary, open_text, read_texts
from oneblock.models.gpt import Streams
from oneblock.plan import Plan
from oneblock.presets import SIZES, CausalRecipe, MaskedRecipe, causal_plan, masked_plan
from oneblock.presets.base import TEXT_RATE
from oneblock.presets.causal import TokenTable
from oneblock.presets.classify import LabelInput, LabelLaw
from oneblock.presets.masked import MaskedWeighting, Schedule
from oneblock.sample.causal import TextPath, TextPool
from oneblock.sample.masked import Reveal
from oneblock.table import cooccurrence

KNOWN: dict[str, Vocabulary] = {"characters": Characters(), "bytes": Bytes()}
"""Vocabularies that need no text to learn from."""


def num_symbols(vocabulary: str) -> int:
    """The size of the vocabulary of that name, which need not be learned yet; an unknown name is a ``ValueError``."""
    if vocabulary in KNOWN:
        return KNOWN[vocabulary].size
    kind, _, size = vocabulary.partition(":")
    if kind != "bpe" or not size.isdecimal() or int(size) <= Bytes().size:
        raise ValueError(
            f"vocabulary={vocabulary!r} is unknown; use characters, bytes or bpe:4096 (more than the {Bytes().size} "
            "bytes)"
        )
    return int(size)


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Which text."""

    data: str = "books"
    """books, sotu, austen, shakespeare, milton (`make text` fetches them), file:PATH or hf:NAME"""
    data_dir: Path | None = None
    """where the corpora lie (default: ./data)"""
    vocabulary: str = "characters"
    """characters (a to z and space), bytes, or bpe:SIZE (byte pairs learned from the training text)"""

    def symbols(self) -> Vocabulary:
        """The vocabulary that the options name."""
        size = num_symbols(self.vocabulary)
        if self.vocabulary in KNOWN:
            return KNOWN[self.vocabulary]
        return BytePair.train(read_texts(self.data, "train", root=self.data_dir), size)

    def open(self) -> TokenFile:
        """The training text."""
        return open_text(self.data, "train", self.symbols(), root=self.data_dir)


@dataclass(frozen=True, kw_only=True)
class MaskedOptions(ModelOptions):
    """The encoder of masked text and how its work is spent."""

    length: int = 128
    """tokens of a training window"""
    kv_heads: int = 0
    """heads of keys and values (0: as many as --heads)"""
    schedule: Schedule = "linear"
    """how the masked share grows with time"""
    weighting: MaskedWeighting = "bound"
    """of a masked token in training: as in the likelihood bound, where few masked tokens count for many; or even"""

    def plan(self, data: str, file: TokenFile) -> Plan:
        """The plan of a run on the text of ``file``."""
        return self.plan_for(file.vocabulary, data, file.fingerprint())

    def plan_for(self, vocabulary: Vocabulary, data: str = "", fingerprint: str = "") -> Plan:
        """The plan of a run on text that need not be at hand."""
        recipe = MaskedRecipe(
            data=data,
            fingerprint=fingerprint,
            vocabulary=vocabulary,
            length=self.length,
            kv_heads=self.kv_heads,
            schedule=self.schedule,
            weighting=self.weighting,
        )
        return masked_plan(self.filled(recipe, TEXT_RATE))


@dataclass(frozen=True, kw_only=True)
class CausalOptions(ModelOptions):
    """The GPT of autoregressive text and how its work is spent."""

    length: int = 128
    """tokens of a training window"""
    kv_heads: int = 0
    """heads of keys and values (0: as many as --heads)"""
    streams: Streams = "one"
    """noisy targets carried by the token before (one); beside the text, as tokens of their own, for twice the work
    (two); or left out (none: an ordinary language model)"""
    prelude: int = 0
    """layers that read the text once, before those that --depth counts (recurrent depth)"""
    coda: int = 0
    """layers after them"""
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

    def plan(self, data: str, file: TokenFile) -> Plan:
        """The plan of a run on the text of ``file``."""
        rows: tuple[float, ...] = ()
        if self.table == "co-occurrence":
            size = file.vocabulary.size
            width = self.label_width or min(size, self.width or SIZES[self.size][1])
            rows = tuple(round(value, 6) for value in cooccurrence(file.tokens, size, width).flatten().tolist())
        return self.plan_for(file.vocabulary, data, file.fingerprint(), rows)

    def plan_for(
        self, vocabulary: Vocabulary, data: str = "", fingerprint: str = "", rows: tuple[float, ...] = ()
    ) -> Plan:
        """The plan of a run on text that need not be at hand."""
        recipe = CausalRecipe(
            data=data,
            fingerprint=fingerprint,
            rows=rows,
            vocabulary=vocabulary,
            length=self.length,
            kv_heads=self.kv_heads,
            streams=self.streams,
            prelude=self.prelude,
            coda=self.coda,
            table=self.table,
            label_width=self.label_width,
            law=self.law,
            inputs=self.inputs,
            clean=self.clean,
        )
        return causal_plan(self.filled(recipe, TEXT_RATE))


def ordinary(model: CausalOptions) -> CausalOptions:
    """An ordinary language model in the place of one that denoises tokens."""
    return replace(model, streams="none", inputs="evidence", clean=0.0)


def recurrent_options() -> CausalOptions:
    """A network of recurrent depth, which is one block."""
    return CausalOptions(depth=4, prelude=1, coda=1, blocks=1, streams="one")


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """How blocks are called for the next token."""

    token_calls: int = 0
    """calls for each token, at equal steps of the noise law's mass (0: one for each block)"""
    token_path: TextPath = "mean"
    """between two calls the noisy token stays uninformed (none); goes to the expected vector; from noise by Euler's
    steps; or to a token drawn from the answer, with new noise"""
    token_pool: TextPool = "evidence"
    """what the answer is made of: the last call, the mean of all calls' probabilities, or the mean of what all calls
    saw in the text (evidence)"""
    token_draws: int = 1
    """paths from other noise whose answers are averaged, for scores"""


@dataclass(frozen=True, kw_only=True)
class TextSamplingOptions:
    """How text is written."""

    count: int = 4
    """sequences"""
    prompt: str = ""
    """how they begin"""
    tokens: int = 0
    """tokens to write, of autoregressive text (0: as many as the network sees)"""
    reveals: int = 64
    """steps in which places are revealed, of masked text"""
    order: Reveal = "ancestral"
    """which places are revealed first: any, or the surest, of masked text"""
    temperature: float = 1.0
    """divides the logits; 0 takes the likeliest symbol"""
    top_p: float = 1.0
    """draw among the likeliest symbols that have this probability together"""

    def check_count(self) -> None:
        """Refuse to write nothing."""
        if self.count < 1:
            raise ValueError(f"count={self.count} writes nothing; use 1 or more")

    def prompts(self, vocabulary: Vocabulary, length: int) -> Tensor:
        """The tokens that the sequences begin with: int64 (count, t); a prompt of ``length`` or more is refused."""
        self.check_count()
        given = vocabulary.encode(self.prompt) if self.prompt else torch.empty(0, dtype=torch.int64)
        if len(given) >= length:
            raise ValueError(
                f"prompt={self.prompt[:40]!r} has {len(given)} tokens, the network sees {length}; cut the prompt"
            )
        return given.expand(self.count, -1)

    def to_write(self, vocabulary: Vocabulary, length: int) -> tuple[Tensor, int]:
        """The prompt of one autoregressive text, int64 (t,), and how many tokens follow it; more than ``length``
        together is refused."""
        given = self.prompts(vocabulary, length)[0]
        count = self.tokens or length - len(given)
        if count < 1 or len(given) + count > length:
            raise ValueError(
                f"prompt={self.prompt[:40]!r} has {len(given)} tokens, tokens={self.tokens} are asked for, and the "
                f"network sees {length} together; cut the prompt or write fewer"
            )
        return given, count
