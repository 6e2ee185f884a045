import hashlib
import json
from pathlib import Path

import pytest

from oneblock.data import places
from oneblock.data.places import (
    DATA_FILE,
    changes,
    data_record,
    hand_on,
    listed,
    place_of,
    read_record,
    shown,
    write_record,
)


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    for name in ("cats/a/1.txt", "cats/a/2.txt", "cats/b/1.txt", "cats/.hidden", "cats/.git/1.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "cats"


def test_a_place_is_the_same_however_it_is_written(cats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cats.parent)
    monkeypatch.setenv("HOME", str(cats.parent))
    spellings = ("folder:cats", "folder:cats/", "folder:./a/../cats", "folder:~/cats", f"file:{cats}", "cifar10:cats//")
    assert {place_of(name, None) for name in spellings} == {cats.resolve()}
    monkeypatch.chdir("/")
    assert place_of("folder:cats", cats.parent) == place_of("folder:cats", Path("~")) == cats.resolve()
    assert {place_of(name, cats) for name in ("digits", "hf:a/b", "books", "dataset:Mine", "folder:")} == {None}


def test_files_that_changed_are_named(cats: Path) -> None:
    record = data_record("folder:cats", cats, None)
    assert list(record.files) == ["a/1.txt", "a/2.txt", "b/1.txt"]
    assert record.files["a/1.txt"] == f"12 {hashlib.sha256(b'cats/a/1.txt').hexdigest()[:16]}"
    assert changes(record, cats) == []
    (cats / "a/1.txt").write_text("cats/a/9.txt")  # as long as before
    (cats / "a/2.txt").unlink()
    (cats / "c.txt").write_text("new")
    found = changes(record, cats)
    assert found == ["changed a/1.txt", "missing a/2.txt", "new c.txt"]
    assert shown(found) == "changed a/1.txt, missing a/2.txt, new c.txt"
    assert shown(found * 3) == f"{shown(found)}, changed a/1.txt, missing a/2.txt and 4 more"
    single = data_record("file:c.txt", cats / "c.txt", None)
    (cats / "c.txt").write_text("old")
    assert changes(single, cats / "c.txt") == ["changed c.txt"]


def test_links_back_end(cats: Path) -> None:
    (cats / "a" / "again").symlink_to(cats)
    (cats / "elsewhere").symlink_to(cats.parent / "cats" / "b")
    assert set(listed(cats)) <= {"a/1.txt", "a/2.txt", "b/1.txt", "elsewhere/1.txt"}


def test_of_very_many_files_folders_are_listed(cats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LISTED", 2)
    record = data_record("folder:cats", cats, None)
    assert {name: text[:7] for name, text in record.files.items()} == {"a/": "2 files", "b/": "1 files"}
    (cats / "b/1.txt").write_text("other")
    assert changes(record, cats) == ["changed b/"]


def test_of_a_large_file_both_ends_are_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "WHOLE", 8)
    file = tmp_path / "large"
    found = []
    for content in (b"abcd....wxyz", b"Abcd....wxyz", b"abcd....wxyZ", b"abcd...wxyz", b"abcd"):
        file.write_bytes(content)
        found.append(listed(file)["large"])
    assert len(set(found)) == 5


def test_a_run_finds_its_data_from_anywhere(cats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, model = cats.parent / "run", cats.parent / "model"
    monkeypatch.chdir(cats.parent)
    for folder in (run, model, cats.parent / "other"):
        folder.mkdir()
    write_record(data_record("folder:cats", place_of("folder:cats", None), None), run)
    hand_on(run, model)
    found, merged = read_record(run), read_record(model)
    assert found is not None and merged is not None and merged.files == {}
    assert found.again() == ("folder:cats", None), "as it was given, where that still holds"
    monkeypatch.chdir(cats.parent / "other")
    assert found.again() == merged.again() == (f"folder:{cats}", None)
    cats.rename(cats.parent / "moved")
    assert found.again() == ("folder:cats", None)
    rooted = data_record("books", None, cats.parent / "other")
    assert rooted.again() == ("books", cats.parent / "other")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"data": 1}', '{"data": "x", "files": 3}', '{"data": "x", "more": 1}']
)
def test_what_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / DATA_FILE).write_text(text)
    assert read_record(tmp_path) is None
    hand_on(tmp_path, tmp_path / "absent")
    assert read_record(tmp_path / "absent") is None


def test_the_file_is_plain(cats: Path) -> None:
    write_record(data_record("folder:cats/", cats, None), cats.parent)
    values = json.loads((cats.parent / DATA_FILE).read_text())
    assert (values["data"], values["place"], values["data_dir"]) == ("folder:cats/", str(cats), "")
    assert [path.name for path in cats.parent.iterdir() if path.is_file()] == [DATA_FILE], "nothing half-written"
