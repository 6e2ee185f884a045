"""What the verbs need for autoregressive text: bits per character after every call, and text as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from oneblock.blockwise import Denoiser
from oneblock.cli.text import tokens_per_character
from oneblock.cli.text_options import CallOptions, TextSamplingOptions
from oneblock.data import Vocabulary
from oneblock.plan import Plan
from oneblock.presets import block_readings, gpt_config, plan_length, plan_vocabulary, token_table
from oneblock.sample.causal import Calls, predict, write
from oneblock.tasks.causal import code_length, log_likelihood

BATCH = 64
UNFINISHED = "\ufffd"
"""What a vocabulary writes for bytes that are not yet a character."""


def plan_calls(plan: Plan, options: CallOptions) -> Calls:
    """How the blocks of a plan are called: each once, at the upper edge of its band, unless the options say otherwise.

    Networks that are not told of noise are an ensemble, whose probabilities are averaged; unless Bayes' rule adds what
    the noisy token tells to their answers.
    """
    if options.token_calls < 0 or options.token_draws < 1:
        raise ValueError(
            f"token_calls={options.token_calls}, token_draws={options.token_draws}: use 0 or more calls and 1 or more "
            "draws"
        )
    if gpt_config(plan).streams == "none" and plan.recipe["inputs"] != "bayes":
        return Calls(levels=plan.edges[:-1], pool="mean")
    levels = plan.edges[:-1]
    if options.token_calls:
        mass = 1.0 - torch.arange(options.token_calls, dtype=torch.float64) / options.token_calls
        levels = tuple(plan.partition.law.quantile(mass).tolist())
    return Calls(levels=levels, path=options.token_path, pool=options.token_pool)


def token_nats(plan: Plan, denoiser: Denoiser, tokens: Tensor, options: CallOptions) -> Tensor:
    """Code lengths (calls, n, t) in nats of the tokens of texts (n, t) after every call."""
    calls, table = plan_calls(plan, options), token_table(plan)
    carried = gpt_config(plan).streams == "one"
    found = []
    for part in tokens.split(BATCH):
        draws = []
        for seed in range(options.token_draws):
            steps = predict(denoiser, table, part, calls, carried, seed)
            draws.append(torch.stack([log_likelihood(p, part) for p in steps]))
        found.append(code_length(torch.stack(draws)))
    return torch.cat(found, dim=1)


def bits_row(nats: Tensor, tokens: Tensor, vocabulary: Vocabulary) -> dict[str, Any]:
    """What is reported of code lengths (calls, n, t) of texts (n, t): bits per character (or byte), with the standard
    error over the texts."""
    per_character = tokens_per_character(tokens.cpu(), vocabulary)
    bits = nats.double().mean(2) / torch.tensor(2.0, dtype=torch.float64).log() * per_character
    return {
        "bits_per_character": float(bits[-1].mean()),
        "error": float(bits[-1].std() / len(tokens) ** 0.5),
        "bits_after_calls": bits.mean(1).tolist(),
        "nats_per_token": float(nats[-1].mean()),
        "tokens": tokens.numel(),
        "tokens_per_character": per_character,
    }


def evaluate_causal(
    plan: Plan, denoiser: Denoiser, tokens: Tensor, options: CallOptions, device: torch.device
) -> dict[str, Any]:
    """Bits per character of held-out windows (n, t) after every call; with noise an upper bound
    (``tasks.causal.code_length``).

    The first tokens of a window have little before them, as in training.
    """
    tokens = tokens.to(device)
    return bits_row(token_nats(plan, denoiser, tokens, options), tokens, plan_vocabulary(plan))


def write_causal(
    plan: Plan,
    denoiser: Denoiser,
    options: TextSamplingOptions,
    calls: Calls,
    seed: int,
    device: torch.device,
) -> Iterator[str]:
    """One text in pieces as they are written, its prompt first; what is not yet a character waits for the next
    token."""
    vocabulary = plan_vocabulary(plan)
    given, count = options.to_write(vocabulary, plan_length(plan))
    readings = block_readings(plan, denoiser, calls.levels, 1)
    tokens = given.tolist()
    done = vocabulary.decode(given) if len(given) else ""
    yield done
    prompt = given[None].to(device)
    steps = write(readings, token_table(plan), prompt, count, calls, options.temperature, options.top_p, seed)
    for i, step in enumerate(steps):
        tokens.append(int(step[0]))
        text = vocabulary.decode(torch.tensor(tokens))
        if not text.endswith(UNFINISHED) or i == count - 1:
            yield text[len(done) :]
            done = text
