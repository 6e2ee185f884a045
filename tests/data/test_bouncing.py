import math
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.data.bouncing import Bouncing, bouncing
from oneblock.data.idx import fashion_folders
from oneblock.data.videoset import VideoSet, VideoSource

SIZE, FRAMES = 16, 40


def one(start: tuple[float, float], velocity: tuple[float, float], side: int = 4) -> Bouncing:
    picture = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    pair = (torch.tensor([[list(x)]], dtype=torch.float64) for x in (start, velocity))
    return Bouncing(picture, *pair, None, (), "one", SIZE)


def test_pictures_are_reflected_by_the_walls() -> None:
    found = one((10.0, 1.0), (1.5, -0.25)).corners(8)[0, :, 0]
    row, column, by_hand = 10.0, 1.0, []
    down, right = 1.5, -0.25
    for _ in range(8):
        by_hand.append([row, column])
        row, column = row + down, column + right
        if row > 12:  # the room of a picture of 4 pixels
            row, down = 24 - row, -down
        if column < 0:
            column, right = -column, -right
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64))


def centre_of_mass(frames: Tensor) -> Tensor:
    """(n, f, 1, h, w) -> (n, f, 2)."""
    weights = frames[:, :, 0].double()
    weights = weights / weights.sum((2, 3), keepdim=True)
    line = torch.arange(frames.shape[-1], dtype=torch.float64)
    return torch.stack([(weights.sum(3) * line).sum(-1), (weights.sum(2) * line).sum(-1)], dim=-1)


@pytest.mark.parametrize("pictures", ["digits", "clothes"])
def test_places_are_those_of_what_is_seen(pictures: str) -> None:
    if pictures == "clothes" and not any(folder.is_dir() for folder in fashion_folders(None)):
        pytest.skip("Fashion-MNIST is not here")
    known = bouncing(pictures, "test", SIZE, count=20)
    seen = centre_of_mass(known.render(FRAMES))
    torch.testing.assert_close(seen, known.centres(FRAMES)[:, :, 0], rtol=0, atol=0.02)  # bytes are rounded
    assert known.corners(FRAMES).min() >= 0 and known.corners(FRAMES).max() <= SIZE / 2


def test_between_pixels_a_picture_keeps_its_brightness() -> None:
    moving = one((3.0, 5.0), (0.37, 0.11)).render(10)[0, :, 0].double().sum((1, 2))
    torch.testing.assert_close(moving, moving[:1].expand(10), rtol=2e-3, atol=0)
    still = one((3.0, 5.0), (0.0, 0.0))
    assert torch.equal(still.render(1)[0, 0, 0, 3:7, 5:9], (still.pictures[0, 0] * 255).round().to(torch.uint8))


def test_speeds_are_within_their_bounds_and_directions_are_all_alike() -> None:
    velocity = bouncing("digits", "train", SIZE, count=2000).velocity[:, 0]
    speed = velocity.norm(dim=-1)
    assert 0.4 <= speed.min() < 0.41 and 1.19 < speed.max() <= 1.2
    assert (velocity.mean(0).abs() < 0.05).all()


def test_longer_clips_begin_with_the_shorter_ones() -> None:
    known = bouncing("digits", "train", SIZE, count=5)
    assert torch.equal(known.render(12)[:, :4], known.render(4))


def test_several_pictures_are_seen_together_and_have_no_class() -> None:
    both = bouncing("digits", "train", 32, count=3, together=2)
    assert both.pictures.shape == (3, 2, 16, 16) and both.labels is None and both.classes == ()
    alone = [both.take(torch.arange(3)).__class__(**vars(both) | _only(both, k)) for k in range(2)]
    brighter = torch.maximum(*(part.render(4) for part in alone))
    assert torch.equal(both.render(4), brighter)


def _only(both: Bouncing, k: int) -> dict[str, Any]:
    return {name: getattr(both, name)[:, k : k + 1] for name in ("pictures", "start", "velocity")}


def test_clips_follow_from_the_split_alone() -> None:
    first, again = (bouncing("digits", "train", SIZE, count=6).videos(3) for _ in range(2))
    assert (
        first.fingerprint() == again.fingerprint() != bouncing("digits", "test", SIZE, count=6).videos(3).fingerprint()
    )
    assert first.shape == (3, 1, SIZE, SIZE) and first.classes == tuple("0123456789")
    assert len(bouncing("digits", "test", 4).videos(1)) == 500


def test_batches_of_clips() -> None:
    source = VideoSource(bouncing("digits", "train", SIZE, count=6).videos(3))
    values, labels = source.batch(0, 4, seed=0)
    every = source.samples()
    assert values.shape == (4, 3, 1, SIZE, SIZE) and values.min() >= -1 and values.max() <= 1
    assert labels is not None and every.labels is not None
    for value, label in zip(values, labels, strict=True):
        (found,) = [i for i in range(6) if torch.equal(every.values[i], value)]
        assert label == every.labels[found]
    assert source.nbytes == 6 * 3 * SIZE * SIZE + 6 * 8
    assert len(source.samples(2).values) == 2
    again = source.to(torch.device("cpu")).batch(0, 4, seed=0)
    assert torch.equal(again.values, values)
    with pytest.raises(
        ValueError, match="bouncing-digits has clips of 3 frames, and images are asked for; use samples"
    ):
        source.first()


CLIPS = torch.zeros(2, 3, 1, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((CLIPS.float(), None, ()), r"clips are torch.float32 \(2, 3, 1, 4, 4\); torch.uint8 \(n, frames, 1 or 3"),
        ((CLIPS[:, 0], None, ()), r"clips are torch.uint8 \(2, 1, 4, 4\)"),
        ((CLIPS, torch.zeros(2).long(), ()), r"classes=\(\) name the labels; give both, or neither"),
        ((CLIPS, torch.tensor([0, 1]), ("a",)), r"labels are torch.int64 \(2,\); give int64 \(2,\), from 0 to 0"),
        ((CLIPS, torch.zeros(3).long(), ("a",)), r"labels are torch.int64 \(3,\); give int64 \(2,\), from 0 to 0"),
    ],
)
def test_wrong_clips_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoSet(*fields, "mine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("emoji", "train", 16), "pictures='emoji' are unknown; use one of digits, clothes"),
        (("digits", "train", 3), "frame_size=3 leaves no room to move; use 4 or more pixels"),
        (("digits", "train", 16, 5, 0), "together=0, clips=5 are not possible; use 1 or more"),
    ],
)
def test_clips_that_cannot_be_made_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bouncing(*settings)


def test_a_direction_is_a_point_of_the_circle() -> None:
    velocity = bouncing("digits", "train", SIZE, count=4000).velocity[:, 0]
    angle = torch.atan2(velocity[:, 0], velocity[:, 1])
    quarters = torch.histc(angle.float(), 4, -math.pi, math.pi) / 4000
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.03)
