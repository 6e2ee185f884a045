"""Options of text: which text and vocabulary, networks, and how text is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oneblock.cli.options import ModelOptions
from oneblock.data import BytePair, Bytes, Characters, TokenFile, Vocabulary, open_text, read_texts
from oneblock.plan import Plan
from oneblock.presets import MaskedRecipe, masked_plan
from oneblock.presets.base import TEXT_RATE
from oneblock.presets.masked import Schedule
from oneblock.sample.masked import Reveal

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
        )
        return masked_plan(self.filled(recipe, TEXT_RATE))


@dataclass(frozen=True, kw_only=True)
class TextSamplingOptions:
    """How text is written."""

    count: int = 4
    """sequences"""
    prompt: str = ""
    """how they begin"""
    reveals: int = 64
    """steps in which places are revealed"""
    order: Reveal = "ancestral"
    """which places are revealed first: any, or the surest"""
    temperature: float = 1.0
    """divides the logits; 0 takes the likeliest symbol"""
    top_p: float = 1.0
    """draw among the likeliest symbols that have this probability together"""
