"""Features of captions on pictures whose captions can be seen."""

import math

import pytest
import torch
from torch import Tensor

from oneblock.metrics import caption_features
from oneblock.metrics.caption_features import CaptionNetwork, restored, train_caption_features
from oneblock.metrics.retrieval import own_among_nearest


def corners(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise uint8 (count, 1, 12, 12) with a light quarter, and which of the four it is."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(60, (count, 1, 12, 12), dtype=torch.uint8, generator=generator)
    labels = torch.randint(4, (count,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        y, x = 6 * (label // 2), 6 * (label % 2)
        image[:, y : y + 6, x : x + 6] += 150
    return images, labels


def test_images_it_has_not_seen_find_their_caption() -> None:
    texts = torch.eye(6)[:4]
    told: list[tuple[int, int]] = []
    features = train_caption_features(*corners(48, 0), texts, told=lambda *steps: told.append(steps))
    images, labels = corners(40, 1)
    found, captions = features(images), features.texts(texts)
    assert own_among_nearest(found, captions, labels).mean() > 0.9
    torch.testing.assert_close(found.norm(dim=1), torch.ones(40))
    assert found.shape == (40, features.dim) and captions.shape == (4, features.dim)
    assert told == [(step, 40) for step in range(1, 41)], "40 epochs of one batch"


def test_it_is_the_same_again_and_when_it_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_features, "EPOCHS", 3)
    images, labels = corners(24, 0)
    one = train_caption_features(images, labels, torch.eye(4), "abc")
    torch.rand(5)  # others draw too
    again = train_caption_features(images, labels, torch.eye(4), "abc")
    assert one(images).equal(again(images))
    assert not one(images).equal(train_caption_features(images, labels, torch.eye(4), seed=1)(images))
    back = restored(one.tensors(), "abc")
    assert back(images).equal(one(images)) and back.texts(torch.eye(4)).equal(one.texts(torch.eye(4)))
    assert back.weights_hash == one.weights_hash == "abc"


def test_batches_and_channels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = caption_features.CaptionFeatures(CaptionNetwork(3))
    images, _ = corners(10, 0)
    whole = features(images)
    monkeypatch.setattr(caption_features, "BATCH", 4)
    torch.testing.assert_close(features(images), whole)
    torch.testing.assert_close(features(images.expand(-1, 3, -1, -1)), whole)


def test_the_loss_by_hand() -> None:
    network = CaptionNetwork(2)
    network.image, network.text = torch.nn.Flatten(), torch.nn.Identity()
    with torch.no_grad():
        network.log_scale.fill_(math.log(2.0))
    images, texts = torch.tensor([[3.0, 0.0], [0.0, 5.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 7.0]])
    found = network.loss(images, texts, torch.tensor([0, 1, 1]))
    # similarities: 2 0, 0 2, 2 0; the third image is told the second caption
    e = math.exp(2)
    among_captions = [2 - math.log(e + 1), 2 - math.log(e + 1), -math.log(e + 1)]
    among_images = [2 - math.log(2 * e + 1), 2 - math.log(e + 2), -math.log(e + 2)]
    assert found.item() == pytest.approx(-(sum(among_captions) + sum(among_images)) / 6, rel=1e-6)


def test_images_are_moved_whole_and_no_further_than_they_should_be() -> None:
    pixels = torch.zeros(200, 3, caption_features.SIZE, caption_features.SIZE)
    pixels[:, :, 10, 20] = 1.0
    moved = caption_features._shifted(pixels, torch.Generator().manual_seed(0))
    assert moved.sum((1, 2, 3)).tolist() == [3.0] * 200, "one point of each"
    found = {(y, x) for _, y, x in moved[:, 0].nonzero().tolist()}
    assert found == {(y, x) for y in range(8, 13) for x in range(18, 23)}


def test_every_image_is_seen_before_one_is_seen_again() -> None:
    steps = caption_features._batches(10, 4, 5, torch.Generator().manual_seed(0))
    assert [len(step) for step in steps] == [4] * 5
    assert sorted(torch.cat(steps)[:10].tolist()) == list(range(10))


def test_one_caption_is_refused() -> None:
    images, labels = corners(8, 0)
    with pytest.raises(ValueError, match=r"the images have 1 different caption; .*: give images with other captions"):
        train_caption_features(images, torch.zeros_like(labels), torch.eye(4))
    with pytest.raises(ValueError, match=r"images is torch\.float32"):
        train_caption_features(images.float(), labels, torch.eye(4))
