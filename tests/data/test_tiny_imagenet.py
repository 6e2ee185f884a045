from pathlib import Path

import pytest
import torch

from oneblock.data.sources import load_images
from oneblock.data.tiny_imagenet import load_tiny_imagenet

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.usefixtures("own_cache")

WORDS = "n00\tentity\nn03\tcrane, derrick\nn01\tcrane\nn02\tgoldfish, Carassius auratus\n"
# the middle of the range survives JPEG exactly where an image has one colour
GREY, RED = 128, (200, 60, 40)


def write_image(path: Path, mode: str = "L", colour: object = GREY, side: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), colour).save(path, format="JPEG", quality=100, subsampling=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of two, three and one training images, four validation images; n02 is red and the rest grey."""
    root = tmp_path / "tiny-imagenet-200"
    for wnid, num in (("n03", 1), ("n01", 2), ("n02", 3)):
        for number in range(num):
            colour = ("RGB", RED) if wnid == "n02" else ("L", 10 * number + int(wnid[1:]))
            write_image(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", *colour)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("not read")
    lines = []
    for number, wnid in enumerate(("n02", "n03", "n01", "n02")):
        write_image(root / "val" / "images" / f"val_{number}.JPEG", "L", 100 + number)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    (root / "words.txt").write_text(WORDS)
    return root


def test_labels_follow_the_sorted_ids_and_the_classes_take_turns(folder: Path) -> None:
    train = load_tiny_imagenet(folder, "train")
    assert train.classes == ("crane n01", "goldfish", "crane n03")
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 1]
    assert (train.shape, train.name) == ((3, 64, 64), "tiny-imagenet")
    assert train.images[[0, 2, 3], 0, 5, 5].tolist() == [1, 3, 11]
    assert torch.equal(train.images[0], torch.ones(3, 64, 64, dtype=torch.uint8))
    red = train.images[train.labels == 1].int() - torch.tensor(RED)[:, None, None]
    assert int(red.abs().max()) <= 2


def test_validation_images_are_the_test_split_in_their_order(folder: Path) -> None:
    test = load_tiny_imagenet(folder, "test")
    assert test.labels.tolist() == [1, 2, 0, 1]
    assert test.images[:, 2, 7, 7].tolist() == [100, 101, 102, 103]
    assert test.classes == load_tiny_imagenet(folder, "train").classes


def test_the_parent_and_the_folder_are_the_same(folder: Path) -> None:
    found = [
        load_images(f"tiny-imagenet:{folder}", "test"),
        load_images(f"tiny-imagenet:{folder.parent}", "test"),
        load_images("tiny-imagenet:.", "test", root=folder.parent),
    ]
    assert len({images.fingerprint() for images in found}) == 1
    assert load_images(f"tiny-imagenet:{folder}", size=70, channels=1).shape == (1, 70, 70)
    with pytest.raises(ValueError, match="size=32 is smaller than the 64 pixels of tiny-imagenet"):
        load_images(f"tiny-imagenet:{folder}", size=32)


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_missing_and_empty_files_are_named(folder: Path, name: str) -> None:
    (folder / name).write_text("\n")
    with pytest.raises(ValueError, match=rf"{name} is empty; one line or more is allowed; unpack .*zip again"):
        load_tiny_imagenet(folder, "test")
    (folder / name).unlink()
    with pytest.raises(
        ValueError, match=rf"{name} does not exist; tiny-imagenet:DIR needs wnids.txt, words.txt, train/"
    ):
        load_tiny_imagenet(folder, "test")


def test_missing_and_damaged_images_are_named(folder: Path) -> None:
    path = folder / "train" / "n03" / "images" / "n03_0.JPEG"
    write_image(path, side=32)
    with pytest.raises(ValueError, match=r"n03_0.JPEG has 32 x 32 pixels; 64 x 64 is allowed; use folder:DIR"):
        load_tiny_imagenet(folder, "train")
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"n03_0.JPEG is not a readable image \(.*; a JPEG of 64 x 64 is allowed"):
        load_tiny_imagenet(folder, "train")
    path.unlink()
    with pytest.raises(ValueError, match=r"n03.images has no .JPEG files; one or more is allowed"):
        load_tiny_imagenet(folder, "train")
    (folder / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.raises(ValueError, match=r"val_2.JPEG is not a readable image \(.*No such file"):
        load_tiny_imagenet(folder, "test")


def test_files_that_contradict_each_other_are_named(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\t0\n")
    with pytest.raises(ValueError, match=r"annotations.txt gives val_0.JPEG the class 'n09'; an id of wnids.txt is"):
        load_tiny_imagenet(folder, "test")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\n")
    with pytest.raises(ValueError, match=r"gives val_0.JPEG the class ''"):
        load_tiny_imagenet(folder, "test")
    (folder / "words.txt").write_text("n01\tcrane\nn02\tgoldfish\n")
    with pytest.raises(
        ValueError, match=r"words.txt has no words for n03; a line for every id of wnids.txt is allowed"
    ):
        load_tiny_imagenet(folder, "train")
