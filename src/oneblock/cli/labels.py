"""Scores of classifiers: how often they are right after every call, and how well they know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.cli import console
from oneblock.condition import Frames
from oneblock.data import ImageSet, to_float
from oneblock.metrics import accuracy, expected_calibration_error, negative_log_likelihood
from oneblock.plan import Plan
from oneblock.presets import blockwise, classify_task, label_table
from oneblock.sample.labels import Answer, LabelPath, Pool, classify
from oneblock.train.shards import open_denoiser

BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How images are classified."""

    path: LabelPath = "mean"
    """how the noisy label goes from call to call: over expected class vectors, or by Euler's steps from noise"""
    pool: Pool | Literal["auto"] = "auto"
    """what the answer is made of: the last call, the mean of all calls' probabilities, or the mean of what all calls
    saw in the image (evidence; auto where blocks look at the noisy label, else probabilities)"""
    calls: int = 0
    """calls of the denoiser, at levels of equal mass (0: one for each block, at the upper edge of its band)"""
    draws: int = 1
    """noisy paths whose answers are averaged; needs --path euler"""
    confident: float = 1.0
    """an image takes no further call once a class has this probability"""
    noise_seed: int = 0
    """of the noise of --path euler"""

    def levels(self, plan: Plan) -> tuple[float, ...]:
        """The noise levels of the calls, noisiest first."""
        if self.calls < 0:
            raise ValueError(f"calls={self.calls} is no number of calls; use 1 or more (0: one for each block)")
        if self.calls in (0, plan.num_blocks):
            return plan.partition.edges[:-1]
        return plan.partition.law.edges(self.calls)[:-1]

    def pool_of(self, plan: Plan) -> Pool:
        """What the answer of a plan's blocks is made of."""
        if self.pool != "auto":
            return self.pool
        return "probabilities" if plan.architecture.get("noisy_token") == "none" else "evidence"

    def answer(self, plan: Plan, denoiser: DenoiserLike, images: Tensor) -> Answer:
        """Classify ``images`` (n, c, h, w), some at a time."""
        table, levels = label_table(plan).to(images), self.levels(plan)
        parts = [
            classify(
                denoiser,
                table,
                Frames(part),
                levels,
                self.path,
                self.pool_of(plan),
                self.draws,
                self.confident,
                seed=self.noise_seed + i,
            )
            for i, part in enumerate(images.split(BATCH))
        ]
        return Answer(torch.cat([p.probabilities for p in parts], 1), torch.cat([p.calls for p in parts]))


def evaluate_labels(
    plan: Plan, directory: Path, test: ImageSet, options: LabelOptions, device: torch.device
) -> dict[str, Any]:
    """Scores of a run or merged model on held-out images, as plain values."""
    task = classify_task(plan)
    if test.num_classes != task.num_classes:
        raise ValueError(
            f"the data have {test.num_classes} classes, the plan has {task.num_classes}; use the same data"
        )
    denoiser = open_denoiser(directory, blockwise(plan), device)
    answer = options.answer(plan, denoiser, to_float(test.images).to(device))
    layers = [len(plan.layer_range(int(b))) for b in plan.partition.block_at(torch.tensor(options.levels(plan)))]
    spent = torch.tensor([0, *layers]).cumsum(0)[answer.calls.cpu()].double().mean()
    return {
        **scores(answer.probabilities.cpu(), test.labels),
        "calls": float(answer.calls.double().mean()),
        "layers_per_image": float(spent) * options.draws,
    }


def show_labels(row: Mapping[str, Any]) -> None:
    """Print the scores of a classifier."""
    after = [(f"accuracy after call {i}", f"{value:.4f}") for i, value in enumerate(row["accuracies"], 1)]
    others = [(name, f"{row[name]:.4f}") for name in ("ece", "nll", "calls", "layers_per_image")]
    console.table("held-out images", ("score", "value"), [*after, *others])


def scores(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy after every call of ``probabilities`` (calls, n, k), and calibration of the last answer.

    A probability that was rounded to 0 counts as the smallest of its type, 87 nats in float32: scores stay finite.
    """
    last = probabilities[-1].clamp_min(torch.finfo(probabilities.dtype).tiny)
    return {
        "accuracies": [accuracy(p, labels) for p in probabilities],
        "accuracy": accuracy(last, labels),
        "ece": expected_calibration_error(last, labels),
        "nll": negative_log_likelihood(last, labels),
    }
