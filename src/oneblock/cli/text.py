"""What the verbs need for text: windows of a plan, scores in bits per character, samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.cli.text_options import TextSamplingOptions
from oneblock.data import TextBatches, TokenFile, TokenSource, Vocabulary, open_text
from oneblock.partition import Partition
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


def held_out(file: TokenFile, length: int, windows: int) -> Tensor:
    """So many windows of a text, or all that it has, spread evenly over it: int64 (n, length)."""
    if windows < 1:
        raise ValueError(f"windows={windows} leaves nothing to score; use 1 or more")
    starts, _ = file.windows(length)
    chosen = starts[torch.linspace(0, len(starts) - 1, min(windows, len(starts))).round().long().unique()]
    return file.read(chosen, length)


def tokens_per_character(tokens: Tensor, vocabulary: Vocabulary) -> float:
    """Of windows (n, t); what is not ASCII counts by its bytes."""
    return tokens.numel() / len("".join(vocabulary.decode(row) for row in tokens).encode())


def evaluate_text(
    plan: Plan, denoiser: DenoiserLike, tokens: Tensor, bands: Partition, draws: int, device: torch.device
) -> dict[str, Any]:
    """The bound of held-out windows, in nats per token and bits per character (or byte).

    Args:
        tokens: (n, t).
        bands: those that nats are reported of.
        draws: times of every band for each window.
    """
    bound = nelbo(denoiser, masked_task(plan), bands, tokens.to(device), draws)
    per_character = tokens_per_character(tokens, plan_vocabulary(plan))
    bits, error = bound.bits(per_character)
    return {
        "bits_per_character": bits,
        "error": error,
        "nats_per_token": bound.total,
        "nats_per_band": bound.bands,
        "tokens": tokens.numel(),
        "tokens_per_character": per_character,
    }


def sample_text(
    plan: Plan, denoiser: DenoiserLike, options: TextSamplingOptions, seed: int, device: torch.device
) -> list[str]:
    """Sequences of the plan's length that begin with the prompt."""
    task, vocabulary, length = masked_task(plan), plan_vocabulary(plan), plan_length(plan)
    given = options.prompts(vocabulary, length)
    tokens = torch.full((len(given), length), task.mask)
    tokens[:, : given.shape[1]] = given
    steps = reveal(
        denoiser,
        task.law,
        tokens.to(device),
        task.mask,
        options.reveals,
        options.order,
        options.temperature,
        options.top_p,
        seed,
    )
    *_, last = steps
    return [vocabulary.decode(row) for row in last.cpu()]
