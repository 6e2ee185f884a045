"""Models that generate images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor

from oneblock.audit.cyclic import Reverse, Unit
from oneblock.data import Codec
from oneblock.evaluate.audit import Audit, audit_images
from oneblock.evaluate.auditing import Auditing, Told, audit_splits
from oneblock.evaluate.captions import captions_in_turn, read_captions
from oneblock.evaluate.images import (
    NUM_SAMPLES,
    GridName,
    SamplerName,
    Sampling,
    asked_labels,
    evaluate_images,
    sample_images,
)
from oneblock.evaluate.reference import check_features, extractor_name
from oneblock.metrics.quality import check_fid
from oneblock.model.base import Model, said_of
from oneblock.presets.captions import is_captioned
from oneblock.presets.data import Data, check_codec, open_codec
from oneblock.presets.splits import plan_splits
from oneblock.sample.carry import Carry


@final
class ImageModel(Model):
    """A generator of images, or of whatever its data are made of."""

    task = "image"
    compiled = True

    def sample(
        self,
        labels: Sequence[int | str] | Tensor | None = None,
        *,
        captions: Sequence[str] | None = None,
        count: int | None = None,
        sampler: SamplerName = Sampling.sampler,
        steps: int = Sampling.steps,
        grid: GridName = Sampling.grid,
        guidance: float = Sampling.guidance,
        guidance_interval: tuple[float, float] = Sampling.guidance_interval,
        sample_seed: int = Sampling.sample_seed,
        state: Carry = Sampling.state,
        autoencoder: str | Path | None = None,
        text_encoder: str | Path | None = None,
    ) -> Tensor:
        """Images uint8 (n, c, h, w); where the targets are not images float32 (n, *shape), as the data were.

        Args:
            labels: the class of each, its number or one of ``classes``; None takes all classes in turn, once each
                unless ``count`` says otherwise.
            captions: a text for each, of a model that was trained with captions; an empty one tells it nothing. None
                takes those that the plan holds in turn, once each unless ``count`` says otherwise.
            count: n, instead of ``labels`` and ``captions``; a model without either needs it.
            sampler, steps, grid, guidance, guidance_interval, sample_seed, state: see ``evaluate.images.Sampling``.
            autoencoder: directory of the AutoencoderKL that the model was trained with, if it denoises latents.
            text_encoder: directory of the text encoder that it was trained with, if that is not where it was.

        Raises:
            ValueError: the classes do not exist, the steps do not fit, ``count`` is given beside ``labels``, or the
                model is told labels where captions are given, or the other way round.
        """
        sampling = Sampling(
            sampler=sampler,
            steps=steps,
            grid=grid,
            guidance=guidance,
            guidance_interval=guidance_interval,
            sample_seed=sample_seed,
            state=state,
        )
        if captions is None and labels is None and is_captioned(self.plan):
            captions, count = captions_in_turn(self.plan, count), None
        if captions is None:
            asked = asked_labels(self.plan, labels, count)
            left = None if labels is None and asked is not None else count
        else:
            place = None if text_encoder is None else Path(text_encoder)
            asked, left = read_captions(self.plan, captions, place), count
            if labels is not None:
                raise ValueError("labels are given beside captions, but the model is told captions; leave labels out")
        return sample_images(self.denoiser, self.plan, asked, sampling, self.codec(autoencoder), count=left)

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
        detail: bool = False,
        sampler: SamplerName = Sampling.sampler,
        steps: int = Sampling.steps,
        grid: GridName = Sampling.grid,
        guidance: float = Sampling.guidance,
        guidance_interval: tuple[float, float] = Sampling.guidance_interval,
        sample_seed: int = Sampling.sample_seed,
        state: Carry = Sampling.state,
    ) -> dict[str, Any]:
        """Held-out loss per band, and the quality of generated images (``evaluate.images.evaluate_images``).

        Args:
            data: see ``Model.evaluate``; of a source or Dataset all items are held out.
            train: what generated images are compared with. None is the training split of ``data``; where ``data`` is a
                source or Dataset, the training images that the plan names, and without them ``data``, with None as
                floors.
            num_samples: generated images; 0 gives the losses alone.
            report_bands: bands to report losses on (0: the plan's own).
            extractor: name of the features that images are compared on (empty: what fits the plan's data).
            fid_weights: file of torch-fidelity's Inception weights, for the published FID.
            detail: also MIND, interval and limit of the Frechet distance, a classifier score (``metrics.detail``).
            sampler, steps, grid, guidance, guidance_interval, sample_seed, state: see ``evaluate.images.Sampling``.
        """
        weights = None
        if fid_weights:
            weights = check_fid(Path(fid_weights))
            extractor = extractor_name(self.plan, extractor)  # it is asked for: images are generated in any case
        check_features(self.plan, extractor, num_samples)
        sampling = Sampling(
            sampler=sampler,
            steps=steps,
            grid=grid,
            guidance=guidance,
            guidance_interval=guidance_interval,
            sample_seed=sample_seed,
            state=state,
        )
        splits = plan_splits(self.plan, data, train, self.directory)
        row = evaluate_images(
            self.denoiser,
            self.plan,
            splits.train,
            splits.test,
            bands=self.bands(report_bands),
            num_samples=num_samples,
            extractor=extractor,
            sampling=sampling,
            fid_weights=weights,
            detail=detail,
        )
        return said_of(row, splits.other)

    def audit(
        self,
        data: Data | None = None,
        *,
        held_out: Data | None = None,
        amplitudes: Sequence[float] = Auditing.amplitudes,
        unit: Unit = Auditing.unit,
        chains: int = Auditing.chains,
        cycles: int = Auditing.cycles,
        cycle_steps: int = Auditing.cycle_steps,
        start_steps: int = Auditing.start_steps,
        reverse: Reverse = Auditing.reverse,
        told: Told = Auditing.told,
        kappa: float = Auditing.kappa,
        false_positives: float = Auditing.false_positives,
        audit_seed: int = Auditing.audit_seed,
        show: bool = False,
        said: Callable[[str], None] | None = None,
    ) -> Audit:
        """What the model has memorised of its training images (``evaluate.audit.audit_images``). The same steps are an
        attack on the privacy of the images: audit models and data that are your own.

        Args:
            data: the training images, by name or as a Dataset; None is the plan's own.
            held_out: images of the same kind that were never trained; None is the test split of data that have a name.
            amplitudes, unit, chains, cycles, cycle_steps, start_steps, reverse, told, kappa, false_positives,
                audit_seed: see ``evaluate.auditing.Auditing``.
            show: also give the images that were recovered.
            said: called with a line before each part.

        Raises:
            ValueError: the data are not those that the model was trained on, nothing is held out, or an amplitude is
                not a noise level of the model.
        """
        auditing = Auditing(
            amplitudes=tuple(amplitudes),
            unit=unit,
            chains=chains,
            cycles=cycles,
            cycle_steps=cycle_steps,
            start_steps=start_steps,
            reverse=reverse,
            told=told,
            kappa=kappa,
            false_positives=false_positives,
            audit_seed=audit_seed,
        )
        splits = audit_splits(self.plan, data, held_out, self.directory)
        return audit_images(self.denoiser, self.plan, splits, auditing, show=show, said=said)
