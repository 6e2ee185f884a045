"""One call for the quality of generated images: every score beside the score of real images.

A Frechet distance depends on the extractor and on the number of samples, so each result names its extractor,
gives its counts and carries a floor: the same score for held-out real images. A model whose score equals the
floor cannot be told from the data by this extractor. Scores are comparable only within one extractor, one
reference set and one count, and never with a published FID.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from oneblock.metrics.coverage import NEIGHBOURS, prdc
from oneblock.metrics.features import (
    ClassifierExtractor,
    FeatureExtractor,
    check_images,
    is_installed,
    minimum_samples,
)
from oneblock.metrics.frechet import frechet_distance, moments
from oneblock.metrics.kernel import kernel_distance

NO_FIDELITY = (
    "the published FID needs torch-fidelity and a torchvision that fits torch; run: "
    "pip install 'oneblock[images]' torch-fidelity"
)
FID_EXTRACTOR = "inception-v3-compat"
"""torch-fidelity's name of the network that the published FID is computed with."""
_INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True, kw_only=True)
class ImageQuality:
    """Scores of generated images against a reference set; the floors are those of held-out real images, None without.

    ``frechet`` and ``kernel`` are distances (lower is better), ``kernel_stderr`` is the standard error of ``kernel``,
    ``class_agreement`` is the share of images in which the classifier sees the requested label, None where no
    labels were given. ``note`` says what weakens the numbers, empty if nothing does.
    """

    extractor: str
    num_reference: int
    num_held_out: int
    num_fake: int
    frechet: float
    frechet_floor: float | None
    kernel: float
    kernel_stderr: float
    kernel_floor: float | None
    precision: float
    recall: float
    density: float
    coverage: float
    class_agreement: float | None
    note: str

    def as_row(self) -> dict[str, str | int | float | None]:
        """The fields as plain values, ready for one line of JSON."""
        return asdict(self)


def image_quality(
    reference: Tensor,
    held_out: Tensor | None,
    fake: Tensor,
    extractor: FeatureExtractor,
    labels: Tensor | None = None,
    k: int = NEIGHBOURS,
) -> ImageQuality:
    """Compare ``fake`` with ``reference``, and ``held_out`` with ``reference`` for the floors; None for no floors.

    All three are uint8 (n, c, h, w) that ``extractor`` takes; ``reference`` and ``held_out`` are disjoint sets of
    real images, ``held_out`` best as large as ``fake``, since the distances depend on the count. ``labels`` int
    (n,) are the classes requested for ``fake``. ``k`` is the number of neighbours of ``prdc``. The cost grows with
    the square of the counts; 10,000 images each are plenty.
    Raises ValueError where a set does not fit the extractor or is too small, or labels are given without a classifier.
    """
    a, c = extractor(reference), extractor(fake)
    b = None if held_out is None else extractor(held_out)
    agreement = None if labels is None else class_agreement(extractor, fake, labels)
    real = moments(a)
    kernel = kernel_distance(a, c)
    shares = prdc(a, c, k)
    return ImageQuality(
        extractor=extractor.name,
        num_reference=len(a),
        num_held_out=0 if b is None else len(b),
        num_fake=len(c),
        frechet=frechet_distance(real, moments(c)),
        frechet_floor=None if b is None else frechet_distance(real, moments(b)),
        kernel=kernel.value,
        kernel_stderr=kernel.stderr,
        kernel_floor=None if b is None else kernel_distance(a, b).value,
        precision=shares.precision,
        recall=shares.recall,
        density=shares.density,
        coverage=shares.coverage,
        class_agreement=agreement,
        note=_note(extractor, len(a), None if b is None else len(b), len(c)),
    )


def class_agreement(extractor: FeatureExtractor, images: Tensor, labels: Tensor) -> float:
    """Share of images uint8 (n, c, h, w) in which the extractor's classifier sees the label int (n,).

    Real images score the classifier's own accuracy, not 1. Raises ValueError for an extractor without
    ``logits`` and for labels of another shape or outside the classes.
    """
    if not isinstance(extractor, ClassifierExtractor):
        raise ValueError(
            f"extractor {extractor.name} has no logits; class agreement needs a classifier such as "
            "digits-cnn: use one or pass no labels"
        )
    logits = extractor.logits(images)
    count, num_classes = logits.shape
    if labels.shape != (count,) or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not fit; allowed is ({count},) with values in "
            f"0..{num_classes - 1}: pass one requested class per image"
        )
    return (logits.argmax(1) == labels.to(logits.device)).double().mean().item()


def _note(extractor: FeatureExtractor, num_reference: int, num_held_out: int | None, num_fake: int) -> str:
    notes = []
    fewest = min(num_reference, num_fake, num_reference if num_held_out is None else num_held_out)
    needed = minimum_samples(extractor.name, extractor.dim)
    if fewest < needed:
        notes.append(
            f"only {fewest} samples in the smallest set; the Frechet distance on {extractor.name} "
            f"({extractor.dim}-d) needs {needed}: read kernel and coverage instead"
        )
    if num_held_out is None:
        notes.append("no floors: there are no real images beside the reference images; give training and held-out ones")
    elif not 0.9 <= num_held_out / num_fake <= 1.1:
        notes.append(f"frechet_floor of {num_held_out} and frechet of {num_fake} images differ in bias")
    return "; ".join(notes)


class _RgbImages(Dataset[Tensor]):
    """Images one by one as uint8 (3, h, w), grey repeated."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index].expand(3, -1, -1).cpu()


def inception_weights(weights: Path | None = None) -> Path:
    """The file of Inception weights that ``real_fid`` reads; FileNotFoundError where it is not at hand."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_FILE if weights is None else weights
    if not path.is_file():
        raise FileNotFoundError(f"weights={path} is not a file; put {_INCEPTION_FILE} of torch-fidelity there")
    return path


def check_fid(weights: Path | None = None) -> Path:
    """The file of ``inception_weights``; ImportError where torch-fidelity, which reads it, is not installed."""
    path = inception_weights(weights)
    if not is_installed("torch_fidelity"):
        raise ImportError(NO_FIDELITY)
    return path


def real_fid(real: Tensor, fake: Tensor, weights: Path | None = None) -> float:
    """The published FID of images uint8 (n, c, h, w), c is 1 or 3, by torch-fidelity and Inception weights.

    ``weights`` is the file of the Inception network of torch-fidelity; None looks where torch.hub keeps it.
    Nothing is ever downloaded. Raises ValueError for other images, FileNotFoundError where the weights are
    not at hand, ImportError where torch-fidelity cannot be imported.
    """
    for name, images in (("real", real), ("fake", fake)):
        check_images(name, images)
        if images.shape[1] not in (1, 3):
            raise ValueError(f"{name} has {images.shape[1]} channels; allowed are 1 or 3: convert them")
    path = inception_weights(weights)
    try:
        from torch_fidelity import calculate_metrics
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
        raise ImportError(NO_FIDELITY) from error
    metrics = calculate_metrics(
        input1=_RgbImages(fake),
        input2=_RgbImages(real),
        fid=True,
        feature_extractor=FID_EXTRACTOR,
        feature_extractor_weights_path=str(path),
        cuda=real.is_cuda,
        cache=False,
        verbose=False,
    )
    return float(metrics["frechet_inception_distance"])
