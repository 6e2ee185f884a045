"""Folders of images with captions: tables and texts beside images, and what is left out of both."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

from oneblock.data.captions import METADATA, find_captions, load_captions
from oneblock.data.imageset import ImageSet, Split
from oneblock.data.tree import split_of

Image = pytest.importorskip("PIL.Image")


def save(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), grey).save(path)


def table(folder: Path, captions: Mapping[str, object]) -> None:
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in captions.items()]
    (folder / METADATA).write_text("\n".join(lines) + "\n")


def pairs(found: ImageSet) -> list[tuple[int, str]]:
    """Grey level and caption of each image."""
    levels = found.images.flatten(1)[:, 0].tolist()
    return [(level, found.classes[label]) for level, label in zip(levels, found.labels.tolist(), strict=True)]


def both(root: Path) -> list[tuple[int, str]]:
    return sorted(pair for split in ("train", "test") for pair in pairs(load_captions(root, split, size=4)))


def test_a_table_names_images_and_their_captions(tmp_path: Path) -> None:
    names = [f"images/{i}.png" for i in range(40)]
    for i, name in enumerate(names):
        save(tmp_path / name, i)
    table(tmp_path, {name: f"  grey {i % 3}\n level" for i, name in enumerate(names)})
    assert both(tmp_path) == [(i, f"grey {i % 3} level") for i in range(40)]
    test = load_captions(tmp_path, "test", size=4)
    assert [level for level, _ in pairs(test)] == [i for i, name in enumerate(names) if split_of(name) == "test"]
    assert test.classes == ("grey 0 level", "grey 1 level", "grey 2 level")
    assert test.name == f"captions:{tmp_path.name}"


@pytest.mark.parametrize("held_out", ["test", "valid"])
def test_folders_of_splits_and_texts_beside_images(tmp_path: Path, held_out: str) -> None:
    for level, (folder, text) in enumerate((("train/a", "one"), ("train/b", "two"), (held_out, "two"))):
        save(tmp_path / folder / "1.png", level)
        (tmp_path / folder / "1.txt").write_text(f"{text}\n", "utf-8-sig")
    assert pairs(load_captions(tmp_path, "train", size=4)) == [(0, "one"), (1, "two")]
    test = load_captions(tmp_path, "test", size=4)
    assert pairs(test) == [(2, "two")] and test.classes == ("one", "two")


def test_a_table_in_each_split(tmp_path: Path) -> None:
    for level, split in enumerate(("train", "test")):
        save(tmp_path / split / "x.png", level)
        table(tmp_path / split, {"x.png": split})
    assert pairs(load_captions(tmp_path, "train", size=4)) == [(0, "train")]
    assert pairs(load_captions(tmp_path, "test", size=4)) == [(1, "test")]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    for level, name in enumerate(("train/a.png", "test/b.png", "train/alone.png", "c.png", "train/broken.png")):
        save(tmp_path / name, level)
    (tmp_path / "train" / "broken.png").write_bytes(b"no image")
    rows = {name: "words" for name in ("train/a.png", "test/b.png", "train/gone.png", "c.png", "train/broken.png")}
    table(tmp_path, rows | {"train/alone.png": " "})
    with pytest.warns(UserWarning) as seen:
        found = load_captions(tmp_path, "train", size=4)
    assert pairs(found) == [(0, "words")]
    assert found.skipped == ("c.png", "train/alone.png", "train/broken.png", "train/gone.png")
    (said,) = (str(one.message) for one in seen)
    assert said.startswith(f"captions:{tmp_path.name}: 1 images of the train split are used; left out: ")
    for part in ("file not there: 1 (train/gone.png)", "empty caption: 1 (train/alone.png)"):
        assert part in said
    assert "beside train/ and test/: 1 (c.png)" in said and "train/broken.png" in said


def test_images_without_a_text_are_left_out(tmp_path: Path) -> None:
    for level, name in enumerate(("1", "2", "3", "4")):
        save(tmp_path / f"{name}.png", level)
    (tmp_path / "1.txt").write_text("words")
    (tmp_path / "2.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "4.txt").write_text("w" * 70_000)
    found = find_captions(tmp_path)
    assert found.captions == {"1.png": "words"}
    assert found.left_out == {
        "caption empty, too long or not UTF-8": ["2.png", "4.png"],
        "no caption": ["3.png"],
    }


def test_nothing_is_said_where_all_is_used(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / split / "1.png", 1)
        (tmp_path / split / "1.txt").write_text("words")
    (tmp_path / ".hidden").mkdir()
    save(tmp_path / ".hidden" / "2.png", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_captions(tmp_path, "train", size=4).skipped == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("{", r"metadata\.jsonl, line 2 is not JSON as oneblock writes it", id="no-json"),
        pytest.param('{"file_name": "1.png"}', r"line 2 has no texts 'file_name' and 'text'", id="no-text"),
        pytest.param("[1]", r"line 2 has no texts 'file_name' and 'text'", id="a-list"),
        pytest.param('{"file_name": "../1.png", "text": "x"}', r"file_name='\.\./1\.png' is not below", id="outside"),
        pytest.param('{"file_name": "/1.png", "text": "x"}', r"file_name='/1\.png' is not below", id="absolute"),
        pytest.param('{"file_name": "1.png", "text": "x"}', r"line 2: 1\.png has a caption already", id="twice"),
    ],
)
def test_a_line_that_is_no_caption_is_refused(tmp_path: Path, line: str, message: str) -> None:
    save(tmp_path / "1.png", 1)
    (tmp_path / METADATA).write_text('{"file_name": "1.png", "text": "first"}\n' + line)
    with pytest.raises(ValueError, match=message):
        find_captions(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_folders_without_captions_or_images_are_refused(tmp_path: Path, split: Split) -> None:
    with pytest.raises(ValueError, match="is not a folder; give one with images"):
        load_captions(tmp_path / "none", split)
    save(tmp_path / "1.png", 1)
    with pytest.raises(ValueError, match=r"has no captions \(no caption: 1 \(1\.png\)\); write metadata\.jsonl"):
        load_captions(tmp_path, split)
    (tmp_path / "1.txt").write_text("words")
    other = "test" if split_of("1.png") == "train" else "train"
    with pytest.raises(ValueError, match=f"has no images with captions in its {other} split"):
        load_captions(tmp_path, other)  # type: ignore[arg-type]
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="has no readable images with captions"):
        load_captions(tmp_path, split)
