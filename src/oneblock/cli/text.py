"""What the verbs need for text: windows of a plan, scores in bits per character, samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from oneblock.blockwise import DenoiserLike
from oneblock.cli.text_options import TextSamplingOptions
from oneblock.data import TextBatches, TokenFile, TokenSource, open_text
from oneblock.plan import Plan
from oneblock.presets import masked_task, plan_length, plan_vocabulary
from oneblock.sample.masked import reveal
from oneblock.tasks.masked import nelbo


def plan_text(plan: Plan, split: str, data: str = "", root: Path | None = None) -> TokenFile:
    """A split of the text of a plan, in the plan's vocabulary; ``data`` names another text or place."""
    return open_text(data or cast(str, plan.recipe["data"]), split, plan_vocabulary(plan), root=root)  # type: ignore[arg-type]


def text_batches(plan: Plan, file: TokenFile) -> TextBatches:
    """Training windows of a plan; another text than the plan's is refused."""
    if plan.recipe["fingerprint"] != file.fingerprint():
        raise ValueError(
            f"the text of {file.path} has fingerprint {file.fingerprint()}, the plan was made for "
            f"{plan.recipe['fingerprint']}; use the same text and vocabulary"
        )
    return TextBatches(TokenSource(file, plan_length(plan)))


def evaluate_text(
    plan: Plan, denoiser: DenoiserLike, file: TokenFile, windows: int, draws: int, device: torch.device
) -> dict[str, Any]:
    """The bound of held-out text, in nats per token and bits per character (or byte) of what was looked at.

    Args:
        windows: so many, spread evenly over the text.
        draws: times of every band for each window.
    """
    length = plan_length(plan)
    starts, _ = file.windows(length)
    chosen = starts[torch.linspace(0, len(starts) - 1, min(windows, len(starts))).round().long().unique()]
    tokens = file.read(chosen, length).to(device)
    bound = nelbo(denoiser, masked_task(plan), plan.partition, tokens, draws)
    text = "".join(file.vocabulary.decode(row) for row in tokens.cpu())
    per_character = tokens.numel() / len(text.encode())
    bits, error = bound.bits(per_character)
    return {
        "bits_per_character": bits,
        "error": error,
        "nats_per_token": bound.total,
        "nats_per_band": bound.bands,
        "tokens": tokens.numel(),
        "tokens_per_character": per_character,
    }


def check_count(count: int) -> None:
    """Refuse to write nothing."""
    if count < 1:
        raise ValueError(f"count={count} writes nothing; use 1 or more")


def sample_text(
    plan: Plan, denoiser: DenoiserLike, options: TextSamplingOptions, seed: int, device: torch.device
) -> list[str]:
    """Sequences of the plan's length that begin with the prompt."""
    task, vocabulary, length = masked_task(plan), plan_vocabulary(plan), plan_length(plan)
    check_count(options.count)
    tokens = torch.full((options.count, length), task.mask, device=device)
    if options.prompt:
        given = vocabulary.encode(options.prompt)
        if len(given) >= length:
            raise ValueError(
                f"prompt={options.prompt[:40]!r} has {len(given)} tokens, the network sees {length}; cut the prompt"
            )
        tokens[:, : len(given)] = given.to(device)
    steps = reveal(
        denoiser,
        task.law,
        tokens,
        task.mask,
        options.reveals,
        options.order,
        options.temperature,
        options.top_p,
        seed,
    )
    *_, last = steps
    return [vocabulary.decode(row) for row in last.cpu()]
