"""Models that generate video."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from oneblock.blockwise import Denoiser
from oneblock.data import ClipCodec, VideoData, clip_codec, open_bouncing
from oneblock.data.bouncing import Bouncing
from oneblock.data.places import hand_on
from oneblock.data.videos import PREFIX
from oneblock.evaluate.device import device_of
from oneblock.evaluate.video import (
    NUM_CLIPS,
    TIMES_LONGER,
    VideoGrid,
    VideoSamplerName,
    VideoSampling,
    VideoStream,
    evaluate_videos,
    sample_videos,
    stream_videos,
)
from oneblock.model.base import Model, said_of
from oneblock.plain import write_whole
from oneblock.presets.data import Data, check_codec, plan_clip_codec
from oneblock.presets.image import image_shape
from oneblock.presets.names import class_labels
from oneblock.presets.places import named_data
from oneblock.presets.splits import plan_splits
from oneblock.presets.video import video_task
from oneblock.train.self_forcing import Forced, SelfForcing, self_force
from oneblock.train.shards import check_output, save_model
from oneblock.train.strategy import job_specs

SELF_FORCING_FILE = "self-forcing.json"
"""Beside a model of the second stage: its settings."""


@final
class VideoModel(Model):
    """A generator of video."""

    task = "video"

    def sample(
        self,
        labels: Sequence[int | str] | Tensor | None = None,
        *,
        count: int | None = None,
        frames: int = 0,
        first: Tensor | None = None,
        sampler: VideoSamplerName = VideoSampling.sampler,
        steps: int = VideoSampling.steps,
        grid: VideoGrid = VideoSampling.grid,
        guidance: float = VideoSampling.guidance,
        guidance_interval: tuple[float, float] = VideoSampling.guidance_interval,
        sample_seed: int = VideoSampling.sample_seed,
        autoencoder: str | Path | ClipCodec | None = None,
    ) -> Tensor:
        """Videos uint8 (n, f, c, h, w).

        Args:
            labels: the class of each, its number or one of ``classes``; None takes all classes in turn, once each
                unless ``count`` says otherwise.
            count: n, instead of ``labels``; a model without classes needs it.
            frames: f; 0 is as many as a training clip has.
            first: uint8 (n, k, c, h, w), the frames that the videos begin with; one is a picture that is set in motion.
            sampler, steps, grid, guidance, guidance_interval, sample_seed: see ``evaluate.video.VideoSampling``.
            autoencoder: directory of the autoencoder that the model was trained with, if it denoises latents; or what
                ``codec`` made of it, which is then not opened again.

        Raises:
            ValueError: the classes do not exist, the steps or frames do not fit, the autoencoder is not that of
                training, or ``count`` is given beside ``labels``.
        """
        sampling = _sampling(sampler, steps, grid, guidance, guidance_interval, sample_seed)
        codec, asked = self.codec(autoencoder), self._labels(labels, count)
        return sample_videos(self.denoiser, self.plan, asked, frames, sampling, codec=codec, first=first)

    def stream(
        self,
        labels: Sequence[int | str] | Tensor | None = None,
        *,
        count: int | None = None,
        frames: int = 0,
        first: Tensor | None = None,
        state: str | Path | None = None,
        sampler: VideoSamplerName = VideoSampling.sampler,
        steps: int = VideoSampling.steps,
        grid: VideoGrid = VideoSampling.grid,
        guidance: float = VideoSampling.guidance,
        guidance_interval: tuple[float, float] = VideoSampling.guidance_interval,
        sample_seed: int = VideoSampling.sample_seed,
        autoencoder: str | Path | ClipCodec | None = None,
    ) -> VideoStream:
        """The same videos as blocks of frames uint8 (n, f, c, h, w), as they are made; ``frames=0`` goes on without
        end. ``save(path)`` of what this gives keeps what is needed to go on another day.

        Args:
            state: a file that was saved so: the videos go on from there, by ``frames`` more.

        Raises:
            ValueError: also where the autoencoder decodes whole clips alone; only ``sample`` makes videos then.
        """
        sampling = _sampling(sampler, steps, grid, guidance, guidance_interval, sample_seed)
        codec, asked = self.codec(autoencoder), self._labels(labels, count)
        kept = None if state is None else Path(state)
        return stream_videos(self.denoiser, self.plan, asked, frames, sampling, codec=codec, first=first, state=kept)

    def codec(self, autoencoder: str | Path | ClipCodec | None = None) -> ClipCodec:
        """What the model's data went through: pixels, or the ``autoencoder`` of this directory, which must be the
        plan's."""
        if isinstance(autoencoder, ClipCodec):
            check_codec(self.plan, autoencoder)
            return autoencoder
        return plan_clip_codec(self.plan, None if autoencoder is None else Path(autoencoder))

    def evaluate(
        self,
        data: Data | None = None,
        *,
        train: Data | None = None,
        num_clips: int = NUM_CLIPS,
        times_longer: int = TIMES_LONGER,
        report_bands: int = 0,
        sampler: VideoSamplerName = VideoSampling.sampler,
        steps: int = VideoSampling.steps,
        grid: VideoGrid = VideoSampling.grid,
        guidance: float = VideoSampling.guidance,
        guidance_interval: tuple[float, float] = VideoSampling.guidance_interval,
        sample_seed: int = VideoSampling.sample_seed,
    ) -> dict[str, Any]:
        """Held-out loss per band, and how generated clips look and move (``evaluate.video.evaluate_videos``).

        Args:
            data: see ``Model.evaluate``; of a source or Dataset all items are held out.
            train: training clips, where ``data`` is a source or Dataset.
            num_clips: generated clips, and rollouts of clips whose places are known; 0 gives the losses alone.
            times_longer: training clips that a rollout is long.
            report_bands: bands to report losses on (0: the plan's own).
            sampler, steps, grid, guidance, guidance_interval, sample_seed: see ``evaluate.video.VideoSampling``.
        """
        sampling = _sampling(sampler, steps, grid, guidance, guidance_interval, sample_seed)
        splits = plan_splits(self.plan, data, train, self.directory)
        row = evaluate_videos(
            self.denoiser,
            self.plan,
            splits.test,
            truth=self._truth(data, clip_codec(splits.test.codec)),
            bands=self.bands(report_bands),
            num_clips=num_clips,
            times_longer=times_longer,
            sampling=sampling,
        )
        return said_of(row, splits.other)

    def self_force(
        self,
        out: str | Path,
        settings: SelfForcing | None = None,
        *,
        told: Callable[[Forced], None] = lambda forced: None,
    ) -> VideoModel:
        """A model that has learned from videos that it made itself, in ``settings.steps`` steps of ``renoise``, the
        sampler that it is for (``train.self_forcing``). This one stays as it is; the other is in ``out``, a merged
        model of the same plan beside ``self-forcing.json``, which says how it learned.

        The second stage is not resumed: a model is written when all updates are done.

        Args:
            out: a directory of its own.
            settings: None takes the usual ones.
            told: is told of every update.

        Raises:
            ValueError: the network makes whole clips, or ``out`` holds something else.
        """
        out = Path(out)
        if not self.plan.architecture.get("block_frames", 0):
            raise ValueError(
                "this network makes whole clips, which nothing follows; train one with block_frames=1 or more"
            )
        settings = SelfForcing() if settings is None else settings
        check_output(out, self.plan)
        blocks = [deepcopy(self.denoiser.block(b)) for b in range(self.plan.num_blocks)]
        network = Denoiser(self.plan.partition, blocks.__getitem__)
        grid = VideoSampling(sampler="renoise", steps=settings.steps).levels(self.plan).to(device_of(network))
        for forced in self_force(network, video_task(self.plan), grid, image_shape(self.plan)[1:], settings):
            told(forced)
        save_model(out, self.plan, network, job_specs(self.plan)[-1].last_step)
        hand_on(self.directory, out)
        write_whole(out / SELF_FORCING_FILE, json.dumps(asdict(settings), indent=1) + "\n")
        return VideoModel.open(out, device=device_of(network), backbone=self.backbone)

    def _labels(self, labels: Sequence[int | str] | Tensor | None, count: int | None) -> Tensor:
        """The class of each video, int64 (n,); zeros without classes."""
        classes = len(self.classes)
        if labels is not None:
            if count is not None:
                raise ValueError(f"count={count} is given beside labels, which say how many; use one of them")
            asked = [labels] if isinstance(labels, str) else labels
            return torch.tensor(class_labels(self.plan, asked.tolist() if isinstance(asked, Tensor) else list(asked)))
        if count is None and not classes:
            raise ValueError("count=None, but a model without classes needs a number of videos; use count=1 or more")
        if count is not None and count < 1:
            raise ValueError(f"count={count} makes nothing; use 1 or more")
        return torch.arange(count or classes) % max(classes, 1)

    def _truth(self, data: Data | None, codec: ClipCodec) -> Bouncing | None:
        """The held-out clips with their places, where these are known."""
        if data is not None and not isinstance(data, str | VideoData):
            return None
        name, root = named_data(self.plan, data)
        _, _, height, width = codec.decoded_shape(image_shape(self.plan))
        if not name.startswith(PREFIX) or height != width:
            return None
        return open_bouncing(name, "test", size=height, root=root)


def _sampling(
    sampler: VideoSamplerName,
    steps: int,
    grid: VideoGrid,
    guidance: float,
    guidance_interval: tuple[float, float],
    sample_seed: int,
) -> VideoSampling:
    return VideoSampling(
        sampler=sampler,
        steps=steps,
        grid=grid,
        guidance=guidance,
        guidance_interval=guidance_interval,
        sample_seed=sample_seed,
    )
