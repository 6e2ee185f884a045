"""Video generators: streams of frames, held-out loss per band, and how what they make moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from oneblock.blockwise import Denoiser, DenoiserLike
from oneblock.checks import check_count, check_fields, check_seed
from oneblock.condition import Condition
from oneblock.data import ClipCodec, EncodedSource, Framewise, clip_codec, to_float, to_uint8
from oneblock.data.bouncing import Bouncing
from oneblock.data.clips import ClipDecoder
from oneblock.data.videoset import in_colour
from oneblock.evaluate.bands import band_losses
from oneblock.evaluate.device import device_of
from oneblock.evaluate.images import MOST_SAMPLE_SEED
from oneblock.guidance import check_guidance
from oneblock.metrics.frechet import frechet_distance, moments
from oneblock.metrics.motion import FRAME_PAIRS, frame_pairs, place_errors
from oneblock.models.video import check_bound, frame_blocks
from oneblock.partition import Partition
from oneblock.plan import Plan
from oneblock.presets.image import image_shape
from oneblock.presets.splits import check_fit
from oneblock.presets.video import clean_level, plan_frame_blocks, video_task
from oneblock.sample import SAMPLERS, Sampler, equal_mass_grid, flow_grid, karras_grid
from oneblock.sample.kept import Belongs, restore_stream, save_stream
from oneblock.sample.stream import RENOISE, Reader, SampleNoise, Stream, reader
from oneblock.tasks.base import Loss, Noised
from oneblock.tasks.video import VideoGeneration, everywhere, two_streams

VideoSamplerName = Literal["euler", "heun", "dpm++2m", "churn", "renoise"]
VideoGrid = Literal["flow", "equal-mass", "karras"]
VIDEO_SAMPLERS: dict[str, Sampler] = {**SAMPLERS, "renoise": RENOISE}
NUM_CLIPS = 100
"""Clips that are generated for scores."""
TIMES_LONGER = 3
"""How many training clips long rollouts are."""
BATCH = 50
"""Clips of one call of the denoiser."""
CLIP_PIXELS = Framewise()
"""The codec of clips of pixels."""


@dataclass(frozen=True, kw_only=True)
class VideoSampling:
    """How videos are generated."""

    sampler: VideoSamplerName = "dpm++2m"
    """solver; renoise puts fresh noise on every answer, for a few steps"""
    steps: int = 12
    """steps for each block of frames; with --grid equal-mass a multiple of the number of blocks of layers"""
    grid: VideoGrid = "flow"
    """where the steps lie: even in the flow's time, the same number for every block of layers, or as EDM places them"""
    guidance: float = 1.0
    """classifier-free guidance scale; 1 means no guidance"""
    guidance_interval: tuple[float, float] = (0.0, 1e6)
    """noise levels between which guidance acts"""
    sample_seed: int = 0
    """seed of the noise"""

    def __post_init__(self) -> None:
        check_fields(self)
        check_guidance(self.guidance, self.guidance_interval)
        check_seed("sample_seed", self.sample_seed, MOST_SAMPLE_SEED)

    def levels(self, plan: Plan) -> Tensor:
        """The noise levels (steps + 1,), descending to 0."""
        law = plan.partition.law
        if self.grid == "equal-mass":
            return equal_mass_grid(plan.partition, self.steps)
        if self.grid == "karras":
            return karras_grid(law.low, law.high, self.steps)
        return flow_grid(law.low, law.high, self.steps, cast(float, plan.recipe["shift"]))

    def frame_evaluations(self, plan: Plan) -> int:
        """Layer evaluations of a frame at most: every call goes through the deepest block of layers, the commit through
        all of them; with guidance twice."""
        calls = VIDEO_SAMPLERS[self.sampler].calls(self.steps) * max(plan.layers) + plan.depth
        return calls * (1 if self.guidance == 1 else 2)


def stream_videos(
    denoiser: Denoiser,
    plan: Plan,
    labels: Tensor,
    frames: int = 0,
    sampling: VideoSampling = VideoSampling(),
    *,
    codec: ClipCodec = CLIP_PIXELS,
    first: Tensor | None = None,
    state: Path | None = None,
    start: int = 0,
    told: Callable[[Reader], None] = lambda reading: None,
) -> VideoStream:
    """Blocks of frames uint8 (n, f, c, h, w) of n videos, as they are made. Sample i follows from its label, its first
    frames and (``sampling.sample_seed``, i) alone, up to rounding, and from where the blocks of frames begin.

    Args:
        labels: int64 (n,); of a plan without classes they only say how many.
        frames: of each video; 0 goes on without end. A network that sees whole clips makes one block of them.
        codec: what the plan's data went through. Frames are counted before it, blocks of them behind it.
        first: uint8 (n, k, c, h, w), the frames that the videos begin with, k of 1 or more; with an autoencoder they
            come back as it decodes them.
        state: a file that ``VideoStream.save`` wrote: the videos go on from there, ``frames`` more.
        start: place of the first of these videos among all that follow from the seed.
        told: called with what reads before every block but the first.

    Raises:
        ValueError: the levels, the frames or the first frames do not fit the plan or its codec, the codec decodes whole
            clips alone, or the state is of another plan, of other labels or another guidance.
    """
    decoder = codec.decoder()
    made, belongs = _stream(
        denoiser, plan, labels, frames, sampling, codec, first=first, later=state is not None, start=start, told=told
    )
    if state is not None:
        decoder.restore(restore_stream(state, made, belongs, device_of(denoiser)))
        _check_position(plan, made.frames, codec.num_encoded(frames, later=True))
    return VideoStream(made, belongs, codec, decoder)


def _stream(
    denoiser: Denoiser,
    plan: Plan,
    labels: Tensor,
    frames: int,
    sampling: VideoSampling,
    codec: ClipCodec,
    *,
    first: Tensor | None = None,
    later: bool = False,
    start: int = 0,
    told: Callable[[Reader], None] = lambda reading: None,
) -> tuple[Stream, Belongs]:
    """What ``stream_videos`` makes before it is decoded, and whose it is; ``later`` frames go on from a state."""
    check_count("frames", frames, 0)
    shape, device = image_shape(plan), device_of(denoiser)
    if first is not None:
        _check_first(first, codec.decoded_shape(shape)[1:], len(labels))
    if first is not None and later:
        raise ValueError("first frames are given, but the videos go on from a state; use one of them")
    made = Stream(
        reader(denoiser, sampling.guidance, sampling.guidance_interval),
        VIDEO_SAMPLERS[sampling.sampler],
        sampling.levels(plan).to(device),
        video_task(plan).condition(labels.to(device)),
        _sizes(plan, codec.num_encoded(frames, later) if frames else 0, later),
        shape[1:],
        SampleNoise(sampling.sample_seed, len(labels), start),
        clean_level(plan),
        None if first is None else codec.encode(to_float(first)),
        told,
    )
    return made, Belongs(plan=plan.hash, labels=tuple(labels.tolist()), guided=sampling.guidance != 1)


class VideoStream:
    """Blocks of frames uint8 (n, f, c, h, w), as they are made. Between two of them it can be saved."""

    def __init__(self, stream: Stream, belongs: Belongs, codec: ClipCodec, decoder: ClipDecoder) -> None:
        self._stream, self._belongs, self._codec, self._decoder = stream, belongs, codec, decoder

    def __iter__(self) -> VideoStream:
        return self

    def __next__(self) -> Tensor:
        return to_uint8(self._decoder(next(self._stream)))

    @property
    def frames(self) -> int:
        """How many the videos have, those of a state that they went on from included."""
        made = self._stream.frames
        return self._codec.decoded_shape((made, 1, 1, 1))[0] if made else 0

    def save(self, path: str | Path) -> None:
        """Write what is kept of the frames (``sample.kept``); nothing made yet is a ``ValueError``."""
        save_stream(Path(path), self._stream, self._belongs, self._decoder.state())


def _check_first(first: Tensor, shape: tuple[int, ...], count: int) -> None:
    if first.dtype != torch.uint8 or first.ndim != 5 or tuple(first.shape[2:]) != shape:
        raise ValueError(
            f"first is {first.dtype} {tuple(first.shape)}; give torch.uint8 (n, frames, {', '.join(map(str, shape))})"
        )
    if len(first) != count:
        raise ValueError(f"first has {len(first)} samples, and {count} are asked for; give as many")


def _check_position(plan: Plan, position: int, frames: int) -> None:
    check_bound(position, frames, cast(int, plan.architecture.get("max_frames", position + frames)))


def _sizes(plan: Plan, frames: int, later: bool = False) -> Iterator[int]:
    """Frames of each block of a video, or of what comes ``later`` in it."""
    block = cast(int, plan.architecture.get("block_frames", 0))
    if frames:
        _check_position(plan, 0, frames)
        return iter(frame_blocks(frames, block))
    if not block:
        raise ValueError("frames=0 goes on without end, but this network makes whole clips; say how many frames")
    if later:
        return repeat(block)
    trained = plan_frame_blocks(plan)
    return chain(trained, repeat(block))


def sample_videos(
    denoiser: Denoiser,
    plan: Plan,
    labels: Tensor,
    frames: int = 0,
    sampling: VideoSampling = VideoSampling(),
    *,
    codec: ClipCodec = CLIP_PIXELS,
    first: Tensor | None = None,
) -> Tensor:
    """Videos uint8 (n, f, c, h, w); arguments of ``stream_videos``, and ``frames=0`` is a training clip's number."""
    length, *shape = codec.decoded_shape(image_shape(plan))
    frames = frames or length
    if first is not None:
        _check_first(first, tuple(shape), len(labels))
    made = []
    for part in torch.arange(len(labels)).split(BATCH):
        given = None if first is None else first[part]
        blocks, _ = _stream(denoiser, plan, labels[part], frames, sampling, codec, first=given, start=int(part[0]))
        made.append(to_uint8(codec.decode(torch.cat([block.cpu() for block in blocks], dim=1))))
    return torch.cat(made)


def evaluate_videos(
    denoiser: Denoiser,
    plan: Plan,
    test: EncodedSource,
    *,
    truth: Bouncing | None = None,
    bands: Partition | None = None,
    num_clips: int = NUM_CLIPS,
    times_longer: int = TIMES_LONGER,
    sampling: VideoSampling = VideoSampling(),
) -> dict[str, Any]:
    """All scores of a video generator.

    Held-out loss per band, of every block of frames after clean ones; the Frechet distance of generated and held-out
    clips on ``frame_pairs``, beside that of two halves of the held-out clips; and where the places of what moves are
    known, the error of rollouts that begin with held-out frames. With an autoencoder losses are on latents, and all
    else on decoded frames.

    Args:
        test: held-out clips.
        truth: the same with their paths, at least ``num_clips`` of them; None where they are not known.
        bands: those that losses are reported on (None: the plan's own).
        num_clips: generated clips, and rollouts; 0 gives the losses alone.
        times_longer: training clips that a rollout is long.

    Raises:
        ValueError: the data have another shape or other classes than the plan.
    """
    check_fit(plan, test)
    check_count("num_clips", num_clips, 0)
    check_count("times_longer", times_longer)
    codec, held_out = clip_codec(test.codec), test.samples()
    labels = held_out.labels if held_out.labels is not None else torch.zeros(len(held_out.values), dtype=torch.int64)
    losses = video_losses(denoiser, plan, held_out.values, labels, bands or plan.partition)
    row: dict[str, Any] = {"band_losses": losses, "loss": sum(losses) / len(losses)}
    if not num_clips:
        return row
    real = to_uint8(test.images.samples().values)
    classes = video_task(plan).num_classes
    asked = torch.arange(num_clips) % classes if classes else torch.zeros(num_clips, dtype=torch.int64)
    began = time.perf_counter()
    made = sample_videos(denoiser, plan, asked, 0, sampling, codec=codec)
    seconds = time.perf_counter() - began
    row |= {**_frechet(made, real), "frames_per_second": made.shape[0] * made.shape[1] / seconds}
    if truth is not None and plan.architecture.get("block_frames", 0):
        known = truth.take(torch.arange(min(num_clips, len(truth))))
        row |= roll_out(denoiser, plan, known, times_longer, sampling, codec)
    return row


def video_losses(
    denoiser: Denoiser, plan: Plan, clips: Tensor, labels: Tensor, bands: Partition, seed: int = 0
) -> list[float]:
    """Held-out loss on each band of ``bands``, noisiest first, of ``clips`` (n, f, c, h, w) in [-1, 1] with ``labels``
    (n,): all frames at one level, each block of frames after clean ones where the network makes them in blocks."""
    task = video_task(plan)
    policy: Literal["same", "clean"] = "clean" if task.levels.count > 1 else "same"
    # the bands to report on need not be those of training, so that the loss of all levels counts
    scored = _HeldOut(everywhere(task, policy))
    asked = two_streams(denoiser) if policy == "clean" else denoiser
    device = device_of(denoiser)
    return band_losses(asked, scored, bands, clips.to(device), labels.to(device), seed, BATCH)


@dataclass(frozen=True)
class _HeldOut:
    """A task of one band, whatever the band is that is reported on."""

    task: VideoGeneration

    def noised(self, y: Tensor, sigma: Tensor, block: int | None, generator: torch.Generator) -> Noised:
        return self.task.noised(y, sigma, None, generator)

    def condition(self, labels: Tensor) -> Condition:
        return self.task.condition(labels)

    def loss(self, denoiser: DenoiserLike, noised: Noised, targets: Tensor, condition: Condition) -> Loss:
        return self.task.loss(denoiser, noised, targets, condition)


def roll_out(
    denoiser: Denoiser,
    plan: Plan,
    truth: Bouncing,
    times_longer: int = TIMES_LONGER,
    sampling: VideoSampling = VideoSampling(),
    codec: ClipCodec = CLIP_PIXELS,
) -> dict[str, Any]:
    """How far from their true places things are in videos that begin with the first block of true frames.

    ``place_errors`` has the mean distance in pixels in each frame after the given ones, ``place_error`` its mean in
    each training clip's length, and ``still_error`` the same if everything stood still where it was last seen.
    """
    given = _frames(plan, codec, plan_frame_blocks(plan)[0])
    made, true = roll_out_videos(denoiser, plan, truth, len(truth), times_longer, sampling, codec)
    errors = place_errors(made, true).mean(0)
    still = true[:, given - 1 : given].expand_as(true)
    ends = [_frames(plan, codec, image_shape(plan)[0] * (i + 1)) for i in range(times_longer)]
    parts = [slice(max(start, given), end) for start, end in pairwise([0, *ends])]
    return {
        "place_errors": errors[given:].tolist(),
        "place_error": [float(errors[part].mean()) for part in parts],
        "still_error": [float(place_errors(still, true).mean(0)[part].mean()) for part in parts],
    }


def roll_out_videos(
    denoiser: Denoiser,
    plan: Plan,
    truth: Bouncing,
    count: int,
    times_longer: int = TIMES_LONGER,
    sampling: VideoSampling = VideoSampling(),
    codec: ClipCodec = CLIP_PIXELS,
) -> tuple[Tensor, Tensor]:
    """At most ``count`` videos uint8 (n, f, c, h, w) that begin with the first block of true frames, and the true ones.

    Args:
        times_longer: training clips that they are long.
        codec: what the plan's data went through.
    """
    truth = truth.take(torch.arange(min(count, len(truth))))
    frames = _frames(plan, codec, image_shape(plan)[0] * times_longer)
    true = in_colour(truth.render(frames), codec.decoded_shape(image_shape(plan))[1])
    labels = truth.labels if truth.labels is not None else torch.zeros(len(truth), dtype=torch.int64)
    first = true[:, : _frames(plan, codec, plan_frame_blocks(plan)[0])]
    return sample_videos(denoiser, plan, labels, frames, sampling, codec=codec, first=first), true


def _frames(plan: Plan, codec: ClipCodec, encoded: int) -> int:
    """How many so many ``encoded`` frames of a plan are decoded to."""
    return codec.decoded_shape((encoded, *image_shape(plan)[1:]))[0]


def _frechet(made: Tensor, real: Tensor) -> dict[str, Any]:
    """The distance of generated clips to held-out ones, and its floor: that of the two halves of these."""
    half = len(real) // 2
    known, other = (moments(frame_pairs(part)) for part in (real[:half], real[half:]))
    return {
        "frechet": frechet_distance(known, moments(frame_pairs(made))),
        "frechet_floor": frechet_distance(known, other),
        "features": FRAME_PAIRS,
    }
