import hashlib
import sys
import unicodedata
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
    assign,
    cut_file,
    file_documents,
    row_document,
    split_documents,
    split_files,
)
from oneblock.data.errors import MissingExtraError
from oneblock.data.textfile import PIECE
from oneblock.data.textstream import stream_documents


def digest(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def names(splits: Splits) -> dict[str, set[str]]:
    return {split: {each.name for each in documents} for split, documents in splits.items()}


def shares(sizes: Mapping[str, int]) -> dict[str, float]:
    """The share of the bytes of each split, of documents by name."""
    chosen = assign([digest(name) for name in sizes], list(sizes.values()), "set")
    total = Counter({split: 0 for split in SPLITS})
    for place, size in zip(chosen, sizes.values(), strict=True):
        total[SPLITS[place]] += size
    return {split: size / total.total() for split, size in total.items()}


def chosen(sizes: Mapping[str, int], split: str) -> set[str]:
    found = assign([digest(name) for name in sizes], list(sizes.values()), "set")
    return {name for name, place in zip(sizes, found, strict=True) if SPLITS[place] == split}


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(1, 50), min_size=3, max_size=60), shuffled=st.randoms())
def test_every_document_has_one_split_whatever_the_order(sizes: list[int], shuffled: object) -> None:
    documents = [row_document(f"{number} " + "x" * size, f"text {number}") for number, size in enumerate(sizes)]
    splits = split_documents(documents, "set")
    found = [each.name for split in SPLITS for each in splits[split]]
    assert sorted(found) == sorted(each.name for each in documents)
    assert all(splits.values())
    shuffled.shuffle(documents)  # type: ignore[attr-defined]
    assert names(split_documents(documents, "set")) == names(splits)


def test_many_documents_are_split_by_bytes() -> None:
    found = shares({f"text {number}": 100 + number for number in range(400)})
    assert 0.048 < found["test"] <= 0.05
    assert 0.048 < found["valid"] <= 0.05


def test_the_smallest_of_few_documents_are_held_out() -> None:
    sizes = {"a": 50, "b": 30, "c": 40, "d": 60}
    assert [chosen(sizes, split) for split in SPLITS] == [{"a", "d"}, {"c"}, {"b"}]


def test_copies_stay_together() -> None:
    documents = [row_document(f"text {number % 20}", f"text {number % 20}") for number in range(60)]
    for held in (found := names(split_documents(documents, "set"))).values():
        others = set().union(*(other for other in found.values() if other is not held))
        assert not held & others
    with pytest.raises(ValueError, match="set has 2 different documents; 3 or more are allowed"):
        split_documents([row_document(text, "x") for text in "aba"], "set")


def test_the_split_stays_the_same_between_versions() -> None:
    sizes = {f"text {number}": 10 for number in range(60)}
    assert chosen(sizes, "test") == {"text 19", "text 26", "text 43"}
    assert chosen(sizes, "valid") == {"text 12", "text 13", "text 30"}
    rows = [row_document(name, name) for name in sizes]  # of clean texts the digest is that of their bytes
    assert [each.measure()[0] for each in rows] == [digest(name) for name in sizes]


COPIES = {
    "plain": b"Ein Caf\xc3\xa9.\nZwei.\n",
    "no line end": b"Ein Caf\xc3\xa9.\nZwei.",
    "more line ends": b"\n\nEin Caf\xc3\xa9.\nZwei.\n\n\n",
    "mark": b"\xef\xbb\xbfEin Caf\xc3\xa9.\nZwei.\n",
    "CRLF": b"Ein Caf\xc3\xa9.\r\nZwei.\r\n",
    "CR": b"Ein Caf\xc3\xa9.\rZwei.",
    "decomposed": b"Ein Cafe\xcc\x81.\nZwei.\n",
}


def test_copies_that_differ_in_nothing_that_is_used_stay_together(tmp_path: Path) -> None:
    for name, content in COPIES.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    documents = [document for name in COPIES for document in file_documents(tmp_path / f"{name}.txt")]
    assert len({each.measure() for each in documents}) == 1
    assert documents[0].measure() == (digest("Ein Café.\nZwei.\n"), 17)
    assert {unicodedata.normalize("NFC", each.read()) for each in documents} == {"Ein Café.\nZwei.\n\n"}
    files = [tmp_path / f"{name}.txt" for name in COPIES]
    for number in range(20):
        files.append(tmp_path / f"other {number}.txt")
        files[-1].write_text(f"Another text, number {number}.\n")
    found = names(split_files(files, "set"))
    assert sum(any("other" not in name for name in found[split]) for split in SPLITS) == 1


@settings(max_examples=30)
@given(text=st.text(st.sampled_from("a é\r\n\u0301天\u00a0"), max_size=40), size=st.integers(1, 6))
def test_the_size_of_pieces_changes_no_digest(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    whole, cut = (Document(name="x", pieces=lambda parts=parts: iter(parts)) for parts in ([text], pieces))  # type: ignore[misc]
    normal = unicodedata.normalize("NFC", text)
    assert whole.measure() == (digest(normal), len(normal.encode()))
    if any(character < "\x80" for character in text) and len(pieces) < 3:
        assert cut.measure() == whole.measure()


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


def test_long_texts_are_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    text = "a€" * PIECE
    path.write_text(text, "utf-8")
    (train,) = cut_file(path)["train"]
    assert max(len(piece.encode()) for piece in train.pieces()) <= PIECE
    assert "".join(texts(cut_file(path))) == text
    (whole,) = file_documents(path)
    assert whole.read() == text + "\n\n"


def test_documents_end_in_a_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbf \n Once.\n\nTwice. \n")
    (document,) = file_documents(path)
    assert document.read() == "Once.\n\nTwice.\n\n"


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
        [document.read() for document in file_documents(path)]


@pytest.mark.parametrize("size", [1, 9, 19])
def test_short_files_are_not_cut(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.txt"
    path.write_text("x" * size)
    with pytest.raises(ValueError, match=rf"x.txt has {size} bytes, too few to cut in three; 20 or more are allowed"):
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
    assert [each.measure() for each in found] == [(digest(text), len(text)) for text in ("first", "third", "4")]
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
