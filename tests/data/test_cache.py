"""Decoded images on disk: found again, never trusted, bounded."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ENVIRONMENT

from oneblock.data import folder as reader
from oneblock.data.cache import Place, trim
from oneblock.data.folder import load_folder
from oneblock.data.imageset import ImageSet
from oneblock.data.progress import listening
from oneblock.data.reading import Reading

Image = pytest.importorskip("PIL.Image")


class Heard:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[int, int, str]] = []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images, and a file that is none."""
    for kind in ("cat", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (9, 9), (10 * number, 0, len(kind))).save(tmp_path / "set" / kind / f"{number}.png")
    (tmp_path / "set" / "dog" / "note.txt").write_text("x")
    return tmp_path / "set"


def load(root: Path, *options: Any, **settings: Any) -> tuple[ImageSet, Heard]:
    heard = Heard()
    with listening(lambda *words: heard.steps.append(words), heard.notes.append):
        return load_folder(root, "train", *(options or (8,)), reading=Reading(**settings)), heard


def test_the_second_time_nothing_is_decoded(root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, heard = load(root)
    (path,) = own_cache.iterdir()
    assert path.name.startswith("folder-set-train-") and path.suffix == ".safetensors"
    assert heard.steps[-1] == (6, 6, "images of folder:set")
    assert heard.notes == [
        "folder:set: 6 of 7 files of the train split are used; left out: not an image: 1 (dog/note.txt)"
    ]
    monkeypatch.setattr(reader, "read_header", None)
    second, again = load(root)
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert (second.classes, second.name, second.skipped) == (("cat", "dog"), "folder:set", ("dog/note.txt",))
    assert second.fingerprint() == first.fingerprint()
    assert again.notes == [f"{heard.notes[0]}; decoded before"] and not again.steps


def test_the_same_folder_by_another_path_is_found(root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(root)
    monkeypatch.chdir(root.parent)
    (root.parent / "link").symlink_to(root)
    for path in (Path("set"), Path("set/"), Path("set/../set"), root.parent / "link"):
        assert "decoded before" in load(path)[1].notes[0]
    assert len(list(own_cache.iterdir())) == 1


def test_every_change_is_seen(root: Path, own_cache: Path) -> None:
    """Of the files, and of what they are made into."""
    load(root)
    one = root / "cat" / "0.png"
    os.utime(one, ns=(1, 1))
    changes = [load(root)[0]]
    Image.new("RGB", (9, 9), (99, 0, 0)).save(one)
    changes += [load(root)[0], load(root, 4)[0], load(root, 8, 1)[0]]
    one.rename(root / "cat" / "9.png")
    changes += [load(root)[0], load(root, max_pixels=1000)[0]]
    assert changes[1].images[0, 0, 0, 0] == 99
    assert changes[2].shape == (3, 4, 4) and changes[3].shape == (1, 8, 8)
    assert len(list(own_cache.iterdir())) == 7


def test_channels_that_were_found_need_not_be_said(root: Path, own_cache: Path) -> None:
    """A plan says them to its jobs."""
    first, _ = load(root, 32, None)
    second, heard = load(root, None, 3)
    assert "decoded before" in heard.notes[0] and torch.equal(first.images, second.images)
    grey, heard = load(root, None, 1)
    assert "decoded before" not in heard.notes[0] and grey.shape == (1, 32, 32)


def test_without_a_cache_nothing_is_written(root: Path, own_cache: Path) -> None:
    load(root, cache=False)
    load(root, cache_gb=0.0)
    assert not own_cache.exists() or not list(own_cache.iterdir())


def test_no_damage_is_trusted(root: Path, own_cache: Path) -> None:
    """Any byte of the file changed, the file cut at any place, or something else: the images are made again."""
    first, _ = load(root)
    (path,) = own_cache.iterdir()
    whole = path.read_bytes()
    places = [*range(0, 700, 23), *range(len(whole) - 80, len(whole), 11), len(whole) // 2]
    damaged = [whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :] for place in places]
    damaged += [whole[:place] for place in (0, 7, 300, len(whole) // 2, len(whole) - 1)]
    for content in [*damaged, whole + b"x", b"nonsense"]:
        path.write_bytes(content)
        found, heard = load(root)
        assert found.fingerprint() == first.fingerprint() and found.skipped == first.skipped
        assert heard.notes[0].startswith(f"{path} is damaged and is made again (") and len(heard.notes) == 2
    assert path.read_bytes() == whole


def test_the_oldest_are_removed(tmp_path: Path) -> None:
    for age, name in enumerate(("a", "b", "c", "d")):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x" * 100)
        os.utime(tmp_path / f"{name}.safetensors", ns=(10**9 * (9 - age),) * 2)
    (tmp_path / "old.partial").write_bytes(b"x")
    os.utime(tmp_path / "old.partial", (1, 1))
    (tmp_path / "new.partial").write_bytes(b"x")
    (tmp_path / "other.txt").write_bytes(b"x" * 1000)
    trim(tmp_path, 250, tmp_path / "d.safetensors")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.safetensors", "d.safetensors", "new.partial", "other.txt"}, "d is the oldest, but just written"


def test_use_makes_young(root: Path, own_cache: Path) -> None:
    load(root)
    (first,) = own_cache.iterdir()
    os.utime(first, (1, 1))
    load(root)
    assert time.time() - first.stat().st_mtime < 100
    load(root, 4, cache_gb=first.stat().st_size * 1.2 / 10**9)
    assert first not in list(own_cache.iterdir()), "over the limit of both"
    load(root, 8, cache_gb=1e-9)
    assert len(list(own_cache.iterdir())) == 1, "what is larger than the limit is not kept"


def test_a_cache_that_cannot_be_written_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path / "file"))
    found, heard = load(root)
    assert len(found) == 6
    assert "could not be kept" in heard.notes[1] and "--no-cache" in heard.notes[1]


def test_what_could_not_be_read_today_is_tried_again(
    root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of a disk or a network is not kept as if the file were damaged."""
    opened = Image.open

    def failing(path: Path) -> Any:
        if path.name == "2.png":
            raise OSError(5, "Input/output error")
        return opened(path)

    monkeypatch.setattr(Image, "open", failing)
    found, heard = load(root)
    assert len(found) == 4 and "unreadable: 2 (cat/2.png ([Errno 5] Input/output error)" in heard.notes[0]
    monkeypatch.setattr(Image, "open", opened)
    assert len(load(root)[0]) == 6


def test_a_full_disk_leaves_no_part(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    images = ImageSet(torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a",), "x")
    with pytest.warns(UserWarning, match="of x could not be kept .*No space left"):
        Place("x", 1, Reading()).keep(images, "")
    assert list(own_cache.iterdir()) == []


def test_images_of_any_size_come_back(own_cache: Path) -> None:
    for side in (1, 2, 3, 5):
        values = torch.arange(3 * 3 * side * side).reshape(3, 3, side, side).to(torch.uint8)
        place = Place("x", side, Reading())
        place.keep(ImageSet(values, torch.tensor([2, 0, 1]), ("ä", "b", "\udcff"), "x", ("\udcffile",)), "said")
        found = place.find()
        assert found is not None and torch.equal(found[0].images, values) and found[0].labels.tolist() == [2, 0, 1]
        assert (found[0].classes, found[0].skipped, found[1]) == (("ä", "b", "\udcff"), ("\udcffile",), "said")


def test_processes_at_once_do_not_disturb_each_other(root: Path, own_cache: Path) -> None:
    code = "import sys; from pathlib import Path; from oneblock.data.folder import load_folder\n"
    code += "print(load_folder(Path(sys.argv[1]), 'train', 8).fingerprint())"
    words = [sys.executable, "-W", "ignore", "-c", code, str(root)]
    environment = {**ENVIRONMENT, "ONEBLOCK_DATA": str(own_cache.parents[1])}
    running = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate()[0].strip() for process in running} == {load(root)[0].fingerprint()}
    assert len(list(own_cache.iterdir())) == 1
