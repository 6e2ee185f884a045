import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from oneblock.data.folder import list_files, load_folder
from oneblock.data.imageset import ImageSet
from oneblock.data.tree import split_of

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.usefixtures("own_cache")
OF_ELEVEN = (
    r"9 of 11 files of the train split are used; left out: not an image: 1 \(dog/text.png\), unreadable: 1 "
    r"\(dog/half.png \(image file is truncated\)\); not looked at: hidden or of a system: 1 \(dog/.hidden\)$"
)


def write(root: Path, name: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), colour: object = None) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if colour is not None else 0).save(path)


def write_train(root: Path, mode: str = "RGB") -> None:
    """Two classes of four images each in `train`, and one each in `test`."""
    for label, folder in enumerate(("cat", "dog")):
        for number in range(4):
            write(root, f"train/{folder}/{number}.png", mode)
        write(root, f"test/{folder}/t{label}.png", mode)


def one(root: Path, size: int, channels: int | None = None) -> torch.Tensor:
    """The pixels of the one image of class `a`, which has a black neighbour `b`."""
    return load_train(root, size, channels).images[0]


def load_train(root: Path, size: int | None = None, channels: int | None = None) -> ImageSet:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_folder(root, "train", size, channels)


def pair(root: Path, mode: str, colour: object, size: tuple[int, int] = (8, 8)) -> Path:
    for split in ("train", "test"):
        write(root, f"{split}/a/x.png", mode, size, colour)
    return root


def test_classes_and_splits(tmp_path: Path) -> None:
    write_train(tmp_path)
    train, test = (load_folder(tmp_path, split, 8) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert test.labels.tolist() == [0, 1]
    assert (train.shape, train.skipped, train.name) == ((3, 8, 8), (), f"folder:{tmp_path.name}")


def test_mixed_sizes_keep_the_centre(tmp_path: Path) -> None:
    stripes = np.zeros((4, 12), dtype=np.uint8)
    stripes[:, 4:8] = 200
    for name, array in (("wide", stripes), ("tall", stripes.T), ("big", stripes.repeat(3, 0).repeat(3, 1))):
        path = tmp_path / "train" / "a" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    write(tmp_path, "test/a/x.png", "L")
    images = load_train(tmp_path, 4).images
    assert tuple(images.shape) == (3, 1, 4, 4)
    assert torch.equal(images[1:], torch.full((2, 1, 4, 4), 200, dtype=torch.uint8))
    assert images[0, 0, 1:3, 1:3].float().mean() > 195
    assert load_train(tmp_path).shape == (1, 32, 32)


def test_rows_and_columns_are_not_swapped(tmp_path: Path) -> None:
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    pair(tmp_path, "RGB", 0)
    Image.fromarray(pixels).save(tmp_path / "train/a/x.png")
    assert torch.equal(one(tmp_path, 4), torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, [77]),
        ("1", 1, [255]),
        ("I;16", 257 * 40, [40]),
        ("LA", (0, 0), [255]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (200, 10, 0, 0), [255, 255, 255]),
        ("RGBA", (200, 10, 0, 255), [200, 10, 0]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
    ],
)
def test_modes_alone(tmp_path: Path, mode: str, colour: object, expected: list[int]) -> None:
    image = one(pair(tmp_path, mode, colour), 8)
    assert image[:, 3, 3].tolist() == expected


def test_palette_and_cmyk_are_colour(tmp_path: Path) -> None:
    pair(tmp_path, "RGB", (255, 0, 0))
    Image.new("RGB", (8, 8), (255, 0, 0)).convert("P").save(tmp_path / "train/a/x.png")
    assert one(tmp_path, 8)[:, 0, 0].tolist() == [255, 0, 0]
    (tmp_path / "train/a/x.png").unlink()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "train/a/x.tif")
    assert one(tmp_path, 8)[:, 0, 0].tolist() == [255, 0, 0]


def test_channels_convert(tmp_path: Path) -> None:
    pair(tmp_path, "RGB", (255, 0, 0))
    assert one(tmp_path, 8, 1)[:, 0, 0].tolist() == [76]
    pair(tmp_path, "I;16", 257 * 40)
    assert one(tmp_path, 8, 3)[:, 0, 0].tolist() == [40, 40, 40]


def test_camera_orientation_is_applied(tmp_path: Path) -> None:
    pair(tmp_path, "L", 0)
    picture = np.zeros((4, 4), dtype=np.uint8)
    picture[0] = 255
    turned = Image.fromarray(picture)
    exif = turned.getexif()
    exif[274] = 3
    turned.save(tmp_path / "train/a/x.png", exif=exif)
    assert one(tmp_path, 4)[0, :, 0].tolist() == [0, 0, 0, 255]


def test_mixed_kinds_are_refused_and_counted(tmp_path: Path) -> None:
    write_train(tmp_path)
    write(tmp_path, "test/dog/grey.png", "L")
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"mixes grey and colour images \(1 L, 10 RGB\).*\(--channels\)"):
            load_folder(tmp_path, split)
    assert load_folder(tmp_path, "test", 8, 3).shape == (3, 8, 8)


def test_corrupt_files_are_skipped_and_named(tmp_path: Path) -> None:
    write_train(tmp_path)
    (tmp_path / "train/dog/text.png").write_text("not an image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "train/dog/whole.png")
    content = (tmp_path / "train/dog/whole.png").read_bytes()
    (tmp_path / "train/dog/half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "train/dog/.hidden").write_text("not seen")
    with pytest.warns(UserWarning, match=OF_ELEVEN) as caught:
        images = load_folder(tmp_path, "train", 8)
    assert len(caught) == 1
    assert images.skipped == ("dog/half.png", "dog/text.png")
    assert images.labels.tolist() == [0] * 4 + [1] * 5


def test_many_corrupt_files_make_one_short_warning(tmp_path: Path) -> None:
    write_train(tmp_path)
    for number in range(8):
        (tmp_path / f"train/cat/bad{number}.png").write_text("x")
    with pytest.warns(
        UserWarning, match=r"8 of 16 files .*left out: not an image: 8 \(cat/bad0.png, .*bad2.png and 5 more\)$"
    ):
        assert len(load_folder(tmp_path, "train", 8).skipped) == 8


def test_split_by_name_is_stable_and_disjoint(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path, f"{'ab'[number % 2]}/{number}.png")
    names = {
        split: {file.name for file in list_files(tmp_path)[1] if file.split == split} for split in ("train", "test")
    }
    assert not names["train"] & names["test"]
    assert len(names["train"] | names["test"]) == 60
    assert len(load_folder(tmp_path, "test", 8)) == len(names["test"]) > 0
    write(tmp_path, "a/another.png")
    after = {file.name for file in list_files(tmp_path)[1] if file.split == "test"}
    assert after - {"a/another.png"} == names["test"]


def test_equal_file_names_of_two_classes_are_split_apart(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path, f"class{number}/same.png")
    assert {file.split for file in list_files(tmp_path)[1]} == {"train", "test"}


def test_one_name_in_ten_is_for_the_test() -> None:
    tests = [split_of(f"a/{number}.png") for number in range(5000)].count("test")
    assert 420 < tests < 580


def test_useless_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing does not exist; an existing folder"):
        load_folder(tmp_path / "nothing", "train")
    with pytest.raises(ValueError, match="has no images; one folder per class"):
        load_folder(tmp_path, "train")
    (tmp_path / "a").mkdir()
    with pytest.raises(
        ValueError, match=r"has no images \(folder without files: 1 \(a/\)\); one folder per class with 2 or more"
    ):
        load_folder(tmp_path, "train")
    (tmp_path / "a" / "x.png").write_text("x")
    with pytest.raises(ValueError, match=r"has no readable image \(left out: not an image: 1 \(a/x.png\)\); 2 or more"):
        load_folder(tmp_path, "train")
    write(tmp_path, "a/y.png")
    with pytest.raises(ValueError, match=r"has 1 readable image \(left out: .*\); 2 or more"):
        load_folder(tmp_path, "train")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    names = [name for name in map(str, range(40)) if split_of(f"a/{name}.png") == "train"]
    for name in names[:3]:
        write(tmp_path, f"a/{name}.png")
    assert len(load_folder(tmp_path, "train", 8)) == 3
    with pytest.raises(ValueError, match=r"0 of 0 files of the test split are used; this split has no readable image"):
        load_folder(tmp_path, "test")


def test_splits_must_agree_on_the_classes(tmp_path: Path) -> None:
    write_train(tmp_path)
    write(tmp_path, "train/fox/x.png")
    with pytest.warns(UserWarning, match=r"9 of 10 .*; no held-out images of fox$"):
        (tmp_path / "train" / "cat" / "note.txt").write_text("x")
        assert load_folder(tmp_path, "train", 8).classes == ("cat", "dog", "fox")
    write(tmp_path, "test/owl/x.png")
    with pytest.raises(ValueError, match=r"has held-out classes without training images \(owl\); .*add or rename"):
        load_folder(tmp_path, "train")
