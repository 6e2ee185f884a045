from pathlib import Path

import pytest

from oneblock.data.progress import listening
from oneblock.data.textfolder import list_files, tell_unused


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def found(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_files(folder)]


def told(folder: Path) -> list[str]:
    notes: list[str] = []
    with listening(note=notes.append):
        tell_unused(folder)
    return notes


def test_files_are_found_by_name_in_any_case(tmp_path: Path) -> None:
    write(tmp_path, "b.txt", "sub/a.TXT", "a.Txt", "c.txt.gz", "d.JSONL", "e.jsonl.zst")
    assert found(tmp_path) == ["a.Txt", "b.txt", "c.txt.gz", "d.JSONL", "e.jsonl.zst", "sub/a.TXT"]
    assert told(tmp_path) == []


def test_what_is_not_used_is_told_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", ".hidden.txt", ".git/c.txt", "__MACOSX/b.txt", "notes.md", "other.md", "LICENSE")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing.txt")
    assert found(tmp_path) == ["a.txt"]
    (note,) = told(tmp_path)
    assert "1 of 8 files are used; not used: " in note
    for reason in ("3 hidden", "2 of the kind .md", "1 without a suffix", "1 broken links"):
        assert reason in note


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "texts/a.txt", "texts/b/c.txt", "elsewhere/d.txt")
    (tmp_path / "texts" / "far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "again").symlink_to(tmp_path / "texts" / "b")
    (tmp_path / "texts" / "b" / "loop").symlink_to(tmp_path / "texts")
    (tmp_path / "texts" / "copy.txt").symlink_to(tmp_path / "texts" / "a.txt")
    (tmp_path / "texts" / "linked.txt").symlink_to(tmp_path / "elsewhere" / "d.txt")
    assert found(tmp_path / "texts") == ["a.txt", "b/c.txt", "far/d.txt", "linked.txt"]
    (note,) = told(tmp_path / "texts")
    assert "4 of 7 files are used" in note
    assert "2 folders linked a second time" in note and "1 links to files of the same folder" in note


def test_a_folder_without_texts_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "b.md")
    with pytest.raises(ValueError, match=r"has no .txt files \(but 2 of the kind .md\); .txt, one per document, and"):
        list_files(tmp_path)
