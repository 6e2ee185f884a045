import pytest
import torch

from oneblock.data.transforms import random_flip, to_float, to_uint8


def test_every_byte_survives_the_round_trip() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    numbers = to_float(values)
    assert (numbers[0].item(), numbers[255].item()) == (-1.0, 1.0)
    torch.testing.assert_close(to_uint8(numbers), values)
    torch.testing.assert_close(to_uint8(numbers.double()), values)
    assert values.tolist() == list(range(256))


def test_to_uint8_rounds_and_clamps() -> None:
    step = 1 / 127.5
    numbers = torch.tensor([-3.0, -1 + 0.4 * step, -1 + 0.6 * step, 1 - 0.4 * step, 9.0, float("inf")])
    assert to_uint8(numbers).tolist() == [0, 0, 1, 255, 255, 255]


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.rand(1000, 3, 2, 5)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 430 < int(mirrored.sum()) < 570
    again = random_flip(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, flipped, rtol=0, atol=0)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype torch.float32; only torch.uint8"):
        to_float(torch.zeros(1))
    with pytest.raises(ValueError, match=r"dtype torch.uint8; only floating point"):
        to_uint8(torch.zeros(1, dtype=torch.uint8))
    with pytest.raises(ValueError, match="holds NaN"):
        to_uint8(torch.tensor([0.0, float("nan")]))
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\); \(n, c, h, w\)"):
        random_flip(torch.zeros(3, 4, 4), torch.Generator())
