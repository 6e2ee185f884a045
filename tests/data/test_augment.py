import random
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oneblock.data import augment
from oneblock.data.augment import COLOUR_OPERATIONS, MAX_MAGNITUDE, OPERATIONS, Augmentation, random_crop
from oneblock.data.errors import MissingExtraError
from oneblock.data.transforms import random_flip

ALL = Augmentation(flip=True, crop=2, operations=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int, channels: int = 1, size: int = 8) -> Tensor:
    return 2 * torch.rand(num, channels, size, size, generator=seeded(5)) - 1


def require_kornia(augmentation: Augmentation) -> None:
    if augmentation.operations:
        pytest.importorskip("kornia")


def test_nothing_asked_for_changes_nothing() -> None:
    images, generator = pictures(3), seeded()
    state = generator.get_state()
    assert Augmentation()(images, generator) is images
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(flip=True), Augmentation(crop=2), Augmentation(operations=1), Augmentation(operations=14), ALL],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_everything_follows_from_the_generator(augmentation: Augmentation, channels: int) -> None:
    require_kornia(augmentation)
    images = pictures(24, channels)
    before = images.clone()
    torch.manual_seed(1)
    states = torch.get_rng_state(), random.getstate()
    first = augmentation(images, seeded(3))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    torch.manual_seed(2)
    assert torch.equal(augmentation(images, seeded(3)), first)
    assert not torch.equal(augmentation(images, seeded(4)), first)
    assert (first.shape, first.dtype, first.requires_grad) == (images.shape, torch.float32, False)
    assert -1 <= first.min() and first.max() <= 1
    assert torch.equal(images, before)


def test_the_next_batch_is_changed_otherwise() -> None:
    generator = seeded()
    assert not torch.equal(*(Augmentation(crop=2)(pictures(8), generator) for _ in range(2)))
    pytest.importorskip("kornia")
    assert not torch.equal(*(Augmentation(operations=2)(pictures(8), generator) for _ in range(2)))


def test_flip_by_hand() -> None:
    images = torch.tensor([[-1.0, 0.5], [0.0, 1.0]]).expand(40, 1, 2, 2)
    mirrored = torch.tensor([[0.5, -1.0], [1.0, 0.0]])
    toss = torch.rand(40, generator=seeded()) < 0.5
    found = Augmentation(flip=True)(images, seeded())
    for image, turned in zip(found, toss.tolist(), strict=True):
        assert torch.equal(image[0], mirrored if turned else images[0, 0])
    assert torch.equal(found, random_flip(images, seeded()))


def test_crop_by_hand() -> None:
    images = torch.arange(1.0, 13.0).div(12).reshape(1, 1, 3, 4).repeat(200, 2, 1, 1)
    images[:, 1] *= -0.5
    top, left = torch.randint(5, (2, 200), generator=seeded()).tolist()
    expected = torch.full_like(images, -1.0)
    for i in range(200):
        for y in range(3):
            for x in range(4):
                row, column = y + top[i] - 2, x + left[i] - 2
                if 0 <= row < 3 and 0 <= column < 4:
                    expected[i, :, y, x] = images[i, :, row, column]
    assert torch.equal(random_crop(images, 2, seeded()), expected)
    assert len(expected.unique(dim=0)) == 25


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_gets_an_operation_of_its_own(channels: int) -> None:
    """Every result is that of one operation on the image in its place, and every operation occurs."""
    pytest.importorskip("kornia")
    images, draws = pictures(150, channels), 12
    candidates = augment._candidates(9, channels)
    found = (Augmentation(operations=1)(images, seeded()) + 1) / 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        many = ((images + 1) / 2).repeat_interleave(draws, 0)
        alone = torch.stack([operation(many) for operation in candidates]).unflatten(1, (150, draws))
    # solarize_add inverts from a random threshold on, so each pixel is one of two
    added = ((images + 1) / 2 + 0.43 * 9 / 30).clamp(0, 1)
    solarized = torch.where((added - found).abs() < 1e-5, added, 1 - added)
    alone[[name for name, *_ in OPERATIONS].index("solarize_add")] = solarized[:, None]
    differences = (alone - found[:, None]).abs().flatten(3).amax(3).amin(2)
    assert float(differences.amin(0).max()) < 1e-5
    assert set(differences.argmin(0).tolist()) == set(range(len(candidates)))
    assert len(candidates) == len(OPERATIONS) + (channels == 3)


def fakes(monkeypatch: pytest.MonkeyPatch, *candidates: Callable[[Tensor], Tensor]) -> None:
    monkeypatch.setattr(augment, "_candidates", lambda magnitude, channels: candidates)


def test_no_image_gets_an_operation_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, *(lambda x, mark=mark: x + 0.25 * mark for mark in torch.eye(9).view(9, 1, 3, 3)))
    found = Augmentation(operations=4)(torch.full((60, 1, 3, 3), -1.0), seeded())
    assert found.eq(-0.5).flatten(1).sum(1).eq(4).all()
    assert found.eq(-1.0).flatten(1).sum(1).eq(5).all()
    assert found.eq(-0.5).sum(0).min() > 10


def test_the_order_is_random_too(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, lambda x: x / 2, lambda x: x / 2 + 0.5)
    found = Augmentation(operations=2)(torch.full((200, 1, 1, 1), -1.0), seeded()).flatten()
    assert sorted(found.unique().tolist()) == [-0.5, 0.0]
    assert 70 < int(found.eq(0.0).sum()) < 130


def test_values_beyond_the_range_are_clamped(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, lambda x: 3 * x - 1)
    found = Augmentation(operations=1)(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3), seeded())
    assert found.flatten().tolist() == [-1.0, 0.0, 1.0]


def test_half_the_magnitude_leaves_the_colours() -> None:
    pytest.importorskip("kornia")
    names = [name for name, *_ in OPERATIONS + COLOUR_OPERATIONS]
    images = (pictures(4, 3) + 1) / 2
    for name in ("color", "contrast", "brightness", "sharpness"):
        changed = [augment._candidates(magnitude, 3)[names.index(name)](images) for magnitude in (1, 15, 29)]
        torch.testing.assert_close(changed[1], images, rtol=0, atol=1e-6)
        assert min(float((changed[i] - images).abs().max()) for i in (0, 2)) > 0.1


def test_bare_ground_is_black_and_both_directions_occur() -> None:
    pytest.importorskip("kornia")
    names = [name for name, *_ in OPERATIONS]
    white = torch.ones(20, 1, 9, 9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shifted = augment._candidates(29, 1)[names.index("translate_x")](white)
    bare = {(float(image[0, 0, 0]) < 0.5, float(image[0, 0, -1]) < 0.5) for image in shifted}
    assert bare == {(True, False), (False, True)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": -1}, "crop=-1 is negative; 0 or more pixels are allowed"),
        ({"operations": -1}, "operations=-1 is not possible; 0 to 14 is allowed"),
        ({"operations": 15}, "operations=15 is not possible; 0 to 14 is allowed"),
        ({"magnitude": 0}, "magnitude=0 is not possible; 1 to 29 is allowed"),
        ({"magnitude": MAX_MAGNITUDE + 1}, "magnitude=30 is not possible; 1 to 29 is allowed"),
        ({"magnitude": -1}, "magnitude=-1 is not possible"),
        ({"magnitude": 31}, "magnitude=31 is not possible"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "dtype torch.uint8; only torch.float32 is allowed; use to_float"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.float64), "dtype torch.float64; only torch.float32"),
        (torch.zeros(1, 8, 8), r"shape \(1, 8, 8\); \(n, 1 or 3, h, w\) is allowed"),
        (torch.zeros(1, 4, 8, 8), r"shape \(1, 4, 8, 8\); \(n, 1 or 3, h, w\) is allowed; augment images"),
    ],
)
def test_wrong_images_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation()(images, seeded())


def test_a_crop_that_could_miss_the_image_is_refused() -> None:
    images = torch.zeros(2, 1, 5, 8)
    assert Augmentation(crop=4)(images, seeded()).shape == images.shape
    with pytest.raises(ValueError, match=r"crop=5 does not fit images of 5 x 8 pixels; 0 to 4 is allowed"):
        Augmentation(crop=5)(images, seeded())


def test_a_missing_kornia_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    augment._candidates.cache_clear()
    monkeypatch.setitem(sys.modules, "kornia.augmentation.auto", None)
    assert Augmentation(flip=True, crop=2)(pictures(2), seeded()).shape == (2, 1, 8, 8)
    with pytest.raises(MissingExtraError, match=r"needs the package kornia; .*pip install 'oneblock\[images\]'"):
        ALL(pictures(2), seeded())
