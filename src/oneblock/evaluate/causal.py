"""Autoregressive text: bits per byte after every call, and text as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from oneblock.blockwise import Denoiser, DenoiserLike
from oneblock.checks import check_seed
from oneblock.data import Vocabulary
from oneblock.evaluate.device import device_of
from oneblock.evaluate.writing import UNFINISHED, WRITING, Writing, tokens_per_byte, weights
from oneblock.plan import Plan, nth_seed
from oneblock.presets.causal import block_readings, plan_streams, token_table
from oneblock.presets.masked import plan_length, plan_vocabulary
from oneblock.sample.calls import ANSWERS, Answers, Asking, Calls
from oneblock.sample.causal import predict, write
from oneblock.tasks.causal import code_length, log_likelihood

BATCH = 64


def plan_calls(plan: Plan, answers: Asking = ANSWERS) -> Calls:
    """How the blocks of a plan are called: each once, at the upper edge of its band, unless ``answers`` say otherwise.

    Networks that are not told of noise are an ensemble: each is called once and the probabilities are averaged,
    whatever ``answers`` say; unless Bayes' rule adds what the noisy token tells to their answers.
    """
    if plan_streams(plan) == "none" and plan.recipe["inputs"] != "bayes":
        return Calls(levels=plan.edges[:-1], pool="mean")
    pool = "evidence" if answers.pool == "auto" else answers.pool
    return Calls(levels=answers.levels(plan), path=answers.path, pool=pool)


def token_nats(denoiser: DenoiserLike, plan: Plan, tokens: Tensor, answers: Answers = ANSWERS) -> Tensor:
    """Code lengths (calls, n, t) in nats of the tokens of texts (n, t) after every call; draw k of a path has the noise
    of ``nth_seed(answers.noise_seed, k, "draw")``."""
    calls, table = plan_calls(plan, answers), token_table(plan)
    carried = plan_streams(plan) == "one"
    found = []
    for part in tokens.to(device_of(denoiser)).split(BATCH):
        draws = []
        for seed in (nth_seed(answers.noise_seed, k, "draw") for k in range(answers.draws)):
            steps = predict(denoiser, table, part, calls, carried, seed)
            draws.append(torch.stack([log_likelihood(p, part) for p in steps]))
        found.append(code_length(torch.stack(draws)))
    return torch.cat(found, dim=1)


def bits_row(nats: Tensor, tokens: Tensor, vocabulary: Vocabulary, new: Tensor | None = None) -> dict[str, Any]:
    """What is reported of code lengths (calls, n, t) of texts (n, t), of each its ``new`` tokens (n,) (None: all): bits
    per byte, with the standard error over the texts."""
    per_byte, weight = tokens_per_byte(tokens, vocabulary, new), weights(tokens, new)
    nats = nats.cpu()
    bits = (nats.double() * weight).mean(2) / torch.tensor(2.0, dtype=torch.float64).log() * per_byte
    mean = bits[-1].mean()
    # a text that counts for less is expected to add less
    around = bits[-1] - (weight.mean(1) - 1.0) * mean
    return {
        "bits_per_byte": float(mean),
        "error": standard_error(around),
        "bits_after_calls": bits.mean(1).tolist(),
        "nats_per_token": float((nats[-1] * weight.to(nats)).mean()),
        "tokens": int((weight > 0).sum()),
        "tokens_per_byte": per_byte,
    }


def standard_error(values: Tensor) -> float | None:
    """Of the mean of ``values`` (n,); None of a single one, which says nothing of others."""
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else None


def evaluate_causal(
    denoiser: DenoiserLike, plan: Plan, tokens: Tensor, answers: Answers = ANSWERS, new: Tensor | None = None
) -> dict[str, Any]:
    """Bits per byte of held-out windows ``tokens`` (n, t) after every call, counted where they are ``new`` (n,); with
    noise an upper bound (``tasks.causal.code_length``).

    The first tokens of a window have little before them, as in training.
    """
    return bits_row(token_nats(denoiser, plan, tokens, answers), tokens, plan_vocabulary(plan), new)


def write_causal(
    denoiser: Denoiser, plan: Plan, writing: Writing = WRITING, answers: Asking | Calls = ANSWERS, seed: int = 0
) -> Iterator[str]:
    """One text in pieces as they are written, its prompt first; what is not yet a character waits for the next
    token."""
    check_seed("seed", seed)
    calls = answers if isinstance(answers, Calls) else plan_calls(plan, answers)
    vocabulary = plan_vocabulary(plan)
    given, count = writing.to_write(vocabulary, plan_length(plan))
    readings = block_readings(plan, denoiser, calls.levels, 1)
    tokens = given.tolist()
    done = vocabulary.decode(given) if len(given) else ""
    yield done
    prompt = given[None].to(device_of(denoiser))
    steps = write(readings, token_table(plan), prompt, count, calls, writing.temperature, writing.top_p, seed)
    for i, step in enumerate(steps):
        tokens.append(int(step[0]))
        text = vocabulary.decode(torch.tensor(tokens))
        if not text.endswith(UNFINISHED) or i == count - 1:
            yield text[len(done) :]
            done = text
