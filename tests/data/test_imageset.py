import hashlib
from dataclasses import replace

import pytest
import torch

from oneblock.data.imageset import ImageSet, pad_to, with_channels
from oneblock.data.synthetic import SHAPES, synthetic_images


def make(num: int = 6, channels: int = 1) -> ImageSet:
    return synthetic_images(num, 8, channels, 3, seed=1)


def test_properties() -> None:
    images = make(channels=3)
    assert (len(images), images.shape, images.num_classes) == (6, (3, 8, 8), 3)


def test_fingerprint_sees_every_field_that_matters() -> None:
    images = make()
    one_pixel = images.images.clone()
    one_pixel[5, 0, 7, 7] ^= 1
    swapped = images.labels[[1, 0, 2, 3, 4, 5]]
    others = [
        replace(images, images=one_pixel),
        replace(images, labels=swapped),
        replace(images, classes=("a", "b", "c")),
        replace(images, images=images.images.reshape(6, 1, 4, 16)),
    ]
    prints = {images.fingerprint(), *(other.fingerprint() for other in others)}
    assert len(prints) == 5
    assert all(len(digits) == 16 and int(digits, 16) >= 0 for digits in prints)


def test_fingerprint_sees_content_not_memory_layout() -> None:
    images = make(channels=3)
    turned = images.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    same = replace(images, images=turned, name="other", skipped=("x",))
    assert same.fingerprint() == images.fingerprint()


def test_fingerprint_is_what_it_says() -> None:
    images = ImageSet(torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2), torch.tensor([0]), ("a",), "x")
    content = b"((1, 1, 2, 2), ('a',))" + bytes(8) + bytes(range(4))
    assert images.fingerprint() == hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(6, 1, 8, 8)}, "dtype torch.float32; only torch.uint8"),
        (
            {"images": torch.zeros(6, 2, 8, 8, dtype=torch.uint8)},
            r"shape \(6, 2, 8, 8\); \(n, 1 or 3, h, w\)",
        ),
        ({"images": torch.zeros(0, 1, 8, 8, dtype=torch.uint8)}, "at least one image"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, r"shape \(5,\); torch.int64 of shape \(6,\)"),
        ({"labels": torch.zeros(6, dtype=torch.int32)}, "dtype torch.int32"),
        ({"labels": torch.tensor([0, 1, 2, 3, 0, 0])}, r"labels lie in 0\.\.3; 0\.\.2 is allowed"),
        ({"labels": torch.tensor([0, -1, 2, 2, 0, 0])}, r"labels lie in -1\.\.2"),
        ({"classes": ("a", "b", "a")}, "holds a name twice"),
    ],
)
def test_broken_fields_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make(), **changes)


def test_padding_is_centred_and_black() -> None:
    images = torch.full((2, 1, 3, 3), 7, dtype=torch.uint8)
    padded = pad_to(images, 6, "x")
    expected = torch.zeros(2, 1, 6, 6, dtype=torch.uint8)
    expected[:, :, 1:4, 1:4] = 7
    torch.testing.assert_close(padded, expected)
    assert pad_to(images, None, "x") is images
    with pytest.raises(ValueError, match="size=2 is smaller than the 3 pixels of x; 3 or more"):
        pad_to(images, 2, "x")


def test_channels_repeat_or_weigh() -> None:
    colour = torch.tensor([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]).reshape(4, 3, 1, 1).to(torch.uint8)
    grey = with_channels(colour, 1)
    assert grey.flatten().tolist() == [76, 150, 29, 255]
    assert with_channels(grey, 3)[1, :, 0, 0].tolist() == [150, 150, 150]
    with pytest.raises(ValueError, match="channels=2 is not possible; None, 1 or 3"):
        with_channels(colour, 2)


def test_synthetic_images_follow_the_seed() -> None:
    first, same, other = (synthetic_images(16, 12, 3, 8, seed) for seed in (0, 0, 1))
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()
    assert first.classes == SHAPES
    assert torch.bincount(first.labels).tolist() == [2] * 8


@pytest.mark.parametrize("channels", [1, 3])
def test_synthetic_classes_can_be_told_apart(channels: int) -> None:
    train, test = (synthetic_images(400, 12, channels, 8, seed).images.float() for seed in (0, 1))
    labels = torch.arange(400) % 8
    means = torch.stack([train[labels == label].mean(0) for label in range(8)]).flatten(1)
    unit = means / means.norm(dim=1, keepdim=True)
    guesses = (test.flatten(1) @ unit.T).argmax(1)
    assert (guesses == labels).float().mean() > 0.6


@pytest.mark.parametrize(
    ("num", "size", "channels", "num_classes", "message"),
    [
        (0, 8, 1, 2, "num=0 is too small"),
        (1, 3, 1, 2, "size=3 is too small to draw"),
        (1, 0, 1, 2, "size=0 is not possible"),
        (1, 8, 4, 2, "channels=4 is not possible"),
        (1, 8, 1, 9, "num_classes=9 is not possible; 1 to 8"),
    ],
)
def test_synthetic_refuses(num: int, size: int, channels: int, num_classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_images(num, size, channels, num_classes, 0)
