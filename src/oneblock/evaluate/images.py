"""Image generators: samples, held-out loss per band, and the quality of generated images."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from oneblock.blockwise import Denoiser, DenoiserLike
from oneblock.checks import check_count, check_fields, check_seed
from oneblock.condition import Condition
from oneblock.data import Codec, EncodedSource, to_uint8
from oneblock.evaluate.bands import band_losses
from oneblock.evaluate.captions import (
    are_scenes,
    captions_in_turn,
    scene_agreement,
    scored_captions,
    told_in_turn,
)
from oneblock.evaluate.common import common_loss
from oneblock.evaluate.device import at_borders, device_of, dtype_of, recorded, routers
from oneblock.evaluate.protocol import (
    FID_PROTOCOL,
    LOSS_PROTOCOL,
    PROTOCOL,
    Conditions,
    LossProtocol,
    Protocol,
    Weights,
    dtype_name,
    hash_of_images,
)
from oneblock.evaluate.reference import (
    PIXELS,
    agreement_by_class,
    check_features,
    held_out_targets,
    makes_images,
    quality_features,
    reference,
    told_classes,
)
from oneblock.evaluate.retrieval import retrieval_judge, retrieval_scores
from oneblock.guidance import ClassifierFree, check_guidance
from oneblock.metrics import FeatureExtractor, image_quality
from oneblock.metrics.detail import image_detail
from oneblock.metrics.features import extractor_hash, hash_of_file
from oneblock.metrics.quality import FID_EXTRACTOR, real_fid
from oneblock.noise import LogNormal
from oneblock.partition import Partition
from oneblock.plan import Plan
from oneblock.presets.captions import is_captioned, told_captions
from oneblock.presets.codec import plan_codec
from oneblock.presets.image import image_shape, image_task, source_task
from oneblock.presets.names import class_labels
from oneblock.presets.objective import MEANFLOW, FlowTime, flow_shift
from oneblock.presets.relay import hands_on
from oneblock.presets.splits import check_fit
from oneblock.sample import SAMPLERS, equal_mass_grid, flow_grid, karras_grid
from oneblock.sample.carry import Carry
from oneblock.sample.generate import CHUNK, generate
from oneblock.tasks.image import ImageGeneration
from oneblock.train.machine import Switch, captures

NUM_SAMPLES = 2000
"""Images that are generated for scores."""

MOST_SAMPLE_SEED = 2**32 - 1
"""It is multiplied before it reaches a generator (``sample.generate``)."""

SamplerName = Literal["euler", "heun", "dpm++2m", "churn", "jump"]
GridName = Literal["equal-mass", "karras", "flow", "objective"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are generated."""

    sampler: SamplerName = "dpm++2m"
    """solver"""
    steps: int = 24
    """steps; with --grid equal-mass a multiple of the number of blocks"""
    grid: GridName = "karras"
    """where the steps lie: as EDM places them, within its range; the same number for every block; equal steps in the
    time of a flow, shifted as in training; or as the model was trained, flow for the objectives of a flow and karras
    for EDM's"""
    guidance: float = 1.0
    """classifier-free guidance scale; 1 means no guidance"""
    guidance_interval: tuple[float, float] = (0.0, 80.0)
    """noise levels between which guidance acts"""
    sample_seed: int = 0
    """seed of the starting noise"""
    state: Carry = "private"
    """where the state goes that a call leaves, of a model with --carry: to the next call of its band (private); the
    same, and the first call of a band is made twice (twice); also to the next band, of blocks with a common trunk
    (across); or nowhere (off)"""

    def __post_init__(self) -> None:
        check_fields(self)
        check_guidance(self.guidance, self.guidance_interval)
        check_seed("sample_seed", self.sample_seed, MOST_SAMPLE_SEED)

    def levels(self, plan: Plan) -> Tensor:
        """The noise levels (steps + 1,), descending to 0. A plan whose states cannot go where ``state`` says is a
        ``ValueError``."""
        check_state(plan, self.state)
        self._check_jumps(plan)
        if self.grid == "equal-mass":
            return equal_mass_grid(plan.partition, self.steps)
        law, shift = plan.partition.law, flow_shift(plan)
        if self.grid == "flow" or (self.grid == "objective" and shift is not None):
            return flow_grid(law.low, law.high, self.steps, FlowTime.shift if shift is None else shift)
        return karras_grid(max(law.low, LogNormal.sigma_min), min(law.high, LogNormal.sigma_max), self.steps)

    def _check_jumps(self, plan: Plan) -> None:
        """Refuse long steps of a plan that was not trained for them, with a ``ValueError``."""
        if self.sampler != "jump":
            return
        if plan.recipe.get("objective") != MEANFLOW:
            raise ValueError(
                "sampler='jump' is for models that are told where a step ends; this one was trained without "
                "--objective meanflow"
            )
        if self.guidance != 1:
            raise ValueError(f"guidance={self.guidance} mixes velocities of a moment; with sampler='jump' use 1")
        if plan.num_blocks > 1 and self.grid != "equal-mass":
            raise ValueError(
                f"grid={self.grid!r}: with sampler='jump' no step may cross the border of a band; use equal-mass, with "
                f"{plan.num_blocks} steps or a multiple"
            )

    def layer_evaluations(self, plan: Plan) -> int:
        """Work of one sample at most: every call goes through the deepest block, with guidance twice."""
        calls = SAMPLERS[self.sampler].calls(self.steps) + (plan.num_blocks if self.state == "twice" else 0)
        return calls * plan.sample_evaluations(max(plan.layers)) * (1 if self.guidance == 1 else 2)

    def settings(self) -> dict[str, Any]:
        """As plain values, those that were there before states without them."""
        values = asdict(self)
        return values if self.state != type(self).state else {k: v for k, v in values.items() if k != "state"}


def check_state(plan: Plan, state: Carry) -> None:
    """Refuse, with a ``ValueError``, a way of states that a plan was not trained for."""
    if state == Sampling.state:
        return
    if not hands_on(plan):
        raise ValueError(f"state={state!r} is for models that hand states on; this one was trained without --carry")
    if state == "across" and plan.num_blocks > 1 and not plan.recipe.get("branch"):
        raise ValueError(
            "state='across' lets blocks read each other's states, but these blocks have no common trunk; use private, "
            "twice or off, or train with --branch"
        )


def sample_images(
    denoiser: DenoiserLike,
    plan: Plan,
    labels: Tensor | Condition | None,
    sampling: Sampling = Sampling(),
    codec: Codec = PIXELS,
    *,
    count: int | None = None,
    batch_size: int = CHUNK,
    capture: Switch = "auto",
) -> Tensor:
    """Images uint8 (n, c, h, w); where the targets are not images (``makes_images``) float32 (n, *shape), as they are.

    Sample i follows from its label or caption and (``sampling.sample_seed``, i) alone, up to rounding.

    Args:
        labels: int64 (n,); the captions of a plan that is told such (``evaluate.captions``); None for a plan without.
        codec: what the plan's data went through.
        count: n, for a plan without classes.
        batch_size: samples of one call of the denoiser.
        capture: record calls of each block once and replay them (auto: on CUDA); blocks keep their recordings. Calls
            that hand states on are not recorded.

    Raises:
        ValueError: the plan does not have these labels, it has classes and ``labels`` is None, or ``count`` is given
            beside ``labels``.
    """
    device = device_of(denoiser)
    told = _told(plan, labels, count).to(device)
    carry = hands_on(plan) and sampling.state != "off"
    if carry:
        asked = at_borders(denoiser, sampling.state)
    else:
        asked = recorded(denoiser, _warn) if captures(device, capture) else denoiser
    guided = ClassifierFree(asked, sampling.guidance, sampling.guidance_interval)
    sampler, grid = SAMPLERS[sampling.sampler], sampling.levels(plan).to(device)
    shape, seed = image_shape(plan), sampling.sample_seed
    with _reading_ahead(routers(denoiser)) as waiting:
        samples = generate(guided, sampler, grid, told, shape, seed, batch_size, waiting, carry)
    decoded = codec.decode(plan_codec(plan).decode(samples.float().cpu()))
    return to_uint8(decoded) if makes_images(plan, codec) else decoded


@contextmanager
def _reading_ahead(denoisers: Sequence[Denoiser]) -> Iterator[Callable[[int], None]]:
    """Gives what tells the denoisers how many samples wait; in the end nothing stays that they have read ahead."""

    def waiting(samples: int) -> None:
        for denoiser in denoisers:
            denoiser.expect(again=samples > 0)

    try:
        yield waiting
    finally:
        for denoiser in denoisers:
            denoiser.settle()


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=2)


def asked_labels(
    plan: Plan, labels: Sequence[int | str] | Tensor | None = None, count: int | None = None
) -> Tensor | Condition | None:
    """The classes of the samples that are asked for, for ``sample_images``: ``labels``, by number or by name; else all
    classes in turn, once each or ``count`` samples in all. None for a plan without classes. Of a plan that is told
    captions, those that it holds in the same way."""
    if is_captioned(plan):
        if labels is not None:
            raise ValueError("labels are given, but the model is told captions; give captions=... (--caption TEXT)")
        return told_captions(plan, captions_in_turn(plan, count))
    if labels is not None:
        asked = [labels] if isinstance(labels, str) else labels
        if isinstance(asked, Sequence) and any(isinstance(label, str) for label in asked):
            return torch.tensor(class_labels(plan, asked))
        try:
            return torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"labels={labels!r} are not classes; use whole numbers from 0 on") from error
    if count is not None:
        check_count("count", count)
    classes = image_task(plan).num_classes
    return torch.arange(classes if count is None else count) % classes if classes else None


def image_protocol(
    denoiser: DenoiserLike,
    plan: Plan,
    known: Tensor,
    *,
    reference: str,
    features: FeatureExtractor | None,
    num_samples: int,
    sampling: Sampling,
    weights: Weights = "averaged",
) -> Protocol:
    """How ``num_samples`` images of a plan are made, and compared with the real images ``known`` (n, c, h, w)."""
    conditions: Conditions = "classes-in-turn" if image_task(plan).num_classes else "none"
    if is_captioned(plan):
        conditions = "captions-in-order"
    return Protocol(
        num_samples=num_samples,
        conditions=conditions,
        weights=weights,
        dtype=dtype_name(dtype_of(denoiser)),
        extractor="none" if features is None else features.name,
        extractor_hash="" if features is None else extractor_hash(features),
        reference=reference,
        reference_hash=hash_of_images(known),
        num_reference=len(known),
        **asdict(sampling),
    )


def evaluate_images(
    denoiser: DenoiserLike,
    plan: Plan,
    train: EncodedSource | None,
    test: EncodedSource,
    *,
    bands: Partition | None = None,
    num_samples: int = NUM_SAMPLES,
    extractor: str = "",
    sampling: Sampling = Sampling(),
    fid_weights: Path | None = None,
    weights: Weights = "averaged",
    detail: bool = False,
    common: bool = False,
) -> dict[str, Any]:
    """All scores of an image generator, with the protocols that they were taken by (``evaluate.protocol``).

    Held-out denoising loss per band, and the quality of ``num_samples`` generated images (``metrics.quality``) beside
    that of held-out ones; class agreement where the extractor is a classifier; agreement with captions where these are
    told (``evaluate.retrieval``, of scenes also ``evaluate.captions``). Without samples, and for targets that are not
    images, only the losses.

    Args:
        train, test: images of both splits. Where ``train`` is None, or the same as ``test``, generated images are
            compared with ``test``, and the floors are None.
        bands: those that losses are reported on (None: the plan's own).
        extractor: name of the features that images are compared on (empty: what fits the plan's data).
        fid_weights: file of torch-fidelity's Inception weights, for the published FID on the training images.
        weights: which ones the denoiser has, for the protocols; those that are read from a run are averages.
        detail: also MIND, interval and limit of the Frechet distance, and the classifier score (``metrics.detail``),
            for which features are taken once more.
        common: take losses by which plans of different objectives and codecs compare (``evaluate.common``).

    Raises:
        ValueError: the data have another shape, other classes or another autoencoder than the plan.
    """
    check_fit(plan, test)
    if detail and not num_samples:
        raise ValueError("detail=True scores generated images, but num_samples=0 asks for none; leave one of them out")
    compared = _compared(plan, train, test, num_samples, extractor, sampling)  # refused, if at all, before any work
    scores = _held_out_losses(denoiser, plan, test, bands or plan.partition, weights, common)
    made = _sample_scores(denoiser, plan, train, test, compared, num_samples, sampling, fid_weights, weights, detail)
    return scores | made


def evaluate_samples(
    denoiser: DenoiserLike,
    plan: Plan,
    train: EncodedSource | None,
    test: EncodedSource,
    *,
    num_samples: int = NUM_SAMPLES,
    extractor: str = "",
    sampling: Sampling = Sampling(),
) -> dict[str, Any]:
    """The scores of generated images alone; arguments and errors as of ``evaluate_images``."""
    check_fit(plan, test)
    compared = _compared(plan, train, test, num_samples, extractor, sampling)
    return _sample_scores(denoiser, plan, train, test, compared, num_samples, sampling, None, "averaged", False)


class _Compared(NamedTuple):
    """What generated images are compared on, and why not, if nothing is."""

    features: FeatureExtractor | None
    left_out: str


def _compared(
    plan: Plan,
    train: EncodedSource | None,
    test: EncodedSource,
    num_samples: int,
    extractor: str,
    sampling: Sampling,
) -> _Compared:
    if num_samples:
        sampling.levels(plan)
    left_out = check_features(plan, extractor, num_samples) if makes_images(plan, test.codec) else ""
    return _Compared(quality_features(plan, train, test, num_samples, extractor), left_out)


def _held_out_losses(
    denoiser: DenoiserLike, plan: Plan, test: EncodedSource, bands: Partition, weights: Weights, common: bool
) -> dict[str, Any]:
    """The held-out loss of each band, with states too where they are handed on, and the protocol."""
    device = device_of(denoiser)
    task = source_task(plan, test).to(device)
    targets, labels = held_out_targets(test)
    if labels is None or not task.num_classes:
        labels = torch.zeros(len(targets), dtype=torch.int64)
    weighed, scored = common_loss(denoiser, plan, task) if common else (denoiser, task)
    held_out_samples = scored.codec.encode(targets).to(device), labels.to(device)
    losses = band_losses(weighed, scored, bands, *held_out_samples)
    scores: dict[str, Any] = {"band_losses": losses, "loss": sum(losses) / len(losses)}
    if hands_on(plan):
        losses = band_losses(weighed, scored, bands, *held_out_samples, owners=plan.partition)
        scores |= {"band_losses_with_state": losses, "loss_with_state": sum(losses) / len(losses)}
    taken = LossProtocol(
        weights=weights,
        dtype=dtype_name(dtype_of(denoiser)),
        held_out=test.name,
        held_out_hash=_targets_hash(test, scored),
        num_held_out=len(targets),
        edges=bands.edges,
    )
    return {**scores, LOSS_PROTOCOL: taken.as_row()}


def _sample_scores(
    denoiser: DenoiserLike,
    plan: Plan,
    train: EncodedSource | None,
    test: EncodedSource,
    compared: _Compared,
    num_samples: int,
    sampling: Sampling,
    fid_weights: Path | None,
    weights: Weights,
    detail: bool,
) -> dict[str, Any]:
    """The scores of ``num_samples`` generated images, as far as they can be compared, and the protocol."""
    features = compared.features
    captions = scored_captions(plan, test, num_samples) if is_captioned(plan) and num_samples else []
    seen = bool(captions) and makes_images(plan, test.codec)
    scenes = seen and are_scenes(test.first(1).images, captions)
    judge = retrieval_judge(plan, train, test, captions) if seen else ""
    unranked = judge if isinstance(judge, str) else ""
    scores: dict[str, Any] = {"note": compared.left_out} if features is None and compared.left_out else {}
    if features is None and not scenes and isinstance(judge, str):
        return _noted(scores, unranked)
    known, held_out = reference(train, test, num_samples)
    asked = told_in_turn(plan, test, num_samples)
    made = image_protocol(
        denoiser,
        plan,
        known,
        reference=(train or test).name,
        features=features,
        num_samples=num_samples,
        sampling=sampling,
        weights=weights,
    )
    count = num_samples if asked is None else None
    began = time.perf_counter()
    images = sample_images(denoiser, plan, asked, sampling, test.codec, count=count)
    seconds = time.perf_counter() - began
    if scenes:
        scores |= scene_agreement(images, captions, test)
    if features is not None:
        told = told_classes(plan, features, images, asked if isinstance(asked, Tensor) else None)
        scores |= image_quality(known, held_out, images, features, told).as_row()
        scores |= agreement_by_class(plan, features, images, told)
        scores |= image_detail(known, held_out, images, features).as_row() if detail else {}
        scores |= _published(known, images, made, fid_weights) if fid_weights else {}
    if not isinstance(judge, str):
        scores |= retrieval_scores(judge, images, captions, test, known, held_out, made)
    return {
        **_noted(scores, unranked),
        PROTOCOL: made.as_row(),
        "sampling_seconds": seconds,
        "images_per_second": num_samples / seconds,
    }


def _noted(scores: dict[str, Any], note: str) -> dict[str, Any]:
    """``scores`` with one more note, if it says anything."""
    said = "; ".join(filter(None, (scores.get("note", ""), note)))
    return {**scores, "note": said} if note else scores


def _targets_hash(test: EncodedSource, task: ImageGeneration) -> str:
    """Tells what losses are taken on from other targets."""
    codec, images = task.codec.fingerprint(), test.fingerprint()
    return hashlib.sha256(f"{images} {codec}".encode()).hexdigest()[:16] if codec else images


def _published(known: Tensor, images: Tensor, made: Protocol, weights: Path) -> dict[str, Any]:
    """The published FID of images that were ``made`` so, and its own protocol."""
    by_inception = replace(made, extractor=FID_EXTRACTOR, extractor_hash=hash_of_file(weights))
    return {"fid": real_fid(known, images, weights), FID_PROTOCOL: by_inception.as_row()}


def _told(plan: Plan, labels: Tensor | Condition | None, count: int | None) -> Condition:
    """What samples are told, checked."""
    if is_captioned(plan) != isinstance(labels, Condition):
        needs = "captions (evaluate.captions.read_captions)" if is_captioned(plan) else "labels, or a count"
        raise ValueError(f"labels are a {type(labels).__name__}, but the plan needs {needs}")
    if isinstance(labels, Condition):
        if count is not None:
            raise ValueError(f"count={count} is given beside captions, which say how many; use one of them")
        return labels
    return image_task(plan).condition(_no_labels(plan, count) if labels is None else _whole_labels(plan, labels, count))


def _no_labels(plan: Plan, count: int | None) -> Tensor:
    task = image_task(plan)
    if task.num_classes:
        raise ValueError(f"labels=None, but the plan has {task.num_classes} classes; give the class of each sample")
    if count is None:
        raise ValueError("count=None, but a model without classes needs a number of samples; use count=1 or more")
    check_count("count", count)
    return torch.zeros(count, dtype=torch.int64)


def _whole_labels(plan: Plan, labels: Tensor, count: int | None) -> Tensor:
    """The labels int64 (n,), which must be classes of the plan."""
    classes = image_task(plan).num_classes
    if not classes:
        raise ValueError("labels are given, but the plan has no classes; use labels=None and count=...")
    if count is not None:
        raise ValueError(f"count={count} is given beside labels, which say how many; use one of them")
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; give one class for each sample, (n,)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels have dtype {labels.dtype}; use whole numbers from 0 to {classes - 1}")
    wrong = sorted({label for label in labels.tolist() if not 0 <= label < classes})
    if wrong:
        raise ValueError(f"classes={wrong} do not exist; use 0 to {classes - 1}")
    return labels.long()
