"""Models: a trained denoiser with its plan, to be sampled, evaluated and saved.

    model = Model.open("runs/digits")
    images = model.sample([0, 1, 2], steps=24)
    scores = model.evaluate("digits")
    model.save("model")

``Model.open`` gives the kind that fits the run's task; ``ImageModel.open`` and its like take runs of their own task
alone.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, final

import torch
from torch import Tensor

from oneblock.backbone import BuildBackbone
from oneblock.blockwise import Denoiser
from oneblock.data import Codec, EncodedSource, ImageData
from oneblock.evaluate.causal import write_causal
from oneblock.evaluate.images import NUM_SAMPLES, GridName, SamplerName, Sampling, evaluate_images, sample_images
from oneblock.evaluate.labels import classify_images, evaluate_labels
from oneblock.evaluate.masked import TIMES, write_masked
from oneblock.evaluate.text import WINDOWS, QualityOptions, Writing, evaluate_text
from oneblock.metrics.quality import inception_weights
from oneblock.partition import Partition, make_partition
from oneblock.plan import Plan
from oneblock.presets.data import Data, check_codec, check_images, open_codec, plan_images, plan_text
from oneblock.presets.image import image_task
from oneblock.presets.tasks import blockwise, task_parts
from oneblock.sample.calls import Answers, AskedPool, Asking
from oneblock.sample.calls import Path as CallPath
from oneblock.sample.labels import Answer
from oneblock.sample.masked import Reveal
from oneblock.train.machine import open_device
from oneblock.train.shards import CONFIG_FILE, INDEX_FILE, merge, open_denoiser, open_plan
from oneblock.train.strategy import job_specs

Scorer = Literal["n-gram", "smollm2"]


class Model(ABC):
    """A trained denoiser with its plan. Made by ``Model.open``.

    Args:
        plan: of the run.
        denoiser: of the whole noise range, its blocks loaded when they are needed.
        directory: the run or merged model that it came from.
    """

    task: ClassVar[str]

    def __init__(self, plan: Plan, denoiser: Denoiser, directory: Path) -> None:
        self.plan = plan
        self.denoiser = denoiser
        self.directory = directory

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        resident: int | None = None,
        backbone: BuildBackbone | None = None,
    ) -> Self:
        """The model of a run's directory or of a merged model, with averaged weights.

        Args:
            device: where it works.
            resident: blocks kept in memory; 1 holds a single block at any time, None keeps all.
            backbone: the user's own network, of a run that was trained with one.

        Raises:
            ValueError: the run, device or network does not exist, or its task is not that of this class.
            CheckpointError: on use, when a block is missing or damaged.
        """
        plan = open_plan(Path(path))
        task_parts(plan)
        kind = MODELS[plan.task]
        if not issubclass(kind, cls):
            raise ValueError(f"{path} is a run of task {plan.task!r}; open it with {kind.__name__} or Model")
        denoiser = open_denoiser(Path(path), blockwise(plan, backbone), open_device(device), resident)
        return kind(plan, denoiser, Path(path))

    @abstractmethod
    def evaluate(self, data: Data | None = None) -> dict[str, Any]:
        """Scores on held-out data, as plain values.

        Args:
            data: a name, ``ImageData`` or ``TextData``, a ``Source`` or a torch Dataset; None is the plan's own.
        """

    def save(self, path: str | Path) -> None:
        """Write the merged model: ``config.json`` and a safetensors shard for each block.

        Raises:
            ValueError: ``path`` holds something else, which stays as it is.
            CheckpointError: a block of the run is missing, unfinished or damaged.
        """
        out = Path(path)
        _check_free(out, self.plan)
        if not (self.directory / CONFIG_FILE).is_file():
            merge(self.directory, out, job_specs(self.plan)[-1].last_step)
        elif out.resolve() != self.directory.resolve():
            out.mkdir(parents=True, exist_ok=True)
            shards = sorted(self.directory.glob("block-*.safetensors"))
            for file in (*shards, self.directory / INDEX_FILE, self.directory / CONFIG_FILE):
                shutil.copyfile(file, out / file.name)

    def bands(self, report_bands: int) -> Partition:
        """Bands that losses are reported on."""
        return make_partition(self.plan.partition.law, report_bands) if report_bands else self.plan.partition


@final
class ImageModel(Model):
    """A generator of images, or of whatever its data are made of."""

    task = "image"

    def sample(
        self,
        labels: Sequence[int] | Tensor | None = None,
        *,
        count: int | None = None,
        sampler: SamplerName = Sampling.sampler,
        steps: int = Sampling.steps,
        grid: GridName = Sampling.grid,
        guidance: float = Sampling.guidance,
        guidance_interval: tuple[float, float] = Sampling.guidance_interval,
        sample_seed: int = Sampling.sample_seed,
        autoencoder: str | Path | None = None,
    ) -> Tensor:
        """Images uint8 (n, c, h, w); where the targets are not images float32 (n, *shape), as the data were.

        Args:
            labels: the class of each; None takes all classes in turn, once each unless ``count`` says otherwise.
            count: n, without ``labels``; a model without classes needs it.
            sampler, steps, grid, guidance, guidance_interval, sample_seed: see ``evaluate.images.Sampling``.
            autoencoder: directory of the AutoencoderKL that the model was trained with, if it denoises latents.

        Raises:
            ValueError: the classes do not exist, or the steps do not fit.
        """
        sampling = Sampling(
            sampler=sampler,
            steps=steps,
            grid=grid,
            guidance=guidance,
            guidance_interval=guidance_interval,
            sample_seed=sample_seed,
        )
        codec = self.codec(autoencoder)
        classes = image_task(self.plan).num_classes
        asked: Tensor | None = None
        if labels is not None:
            asked = torch.as_tensor(labels, dtype=torch.int64)
        elif classes:
            asked = torch.arange(classes if count is None else count) % classes
        return sample_images(self.denoiser, self.plan, asked, sampling, codec, count=count)

    def codec(self, autoencoder: str | Path | None = None) -> Codec:
        """What the model's data went through: pixels, or the ``autoencoder`` of this directory, which must be the
        plan's."""
        codec = open_codec(None if autoencoder is None else Path(autoencoder))
        check_codec(self.plan, codec)
        return codec

    def evaluate(
        self,
        data: Data | None = None,
        *,
        train: Data | None = None,
        num_samples: int = NUM_SAMPLES,
        report_bands: int = 0,
        extractor: str = "",
        fid_weights: str | Path | None = None,
        sampler: SamplerName = Sampling.sampler,
        steps: int = Sampling.steps,
        grid: GridName = Sampling.grid,
        guidance: float = Sampling.guidance,
        guidance_interval: tuple[float, float] = Sampling.guidance_interval,
        sample_seed: int = Sampling.sample_seed,
    ) -> dict[str, Any]:
        """Held-out loss per band, and the quality of generated images (``evaluate.images.evaluate_images``).

        Args:
            data: see ``Model.evaluate``; of a source or Dataset all items are held out.
            train: what generated images are compared with; None is the training split of ``data``, of a source or
                Dataset these themselves.
            num_samples: generated images; 0 gives the losses alone.
            report_bands: bands to report losses on (0: the plan's own).
            extractor: name of the features that images are compared on (empty: what fits the plan's data).
            fid_weights: file of torch-fidelity's Inception weights, for the published FID.
            sampler, steps, grid, guidance, guidance_interval, sample_seed: see ``evaluate.images.Sampling``.
        """
        weights = inception_weights(Path(fid_weights)) if fid_weights else None
        sampling = Sampling(
            sampler=sampler,
            steps=steps,
            grid=grid,
            guidance=guidance,
            guidance_interval=guidance_interval,
            sample_seed=sample_seed,
        )
        known, test = _splits(self.plan, data, train)
        check_codec(self.plan, test.codec)
        return evaluate_images(
            self.denoiser,
            self.plan,
            known,
            test,
            bands=self.bands(report_bands),
            num_samples=num_samples,
            extractor=extractor,
            sampling=sampling,
            fid_weights=weights,
        )


@final
class ClassifyModel(Model):
    """A classifier of images."""

    task = "classify"

    def classify(
        self,
        images: Tensor,
        *,
        path: CallPath = Answers.path,
        pool: AskedPool = Answers.pool,
        calls: int = Answers.calls,
        draws: int = Answers.draws,
        noise_seed: int = Answers.noise_seed,
        confident: float = 1.0,
    ) -> Answer:
        """Class probabilities after every call (calls, n, k), and how many calls each image took.

        Args:
            images: (n, c, h, w), uint8, or float in [-1, 1].
            path, pool, calls, draws, noise_seed: see ``sample.calls.Answers``.
            confident: an image takes no further call once a class has this probability; 1 takes all.
        """
        answers = Answers(path=path, pool=pool, calls=calls, draws=draws, noise_seed=noise_seed)
        return classify_images(self.denoiser, self.plan, images, answers, confident)

    def evaluate(
        self,
        data: Data | None = None,
        *,
        path: CallPath = Answers.path,
        pool: AskedPool = Answers.pool,
        calls: int = Answers.calls,
        draws: int = Answers.draws,
        noise_seed: int = Answers.noise_seed,
        confident: float = 1.0,
    ) -> dict[str, Any]:
        """Accuracy after every call, calibration and likelihood; arguments of ``classify`` and ``Model.evaluate``."""
        answers = Answers(path=path, pool=pool, calls=calls, draws=draws, noise_seed=noise_seed)
        _, test = _splits(self.plan, data)
        return evaluate_labels(self.denoiser, self.plan, test.first(), answers, confident)


@final
class MaskedModel(Model):
    """A model of masked text."""

    task = "masked-text"

    def sample(
        self,
        count: int = Writing.count,
        prompt: str = Writing.prompt,
        *,
        reveals: int = Writing.reveals,
        order: Reveal = Writing.order,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        sample_seed: int = 0,
    ) -> list[str]:
        """Texts of the plan's length that begin with ``prompt``; arguments of ``evaluate.writing.Writing``."""
        writing = Writing(
            count=count, prompt=prompt, reveals=reveals, order=order, temperature=temperature, top_p=top_p
        )
        return write_masked(self.denoiser, self.plan, writing, sample_seed)

    def evaluate(
        self,
        data: Data | None = None,
        *,
        windows: int = WINDOWS,
        times: int = TIMES,
        report_bands: int = 0,
        texts: int = QualityOptions.texts,
        scorer: Scorer = QualityOptions.scorer,
        mauve: bool = QualityOptions.mauve,
        prompt: str = Writing.prompt,
        reveals: int = Writing.reveals,
        order: Reveal = Writing.order,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        sample_seed: int = 0,
    ) -> dict[str, Any]:
        """A bound on the bits per byte of held-out text, and with ``texts`` the quality of what the model writes.

        Args:
            data: see ``Model.evaluate``.
            windows: of held-out text.
            times: masked shares of every band for each of them.
            report_bands: bands to report the bound on (0: the plan's own).
            texts, scorer, mauve: see ``evaluate.text.QualityOptions``.
            prompt, reveals, order, temperature, top_p, sample_seed: how texts are written, see ``sample``.
        """
        return evaluate_text(
            self.denoiser,
            self.plan,
            plan_text(self.plan, "test", data),
            plan_text(self.plan, "train", data) if texts else None,
            windows=windows,
            bands=self.bands(report_bands),
            times=times,
            quality=QualityOptions(texts=texts, scorer=scorer, mauve=mauve),
            writing=Writing(prompt=prompt, reveals=reveals, order=order, temperature=temperature, top_p=top_p),
            seed=sample_seed,
        )


@final
class CausalModel(Model):
    """An autoregressive model of text."""

    task = "text"

    def sample(
        self,
        count: int = Writing.count,
        prompt: str = Writing.prompt,
        *,
        tokens: int = Writing.tokens,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        path: CallPath = Asking.path,
        pool: AskedPool = Asking.pool,
        calls: int = Asking.calls,
        sample_seed: int = 0,
    ) -> list[str]:
        """Texts that go on from ``prompt``.

        Args:
            count, prompt, tokens, temperature, top_p: see ``evaluate.writing.Writing``.
            path, pool, calls: see ``sample.calls.Asking``.
            sample_seed: text i follows from ``sample_seed + i``.
        """
        writing = Writing(count=count, prompt=prompt, tokens=tokens, temperature=temperature, top_p=top_p)
        asking = Asking(path=path, pool=pool, calls=calls)
        return ["".join(write_causal(self.denoiser, self.plan, writing, asking, sample_seed + i)) for i in range(count)]

    def stream(
        self,
        prompt: str = Writing.prompt,
        *,
        tokens: int = Writing.tokens,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        path: CallPath = Asking.path,
        pool: AskedPool = Asking.pool,
        calls: int = Asking.calls,
        sample_seed: int = 0,
    ) -> Iterator[str]:
        """One text in pieces as they are written, ``prompt`` first; arguments of ``sample``."""
        writing = Writing(prompt=prompt, tokens=tokens, temperature=temperature, top_p=top_p)
        asking = Asking(path=path, pool=pool, calls=calls)
        return write_causal(self.denoiser, self.plan, writing, asking, sample_seed)

    def evaluate(
        self,
        data: Data | None = None,
        *,
        windows: int = WINDOWS,
        path: CallPath = Answers.path,
        pool: AskedPool = Answers.pool,
        calls: int = Answers.calls,
        draws: int = Answers.draws,
        noise_seed: int = Answers.noise_seed,
        texts: int = QualityOptions.texts,
        scorer: Scorer = QualityOptions.scorer,
        mauve: bool = QualityOptions.mauve,
        prompt: str = Writing.prompt,
        tokens: int = Writing.tokens,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        sample_seed: int = 0,
    ) -> dict[str, Any]:
        """Bits per byte of held-out text after every call, and with ``texts`` the quality of what the model writes.

        Args:
            data: see ``Model.evaluate``.
            windows: of held-out text.
            path, pool, calls, draws, noise_seed: see ``sample.calls.Answers``.
            texts, scorer, mauve: see ``evaluate.text.QualityOptions``.
            prompt, tokens, temperature, top_p, sample_seed: how texts are written, see ``sample``.
        """
        return evaluate_text(
            self.denoiser,
            self.plan,
            plan_text(self.plan, "test", data),
            plan_text(self.plan, "train", data) if texts else None,
            windows=windows,
            answers=Answers(path=path, pool=pool, calls=calls, draws=draws, noise_seed=noise_seed),
            quality=QualityOptions(texts=texts, scorer=scorer, mauve=mauve),
            writing=Writing(prompt=prompt, tokens=tokens, temperature=temperature, top_p=top_p),
            seed=sample_seed,
        )


MODELS: dict[str, type[Model]] = {kind.task: kind for kind in (ImageModel, ClassifyModel, MaskedModel, CausalModel)}


def _splits(plan: Plan, data: Data | None, train: Data | None = None) -> tuple[EncodedSource, EncodedSource]:
    """Training and held-out images of a plan. Named training images must be those of the plan; of a source or Dataset
    of the user's own all are held out."""
    test = plan_images(plan, "test", data)
    known = plan_images(plan, "train", data if train is None else train)
    if train is None and (data is None or isinstance(data, str | ImageData)):
        check_images(plan, known)
    return known, test


def _check_free(out: Path, plan: Plan) -> None:
    """Refuse a place that holds anything but this model."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file; give the model a directory of its own")
    if any(out.iterdir()) and not (out / CONFIG_FILE).is_file():
        raise ValueError(f"{out} holds something other than a model; give the model a directory of its own")
    if (out / CONFIG_FILE).is_file() and open_plan(out).hash != plan.hash:
        raise ValueError(f"{out} holds a model of another plan; use another directory")
