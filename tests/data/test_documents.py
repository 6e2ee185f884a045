import hashlib
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneblock.data.documents import (
    SPLITS,
    Document,
    Splits,
    cut_file,
    file_document,
    list_files,
    split_documents,
    stream_documents,
)
from oneblock.data.errors import MissingExtraError


def document(text: str, size: int | None = None) -> Document:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Document(name=text, size=size or len(text), digest=digest, read=lambda: text)


def names(splits: Splits) -> dict[str, set[str]]:
    return {split: {each.name for each in documents} for split, documents in splits.items()}


def share(splits: Splits) -> Mapping[str, float]:
    sizes = Counter({split: sum(each.size for each in documents) for split, documents in splits.items()})
    return {split: size / sizes.total() for split, size in sizes.items()}


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(1, 50), min_size=3, max_size=60), shuffled=st.randoms())
def test_every_document_has_one_split_whatever_the_order(sizes: list[int], shuffled: object) -> None:
    documents = [document(f"text {number}", size) for number, size in enumerate(sizes)]
    splits = split_documents(documents, "set")
    found = [each.name for split in SPLITS for each in splits[split]]
    assert sorted(found) == sorted(each.name for each in documents)
    assert all(splits.values())
    shuffled.shuffle(documents)  # type: ignore[attr-defined]
    assert names(split_documents(documents, "set")) == names(splits)


def test_many_documents_are_split_by_bytes() -> None:
    splits = split_documents([document(f"text {number}", 100 + number) for number in range(400)], "set")
    shares = share(splits)
    assert 0.048 < shares["test"] <= 0.05
    assert 0.048 < shares["valid"] <= 0.05
    assert [each.name for each in splits["train"]] == sorted(
        (each.name for each in splits["train"]), key=lambda name: int(name.split()[1])
    )


def test_the_smallest_of_few_documents_are_held_out() -> None:
    sizes = {"a": 50, "b": 30, "c": 40, "d": 60}
    splits = split_documents([document(name, size) for name, size in sizes.items()], "set")
    assert names(splits) == {"train": {"a", "d"}, "valid": {"c"}, "test": {"b"}}


def test_copies_stay_together() -> None:
    documents = [document(f"text {number % 20}") for number in range(60)]
    for held in (found := names(split_documents(documents, "set"))).values():
        others = set().union(*(other for other in found.values() if other is not held))
        assert not held & others
    with pytest.raises(ValueError, match="set has 2 different documents; 3 or more are allowed"):
        split_documents([document("a"), document("b"), document("a")], "set")


def test_the_split_stays_the_same_between_versions() -> None:
    splits = split_documents([document(f"text {number}", 10) for number in range(60)], "set")
    assert names(splits)["test"] == {"text 19", "text 26", "text 43"}
    assert names(splits)["valid"] == {"text 12", "text 13", "text 30"}


def texts(splits: Splits) -> list[str]:
    return [each.read() for split in SPLITS for each in splits[split]]


@pytest.mark.parametrize("text", ["x" * 20, "one line\n" * 100, "é" * 33, "a\u20ac" * 101, "\ufeff" + "z" * 50])
def test_a_single_file_is_cut_in_three(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(text, "utf-8")
    parts = texts(cut_file(path))
    assert "".join(parts) == text.removeprefix("\ufeff")
    size = len(text.encode())
    assert [len(part.encode()) / size for part in parts] == pytest.approx([0.9, 0.05, 0.05], abs=4 / size)


def test_ascii_is_cut_at_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "text8"
    path.write_text("a" * 900 + "b" * 50 + "c" * 50)
    assert texts(cut_file(path)) == ["a" * 900, "b" * 50, "c" * 50]


def test_files_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b.txt", "sub/a.txt", "a.txt", ".hidden.txt", ".git/c.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)]
    assert found == ["a.txt", "b.txt", "sub/a.txt"]
    with pytest.raises(ValueError, match=r"nothing has no .txt files"):
        (tmp_path / "nothing").mkdir()
        list_files(tmp_path / "nothing")


def test_documents_end_in_a_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbf \n Once.\n\nTwice. \n")
    assert file_document(path).read() == "Once.\n\nTwice.\n\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.txt is empty; a text of one character or more is allowed"),
        (b" \n", "x.txt is empty"),
        (b"GIF89a\x00\x01" * 9, "x.txt has a NUL byte at offset 6; text in UTF-8 is allowed"),
        (b"caf\xe9 noir, deux sucres", r"x.txt is not UTF-8 at byte offset 3 \(0xe9, .*\); text in UTF-8 is allowed"),
        (b"\xef\xbb\xbfab\xff, and more of it", r"is not UTF-8 at byte offset 5 \(0xff"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        cut_file(path)
    with pytest.raises(ValueError, match=message):
        file_document(path).read()


def test_short_files_are_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("too short")
    with pytest.raises(ValueError, match=r"x.txt has 9 bytes, too few to cut in three; 20 or more are allowed"):
        cut_file(path)


ROWS = [{"id": 1, "body": "first"}, {"id": 2, "body": " \n"}, {"id": 3, "body": " third\n"}, {"id": 4, "body": "4"}]


def serve(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, object]]) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> object:
        assert (name, config, split, streaming) == ("someone/set", "small", "train", True)
        return iter(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def stream(column: str | None = None, count: int = 100) -> list[Document]:
    return stream_documents("someone/set", config="small", column=column, count=count)


def test_rows_with_text_are_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, ROWS)
    found = stream()
    assert [each.read() for each in found] == ["first\n\n", "third\n\n", "4\n\n"]
    assert [each.size for each in found] == [5, 5, 1]
    serve(monkeypatch, ROWS)
    assert [each.read() for each in stream("body", 2)] == ["first\n\n", "third\n\n"]


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [
        ([], None, "hf:someone/set has no rows"),
        (ROWS, "id", r"has 0 text columns named 'id' \(none\) among id, body; exactly one is allowed"),
        ([{"a": "x", "b": "y"}], None, r"has 2 text columns \(a, b\) among a, b; .* write hf:NAME,text=COLUMN"),
        ([{"a": "x"}, {"a": None}], None, "holds NoneType in column 'a'; text is allowed"),
    ],
)
def test_wrong_streams_are_refused(
    monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, object]], column: str | None, message: str
) -> None:
    serve(monkeypatch, rows)
    with pytest.raises(ValueError, match=message):
        stream(column)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"needs the package datasets; .*'oneblock\[hub\]'"):
        stream()
