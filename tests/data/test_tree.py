import os
from pathlib import Path

import pytest

from oneblock.data.tree import UNLABELLED, Tree, find_files, natural, split_of


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 3)


def names(tree: Tree) -> list[str]:
    return [file.name for file in tree.files]


def test_classes_are_read_to_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "cat/big/lion/2.png", "cat/big/3.png", "dog/a/4.png")
    tree = find_files(tmp_path)
    assert names(tree) == ["cat/1.png", "cat/big/3.png", "cat/big/lion/2.png", "dog/a/4.png"]
    assert [file.kind for file in tree.files] == ["cat", "cat", "cat", "dog"]
    assert not tree.left_out and not tree.choices


def test_the_split_hashes_the_whole_name(tmp_path: Path) -> None:
    deep = [f"cat/some/folder/{number}.png" for number in range(40)]
    touch(tmp_path, *deep)
    found = {file.name: file.split for file in find_files(tmp_path).files}
    assert found == {name: split_of(name) for name in deep}
    assert set(found.values()) == {"train", "test"}
    held_out = [number for number in range(40) if split_of(f"cat/{number}.png") == "test"]
    assert held_out == [25, 32], "as it always was"


def test_classes_sort_by_their_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/x.png" for name in ("10", "2", "0", "1", "b10", "b9", "B")))
    kinds = [file.kind for file in find_files(tmp_path).files]
    assert kinds == ["0", "1", "2", "10", "B", "b9", "b10"]
    assert natural("01") != natural("1"), "a total order"


def test_what_is_not_meant_is_no_class_and_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "cat/x.png", "__MACOSX/y.png", ".ipynb_checkpoints/z.png", "cat/.hidden.png", "cat/__MACOSX/q.png")
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "cat" / "up").symlink_to(tmp_path / "cat", target_is_directory=True)
    (tmp_path / "cat" / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "self").symlink_to("self")
    tree = find_files(tmp_path)
    assert names(tree) == ["cat/x.png"]
    hidden = [".ipynb_checkpoints/", "__MACOSX/", "cat/.hidden.png", "cat/__MACOSX/"]
    assert sorted(tree.left_out.pop("hidden or of a system")) == hidden
    assert dict(tree.left_out) == {
        "folder without files": ["empty/"],
        "link to a folder that was read already": ["cat/up/", "loop/"],
        "link to nothing, or not a file": ["self", "cat/gone"],
    }


def test_linked_folders_are_read(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a/x.png", "elsewhere/b/y.png", "root/b/z.png")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere" / "a", target_is_directory=True)
    (tmp_path / "root" / "b" / "more").symlink_to(tmp_path / "elsewhere" / "b", target_is_directory=True)
    assert names(find_files(tmp_path / "root")) == ["a/x.png", "b/more/y.png", "b/z.png"]


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation", "Val"])
def test_folders_of_splits(tmp_path: Path, held_out: str) -> None:
    touch(tmp_path, "train/cat/in/1.png", "train/dog/2.png", f"{held_out}/cat/3.png", "readme.txt", "extra/x.png")
    tree = find_files(tmp_path)
    assert {file.name: file.split for file in tree.files} == {
        "cat/in/1.png": "train",
        "dog/2.png": "train",
        "cat/3.png": "test",
    }
    assert tree.own_splits
    assert tree.left_out == {f"beside train/ and {held_out}/": ["extra/", "readme.txt"]}
    assert tree.choices == ([] if held_out == "test" else [f"{held_out}/ is the held-out split"])


def test_the_test_folder_is_taken_before_the_validation_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.png", "test/cat/2.png", "val/cat/3.png")
    tree = find_files(tmp_path)
    assert names(tree) == ["cat/1.png", "cat/2.png"]
    assert tree.left_out == {"beside train/ and test/": ["val/"]}


def test_a_test_folder_without_classes_is_not_held_out(tmp_path: Path) -> None:
    """As competitions give it: its labels are not published."""
    touch(tmp_path, "train/cat/1.png", "test/2.png", "val/cat/3.png")
    assert names(find_files(tmp_path)) == ["cat/1.png", "cat/3.png"]
    touch(tmp_path / "flat", "train/1.png", "val/2.png", "test/3.png")
    flat = find_files(tmp_path / "flat")
    assert [(file.name, file.kind, file.split) for file in flat.files] == [
        ("1.png", UNLABELLED, "train"),
        ("3.png", UNLABELLED, "test"),
    ]


def test_a_training_folder_alone_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/cat/{number}.png" for number in range(30)))
    tree = find_files(tmp_path)
    assert {file.kind for file in tree.files} == {"cat"}
    assert {file.split for file in tree.files} == {"train", "test"}
    assert tree.choices == ["train/ is the only folder: a share of its files is held out"]
    touch(tmp_path, "bus/1.png")
    assert {file.kind for file in find_files(tmp_path).files} == {"bus", "train"}, "beside others it is a class"


def test_images_without_folders_are_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    (tmp_path / "empty").mkdir()
    tree = find_files(tmp_path)
    assert [(file.name, file.kind) for file in tree.files] == [("1.png", UNLABELLED), ("2.png", UNLABELLED)]
    assert "no class folders: its images are of one class, 'unlabelled'" in tree.choices[0]


def test_images_beside_class_folders_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "2.png", "labels.csv")
    tree = find_files(tmp_path)
    assert names(tree) == ["cat/1.png"]
    assert tree.left_out == {"outside class folders": ["2.png", "labels.csv"]}


def test_a_table_of_captions_beside_classes_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in ("a/1.png", "metadata.jsonl")))
    tree = find_files(tmp_path)
    assert [file.path.name for file in tree.files] == ["1.png", "1.png"]
    assert not tree.left_out


def test_files_are_known_by_size_and_time(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png")
    os.utime(tmp_path / "cat" / "1.png", ns=(5, 7))
    (file,) = find_files(tmp_path).files
    assert (file.size, file.changed) == (3, 7)
