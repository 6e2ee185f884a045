"""Models of text, masked or autoregressive: their scores, what they write, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from oneblock.blockwise import Denoiser
from oneblock.checks import check_seed
from oneblock.data import TokenFile, split_copies
from oneblock.evaluate.causal import evaluate_causal, plan_calls, write_causal
from oneblock.evaluate.masked import TIMES, evaluate_masked, write_masked, written_masked
from oneblock.evaluate.quality import ORDER, QUALITY, QualityOptions, Scorer, beside, n_grams, written_quality
from oneblock.evaluate.writing import WINDOWS, WRITING, Writing, held_out, tokens_per_byte
from oneblock.partition import Partition
from oneblock.plan import Plan, nth_seed
from oneblock.presets.masked import plan_length, plan_vocabulary
from oneblock.sample.calls import ANSWERS, Answers, Asking

__all__ = [
    "ORDER",
    "TIMES",
    "WINDOWS",
    "WRITING",
    "QualityOptions",
    "Scorer",
    "Writing",
    "evaluate_text",
    "held_out",
    "n_grams",
    "tokens_per_byte",
    "write_texts",
    "written_quality",
]


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
    quality: QualityOptions = QUALITY,
    writing: Writing = WRITING,
    seed: int = 0,
    scored: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """All scores of a model of text on ``windows`` of a held-out text; under ``"near_copies"`` how much of a named text
    stands in its training text (``data.near``).

    Args:
        train: the training text, of which n-grams score written texts; needed where ``quality.texts`` is above 0.
        bands, times: of masked text, see ``evaluate.masked``.
        answers: of autoregressive text.
        quality, writing: how many texts are written, how, and how they are scored, under ``"quality"``.
        seed: of what is written.
        scored: called with the scores of held-out text, before texts are written. With ``order="policy"`` the row then
            gets ``calls``, the mean number of calls that a text took.
    """
    check_seed("sample_seed", seed)
    quality.check(train, test, plan_length(plan))
    if quality.texts:
        _check_writing(plan, writing)
    tokens, new = held_out(test, plan_length(plan), windows)
    if plan.task == "masked-text":
        row = evaluate_masked(denoiser, plan, tokens, bands=bands, times=times, new=new)
    else:
        row = evaluate_causal(denoiser, plan, tokens, answers, new)
    copies = split_copies(test).get(test.path.stem)
    if copies is not None:
        row["near_copies"] = copies
    if scored is not None:
        scored(row)
    if train is not None and quality.texts:
        writing = replace(writing, count=quality.texts)
        if plan.task == "masked-text" and writing.order == "policy":
            written = written_masked(denoiser, plan, writing, seed)
            texts, row["calls"] = written.texts, sum(written.calls) / len(written.calls)
        else:
            texts = ["".join(text) for text in write_texts(denoiser, plan, writing, answers, seed)]
        row["quality"] = written_quality(texts, beside(test, tokens, len(texts)), train, quality)
    return row


def _check_writing(plan: Plan, writing: Writing) -> None:
    """Refuse a prompt that the network cannot go on from."""
    vocabulary, length = plan_vocabulary(plan), plan_length(plan)
    if plan.task == "masked-text":
        writing.prompts(vocabulary, length)
    else:
        writing.to_write(vocabulary, length)


def write_texts(
    denoiser: Denoiser, plan: Plan, writing: Writing = WRITING, answers: Asking = ANSWERS, seed: int = 0
) -> Iterator[Iterable[str]]:
    """``writing.count`` texts, each in pieces as they are written; the texts of masked diffusion are one piece each. An
    autoregressive text follows from ``seed`` and its place alone."""
    if plan.task == "masked-text":
        yield from ([text] for text in write_masked(denoiser, plan, writing, seed))
        return
    calls = plan_calls(plan, answers)
    for i in range(writing.count):
        yield write_causal(denoiser, plan, writing, calls, nth_seed(seed, i, "text"))
