"""Quality of generated images against the work of generating them: one denoiser, several numbers of steps and solvers.

Networks are compared at equal steps in most tables, which flatters those of few layers. Here the work of a sample is
counted in layer evaluations, whatever a call costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import MANY, check_count
from oneblock.data import EncodedSource
from oneblock.evaluate.captions import told_in_turn
from oneblock.evaluate.images import SamplerName, Sampling, image_protocol, sample_images
from oneblock.evaluate.protocol import PROTOCOL, Protocol
from oneblock.evaluate.reference import FEWEST, quality_features, reference
from oneblock.metrics import FeatureExtractor, frechet_distance, moments
from oneblock.plan import Plan
from oneblock.presets.relay import hands_on
from oneblock.sample.carry import Carry

SOLVERS: tuple[SamplerName, ...] = ("euler", "dpm++2m")
"""One call a step each."""


def layer_evaluations(plans: Sequence[Plan], sampling: Sampling) -> int:
    """Work of one sample by a solver of ``SOLVERS``: a call goes through the layers of the block that owns its level,
    twice where it is guided; with ``state="twice"`` a branch that comes without a state is asked once more. The
    networks of several plans are all called."""
    lower, upper = sampling.guidance_interval
    work = 0
    for plan in plans:
        levels, told, untold = sampling.levels(plan)[:-1], -1, -1  # whose states the branches have
        for level, block in zip(levels.tolist(), plan.partition.block_at(levels).tolist(), strict=True):
            guided = sampling.guidance != 1 and lower <= level <= upper
            calls = 2 if guided else 1
            if sampling.state == "twice":
                calls += (block != told) + (guided and block != untold)
            work += plan.sample_evaluations(plan.layers[block]) * calls
            told, untold = block, block if guided else -1
    return work


def samplings(plan: Plan, sampling: Sampling, steps: Sequence[int]) -> list[Sampling]:
    """``sampling`` with each solver and each number of ``steps`` that its grid allows for ``plan``, fewest first."""
    every = [replace(sampling, sampler=solver, steps=count) for solver in SOLVERS for count in sorted(set(steps))]
    return [one for one in every if not _refusal(plan, one)]


def check_curve(plans: Sequence[Plan], sampling: Sampling, steps: Sequence[int], num_samples: int) -> None:
    """Refuse, before any work, a number of ``steps`` that no plan can be sampled with, and too few samples."""
    check_count("sampling_images", num_samples, least=FEWEST)
    for count in steps:
        check_count("sampling_steps", count, most=MANY)
        refusals = [_refusal(plan, replace(sampling, steps=count)) for plan in plans]
        if all(refusals):
            raise ValueError(f"sampling_steps: {refusals[0]}")


def sampling_curve(
    denoiser: DenoiserLike,
    plans: Sequence[Plan],
    train: EncodedSource,
    test: EncodedSource,
    *,
    steps: Sequence[int],
    num_samples: int,
    sampling: Sampling,
    extractor: str = "",
) -> list[dict[str, Any]]:
    """One row for each solver and number of steps: ``sampler``, ``steps``, ``layer_evaluations`` of one sample, and
    the ``frechet`` distance of ``num_samples`` images to the training images. Empty for targets that are not images,
    and where the features that fit the data are not installed.

    Args:
        plans: of the networks that every call asks: one, or all of an ensemble.
        steps: numbers of steps; those that the grid does not allow for these plans are left out.
        sampling: grid, guidance and seed.
        extractor: name of the features that images are compared on (empty: what fits the plan's data).
    """
    plan = plans[0]
    features = quality_features(plan, train, test, num_samples, extractor)
    if features is None:
        return []
    known = reference(train, test, num_samples)[0]
    real, made = moments(features(known)), _protocol(denoiser, plan, known, train, features, num_samples, sampling)
    labels = told_in_turn(plan, test, num_samples)
    count = num_samples if labels is None else None
    rows = []
    for one in samplings(plan, sampling, steps):
        images = sample_images(denoiser, plan, labels, one, test.codec, count=count)
        rows.append(
            {
                "sampler": one.sampler,
                "steps": one.steps,
                "layer_evaluations": layer_evaluations(plans, one),
                "frechet": frechet_distance(real, moments(features(images))),
                PROTOCOL: replace(made, **asdict(one)).as_row(),
            }
        )
    return rows


def state_distances(
    denoiser: DenoiserLike,
    plans: Sequence[Plan],
    train: EncodedSource,
    test: EncodedSource,
    *,
    num_samples: int,
    sampling: Sampling,
    extractor: str = "",
) -> list[dict[str, Any]]:
    """One row for each way that a state may go (``sample.carry.Carry``): ``state``, ``layer_evaluations`` of a sample,
    ``frechet`` and its protocol. Empty for networks that hand nothing on; arguments as of ``sampling_curve``."""
    plan = plans[0]
    features = quality_features(plan, train, test, num_samples, extractor) if hands_on(plan) else None
    if features is None:
        return []
    known = reference(train, test, num_samples)[0]
    real, made = moments(features(known)), _protocol(denoiser, plan, known, train, features, num_samples, sampling)
    labels = told_in_turn(plan, test, num_samples)
    count = num_samples if labels is None else None
    rows = []
    for state in get_args(Carry):
        one = replace(sampling, state=state)
        if not _refusal(plan, one):
            images = sample_images(denoiser, plan, labels, one, test.codec, count=count)
            work, distance = layer_evaluations(plans, one), frechet_distance(real, moments(features(images)))
            by = replace(made, **asdict(one)).as_row()
            rows.append({"state": state, "layer_evaluations": work, "frechet": distance, PROTOCOL: by})
    return rows


def _protocol(
    denoiser: DenoiserLike,
    plan: Plan,
    known: Tensor,
    train: EncodedSource,
    features: FeatureExtractor,
    num_samples: int,
    sampling: Sampling,
) -> Protocol:
    """The protocol of all rows, before each one's own sampling."""
    return image_protocol(
        denoiser,
        plan,
        known,
        reference=train.name,
        features=features,
        num_samples=num_samples,
        sampling=sampling,
    )


def _refusal(plan: Plan, sampling: Sampling) -> str:
    """Why the grid does not allow these steps; empty if it does."""
    try:
        sampling.levels(plan)
    except ValueError as error:
        return str(error)
    return ""
