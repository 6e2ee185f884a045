import bz2
import gzip
import importlib.util
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oneblock.data import Bytes, open_text
from oneblock.data.documents import SPLITS, Splits, cut_file, file_documents, split_files
from oneblock.data.errors import MissingExtraError
from oneblock.data.textfile import PIECE, decode_pieces, read_pieces

TEXT = "Once upon a time there was a cat; naïve, and 天地玄黄. " * 40


def texts(splits: Splits) -> list[str]:
    return [each.read() for split in SPLITS for each in splits[split]]


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_texts_are_those_inside(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    plain, packed = tmp_path / "x.txt", tmp_path / f"x.txt.{suffix}"
    plain.write_text(TEXT, "utf-8")
    packed.write_bytes(pack(TEXT.encode()))
    assert texts(cut_file(packed)) == texts(cut_file(plain))
    packed.with_suffix("").rename(tmp_path / "other")  # what counts is what the file holds
    assert [each.read() for each in file_documents(packed)] == [TEXT.strip() + "\n\n"]
    packed.write_bytes(pack(TEXT.encode())[:-9])
    with pytest.raises(ValueError, match=rf"x.txt.{suffix} cannot be unpacked .*; the whole file is needed"):
        cut_file(packed)


def test_zstandard_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd and more")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r"needs the package zstandard; install it with: .*oneblock\[text\]"):
        cut_file(path)


@pytest.mark.skipif(importlib.util.find_spec("zstandard") is None, reason="needs zstandard")
def test_zstandard_is_read(tmp_path: Path) -> None:
    import zstandard

    path, plain = tmp_path / "x.txt.zst", tmp_path / "x.txt"
    path.write_bytes(zstandard.ZstdCompressor().compress(TEXT.encode()))
    plain.write_text(TEXT, "utf-8")
    assert texts(cut_file(path)) == texts(cut_file(plain))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.txt",
            TEXT.encode("utf-16"),
            "x.txt is text in UTF-16; .* is allowed; .* iconv -f UTF-16 -t UTF-8",
        ),
        ("x.txt", TEXT.encode("utf-32"), "x.txt is text in UTF-32; .* iconv -f UTF-32"),
        (
            "x.txt",
            "plain words ".encode("utf-16-le") * 9,
            "NUL byte at offset 1; .* is it UTF-16, which iconv",
        ),
        ("x.parquet", b"PAR1" + b"x" * 90, "x.parquet is a Parquet file; .* take the texts out of it, into .txt files"),
        ("x", b"PK\x03\x04" + b"x" * 90, "is a ZIP archive; text in UTF-8 is allowed; unpack it"),
        ("x.pdf", b"%PDF-1.7" + b"x" * 90, "is a PDF document"),
        ("x.json", b'[{"text": "a"}]' * 9, r"x.json is a .json file, which holds text among other things; take"),
        ("x.CSV.gz", gzip.compress(b"id,text" * 9, mtime=0), r"x.CSV.gz is a .csv file"),
    ],
)
def test_what_holds_text_in_another_way_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_text(f"file:{name}", "train", Bytes(), root=tmp_path, cache=tmp_path / "cache")


def write_rows(path: Path, count: int = 40) -> None:
    rows = [{"id": n, "text": f"Row {n} has\u2028words.\r\n"} for n in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_json_are_documents(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "x.jsonl"
    write_rows(path)
    if packed:
        path = tmp_path / "x.JSONL.gz"
        path.write_bytes(gzip.compress((tmp_path / "x.jsonl").read_bytes()))
    found = [document.read() for document in file_documents(path)]
    assert found == [f"Row {n} has\u2028words.\n\n" for n in range(40)]
    files = [open_text(f"file:{path}", split, Bytes(), cache=tmp_path / "cache") for split in SPLITS]
    assert sum(file.num_documents for file in files) == 40
    assert sorted(file.vocabulary.decode(file.document(n)) for file in files for n in range(file.num_documents)) == (
        sorted(found)
    )


def test_a_folder_may_hold_texts_and_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl", 3)
    (tmp_path / "a.txt").write_text("Whole.")
    (tmp_path / "c.txt").write_text("Row 1 has\u2028words.")
    found = split_files(sorted(tmp_path.iterdir()), "set")
    assert sorted(texts(found)) == sorted(["Whole.\n\n", *(f"Row {n} has\u2028words.\n\n" for n in (0, 1, 1, 2))])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", ', "line 3 of .*x.jsonl is not JSON"),
        ('{"body": "a", "id": 1}', "line 3 of .*x.jsonl has the fields body, id; .* rename the field"),
        ('{"text": 5}', "line 3 of .* has the fields text; an object with a text"),
        ('["a"]', "line 3 of .* is no object"),
        ('{"text": "\\ud800"}', "line 3 of .* holds half of a surrogate pair"),
        ("[" * 100_000, "line 3 of .* is not JSON"),
    ],
)
def test_rows_without_a_text_are_refused_by_their_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(f'{{"text": "one"}}\n\n{line}\n')
    with pytest.raises(ValueError, match=message):
        open_text("file:x.jsonl", "train", Bytes(), root=tmp_path, cache=tmp_path / "cache")


def test_offsets_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"a" * (PIECE - 1) + "é".encode() + b"b" * 9 + b"\xff" + b"c" * 99)
    with pytest.raises(ValueError, match=f"is not UTF-8 at byte offset {PIECE + 10} "):
        list(decode_pieces(read_pieces(path), "x"))
    with pytest.raises(ValueError, match=f"is not UTF-8 at byte offset {PIECE + 10} "):
        list(decode_pieces(read_pieces(path, PIECE + 1), "x", PIECE + 1))
    path.write_bytes(b"ab\xe2\x82")
    with pytest.raises(ValueError, match=r"is not UTF-8 at byte offset 2 .*unexpected end of data"):
        list(decode_pieces(read_pieces(path), "x"))
