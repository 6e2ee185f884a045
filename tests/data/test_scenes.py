"""Generated scenes: what is drawn is what the caption says, and what the checker reads."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oneblock.data import load_images
from oneblock.data.memory import MemorySource
from oneblock.data.scenes import (
    COLOURS,
    GROUND,
    LEAST_SIZE,
    Checked,
    Group,
    Scene,
    Thing,
    _see,
    caption_agreement,
    captioned_scenes,
    check_scene,
    draw_scene,
    load_scenes,
    parse_scene,
    render,
    see,
)

SQUARES, CIRCLE = Group(2, "red", "square"), Group(1, "blue", "circle")
LEFT = Scene(SQUARES, "left of", CIRCLE)


def picture(scene: Scene, seed: int = 0, size: int = 32) -> Tensor:
    return render(scene, size, torch.Generator().manual_seed(seed))


def painted(*things: tuple[int, int, int, int, Any]) -> Tensor:
    """Boxes (top, left, height, width, colour) on the ground, (3, 16, 16)."""
    image = torch.tensor(GROUND, dtype=torch.uint8)[:, None, None].repeat(1, 16, 16)
    for top, left, height, width, colour in things:
        colours = torch.tensor(COLOURS[colour], dtype=torch.uint8)[:, None, None]
        image[:, top : top + height, left : left + width] = colours
    return image


def test_captions_are_written_and_read() -> None:
    assert str(LEFT) == "two red squares left of a blue circle"
    assert str(Scene(Group(3, "green", "triangle"))) == "three green triangles"
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_scene(generator) for _ in range(300)]
    assert [parse_scene(str(scene)) for scene in drawn] == drawn
    assert {scene.relation for scene in drawn} == {None, "left of", "right of", "above", "below"}
    assert 60 < sum(scene.second is None for scene in drawn) < 140
    assert {scene.first.count for scene in drawn} == {1, 2, 3}


@pytest.mark.parametrize("size", [LEAST_SIZE, 32, 41])
def test_every_picture_is_what_its_caption_says(size: int) -> None:
    found = captioned_scenes(60, size, seed=size)
    captions = [found.classes[label] for label in found.labels]
    assert found.images.shape == (60, 3, size, size)
    assert caption_agreement(found.images, captions) == {
        "number": 1.0,
        "colours": 1.0,
        "shapes": 1.0,
        "relation": 1.0,
        "all_of_it": 1.0,
    }


def test_under_other_captions_little_is_right() -> None:
    found = captioned_scenes(60, 24, seed=1)
    others = [found.classes[label] for label in found.labels.roll(1)]
    shares = caption_agreement(found.images, others)
    assert shares["all_of_it"] == 0.0 and shares["relation"] < 0.2 and max(shares.values()) < 0.5


def test_things_are_seen_where_they_are() -> None:
    image = painted((1, 2, 5, 5, "green"), (8, 10, 4, 4, "yellow"), (15, 15, 1, 1, "red"))
    assert see(image) == [Thing("green", "square", (4.0, 3.0)), Thing("yellow", "square", (11.5, 9.5))]
    touching = painted((1, 1, 5, 5, "red"), (6, 6, 5, 5, "red"))
    assert len(see(touching)) == 2, "corners are no neighbours"
    assert len(see(painted((1, 1, 5, 5, "red"), (1, 6, 5, 5, "red")))) == 1
    assert [thing.colour for thing in see(painted((1, 1, 5, 5, "red"), (1, 6, 5, 5, "blue")))] == ["red", "blue"]


def test_a_little_noise_changes_nothing() -> None:
    image = picture(LEFT)
    noise = torch.randint(-25, 26, image.shape, generator=torch.Generator().manual_seed(0))
    assert see((image.int() + noise).clamp(0, 255).to(torch.uint8)) == see(image)


@pytest.mark.parametrize("seed", range(6))
def test_a_blurred_picture_shows_the_same(seed: int) -> None:
    for first, second in (("yellow", "green"), ("red", "blue")):
        scene = Scene(Group(2, first, "circle"), "above", Group(1, second, "triangle"))  # type: ignore[arg-type]
        large = F.interpolate(picture(scene, seed)[None].float(), scale_factor=2, mode="bilinear")[0]
        assert check_scene(large.round().to(torch.uint8), scene).all_of_it


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param(LEFT, Checked(True, True, True, True, True), id="all"),
        pytest.param(Scene(CIRCLE, "right of", SQUARES), Checked(True, True, True, True, True), id="said-otherwise"),
        pytest.param(replace(LEFT, relation="right of"), Checked(True, True, True, False, False), id="relation"),
        pytest.param(replace(LEFT, relation="above"), Checked(True, True, True, None, None), id="another-axis"),
        pytest.param(
            replace(LEFT, first=Group(3, "red", "square")), Checked(False, False, False, True, False), id="number"
        ),
        pytest.param(
            replace(LEFT, first=Group(2, "green", "square")), Checked(True, False, True, False, False), id="colour"
        ),
        pytest.param(
            replace(LEFT, first=Group(2, "red", "triangle")), Checked(True, True, False, False, False), id="shape"
        ),
        pytest.param(
            Scene(Group(2, "blue", "square"), "left of", Group(1, "red", "circle")),
            Checked(True, False, True, False, False),
            id="swapped-colours",
        ),
    ],
)
def test_each_attribute_is_checked_alone(shown: Scene, expected: Checked) -> None:
    for seed in range(4):
        found = check_scene(picture(shown, seed), LEFT)
        for name in ("number", "colours", "shapes", "relation", "all_of_it"):
            assert getattr(expected, name) in (None, getattr(found, name)), name


def test_a_relation_is_of_each_thing_to_each() -> None:
    scene = parse_scene("two red squares left of a blue square")
    between = painted((2, 1, 4, 4, "red"), (2, 11, 4, 4, "red"), (9, 6, 4, 4, "blue"))
    assert check_scene(between, scene) == Checked(True, True, True, False, False)
    beside = painted((2, 1, 4, 4, "red"), (2, 6, 4, 4, "red"), (9, 11, 4, 4, "blue"))
    assert check_scene(beside, scene).all_of_it


def test_a_caption_without_relation_has_none_to_check() -> None:
    alone = Scene(SQUARES)
    assert check_scene(picture(alone), alone) == Checked(True, True, True, None, True)
    more = check_scene(picture(LEFT), alone)
    assert not more.all_of_it and not more.number
    assert "relation" not in caption_agreement(picture(alone)[None], [str(alone)])


def test_scenes_follow_from_the_seed_and_are_a_source() -> None:
    first, same, other = captioned_scenes(8, 24, 3), captioned_scenes(8, 24, 3), captioned_scenes(8, 24, 4)
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()
    source = MemorySource(first)
    values, labels = source.batch(0, 4, 0)
    assert labels is not None
    for image, label in zip(values, labels, strict=True):
        pixels = ((image + 1) * 127.5).round().to(torch.uint8)
        assert check_scene(pixels, parse_scene(source.classes[int(label)])).all_of_it


def test_what_is_no_scene_is_refused() -> None:
    for caption in ("two red square", "a red squares", "four red squares", "a pink square", "", "a red square near"):
        with pytest.raises(ValueError, match=r"is not one of scenes; write e\.g\. 'two red squares left of"):
            parse_scene(caption)
    with pytest.raises(ValueError, match="both groups are red squares"):
        Scene(SQUARES, "above", Group(1, "red", "square"))
    with pytest.raises(ValueError, match="give both or none"):
        Scene(SQUARES, "above")
    with pytest.raises(ValueError, match="count=4 is not allowed"):
        Group(4, "red", "square")
    with pytest.raises(ValueError, match="size=23 is not allowed"):
        captioned_scenes(1, 23)
    with pytest.raises(ValueError, match=r"torch.uint8 \(3, h, w\) is allowed"):
        see(torch.zeros(1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="1 images have 2 captions"):
        caption_agreement(picture(LEFT)[None], ["a", "b"])


def test_scenes_by_name_have_two_splits_and_one_list_of_captions() -> None:
    train, test = (load_scenes("scenes,images=40", split, 24) for split in ("train", "test"))
    assert (len(train), len(test)) == (40, 10)
    assert train.captioned and train.classes == test.classes
    assert len({*train.labels.tolist(), *test.labels.tolist()}) == train.num_classes, "every caption is of an image"
    for split in (train, test):
        captions = [split.classes[label] for label in split.labels.tolist()]
        assert caption_agreement(split.images, captions)["all_of_it"] == 1
    assert not torch.equal(train.labels[:10], test.labels), "drawn apart"
    assert load_images("scenes,images=8", channels=1).images.shape == (8, 1, 32, 32)
    for wrong in ("scenes,pictures=3", "scenes,images=0", "scenes,images=3,images=4", "scenes,images"):
        with pytest.raises(ValueError, match="is unknown; write scenes, or scenes,images=NUMBER"):
            load_scenes(wrong)
    with pytest.raises(ValueError, match="size=23"):
        load_scenes("scenes", size=23)


def test_pictures_are_seen_alike_alone_and_together() -> None:
    found = captioned_scenes(12, 24, seed=5)
    blank = torch.zeros_like(found.images[:1])
    images = torch.cat([found.images[:6], blank, found.images[6:]])
    assert _see(images) == [see(image) for image in images]
    assert _see(images)[6] == [] and _see(blank) == [[]]
