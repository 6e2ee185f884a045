"""Classifiers: how often they are right after every call, and how well they know it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import check_number
from oneblock.condition import Frames
from oneblock.data import ImageSet, to_float
from oneblock.evaluate.device import device_of
from oneblock.metrics import accuracy, expected_calibration_error, negative_log_likelihood
from oneblock.plan import Plan, nth_seed
from oneblock.presets.classify import label_table
from oneblock.presets.image import check_shape
from oneblock.presets.names import class_names, has_names
from oneblock.sample.calls import ANSWERS, Answers, Asking, Calls
from oneblock.sample.labels import Answer, classify

BATCH = 1000


def label_calls(plan: Plan, answers: Asking = ANSWERS) -> Calls:
    """How the blocks of a plan are called. Networks that do not look at the noisy label are an ensemble, whose
    probabilities are averaged unless ``answers`` say otherwise."""
    pool = answers.pool
    if pool == "auto":
        pool = "mean" if plan.architecture.get("noisy_token") == "none" else "evidence"
    return Calls(levels=answers.levels(plan), path=answers.path, pool=pool)


def classify_images(
    denoiser: DenoiserLike, plan: Plan, images: Tensor, answers: Answers = ANSWERS, confident: float = 1.0
) -> Answer:
    """Classify ``images``, uint8 or float in [-1, 1], (n, c, h, w), some at a time.

    Args:
        confident: an image takes no further call once a class has this probability; 1 takes all calls.

    Raises:
        ValueError: the images have another shape than those of the plan, or another dtype.
    """
    pixels = _pixels(plan, images).to(device_of(denoiser))
    table, calls = label_table(plan).to(pixels), label_calls(plan, answers)
    parts = [
        classify(
            denoiser, table, Frames(part), calls, answers.draws, confident, nth_seed(answers.noise_seed, i, "part")
        )
        for i, part in enumerate(pixels.split(BATCH))
    ]
    return Answer(torch.cat([p.probabilities for p in parts], 1), torch.cat([p.calls for p in parts]))


def check_confident(confident: float) -> None:
    """Refuse what is not a probability."""
    check_number("confident", confident, least=0, most=1)


def evaluate_labels(
    denoiser: DenoiserLike, plan: Plan, test: ImageSet, answers: Answers = ANSWERS, confident: float = 1.0
) -> dict[str, Any]:
    """Scores on held-out images: accuracy after every call, calibration, likelihood, calls and layers per image.

    Raises:
        ValueError: the images have another shape or other classes than those of the plan.
    """
    check_shape(plan, test.shape, test.num_classes)
    answer = classify_images(denoiser, plan, test.images, answers, confident)
    layers = [len(plan.layer_range(int(b))) for b in plan.partition.block_at(torch.tensor(answers.levels(plan)))]
    spent = torch.tensor([0, *layers]).cumsum(0)[answer.calls.cpu()].double().mean()
    return {
        **label_scores(answer.probabilities.cpu(), test.labels),
        **by_class(plan, answer.probabilities[-1].argmax(-1).cpu() == test.labels, test.labels, "accuracy_by_class"),
        "calls": float(answer.calls.double().mean()),
        "layers_per_image": float(spent) * answers.draws,
    }


def by_class(plan: Plan, right: Tensor, labels: Tensor, score: str) -> dict[str, dict[str, float | None]]:
    """``{score: {name: share}}``, the share of ``right``, bool (n,), among samples of each class of ``labels`` (n,);
    None for a class without samples. Nothing of a plan without names of classes.
    """
    if not has_names(plan):
        return {}
    shares = [right[labels == label] for label in range(len(class_names(plan)))]
    found = [float(share.double().mean()) if len(share) else None for share in shares]
    return {score: dict(zip(class_names(plan), found, strict=True))}


def _pixels(plan: Plan, images: Tensor) -> Tensor:
    """The images as the network takes them, float32 (n, c, h, w)."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images is a {type(images).__name__}; give a tensor (n, channels, height, width)")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images have dtype {images.dtype}; use torch.uint8, or floating point in [-1, 1]")
    if not images.ndim:
        raise ValueError("images is a single number; give a tensor (n, channels, height, width)")
    check_shape(plan, tuple(images.shape[1:]))
    return to_float(images) if images.dtype == torch.uint8 else images.float()


def label_scores(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy after every call of ``probabilities`` (calls, n, k) for ``labels`` (n,), and calibration of the last
    answer.

    A probability that was rounded to 0 counts as the smallest of its type, 87 nats in float32: scores stay finite.
    """
    last = probabilities[-1].clamp_min(torch.finfo(probabilities.dtype).tiny)
    return {
        "accuracies": [accuracy(p, labels) for p in probabilities],
        "accuracy": accuracy(last, labels),
        "ece": expected_calibration_error(last, labels),
        "nll": negative_log_likelihood(last, labels),
    }
