import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oneblock.data.tokens as tokens
from oneblock.data.tokens import TokenFile, dtype_name, write_tokens
from oneblock.data.vocabulary import BytePair, Bytes, Characters
from oneblock.data.windows import TextBatches, TokenSource


class Sized(Bytes):
    """A vocabulary of any size, for files of any width."""

    def __init__(self, size: int) -> None:
        object.__setattr__(self, "num", size)

    @property
    def size(self) -> int:
        return int(vars(self)["num"])


def numbered(path: Path, *lengths: int) -> TokenFile:
    """Documents of these lengths; token i of the file is i."""
    assert sum(lengths) <= 256
    return write_tokens(path / "numbers.tokens", torch.arange(sum(lengths)).split(list(lengths)), Bytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.mark.parametrize(
    ("size", "name", "width"), [(27, "|u1", 1), (256, "|u1", 1), (257, "<u2", 2), (65536, "<u2", 2), (65537, "<i4", 4)]
)
def test_the_size_chooses_the_type(tmp_path: Path, size: int, name: str, width: int) -> None:
    assert dtype_name(size) == name
    documents = [torch.tensor([size - 1, 0, 1]), torch.tensor([2], dtype=torch.int32)]
    file = write_tokens(tmp_path / "a" / "b.tokens", documents, Sized(size))
    assert file.tokens.dtype == tokens.DTYPES[name]
    assert torch.equal(file.document(0), documents[0])
    content = (tmp_path / "a" / "b.tokens").read_bytes()[: 4 * width]
    expected = b"".join(number.to_bytes(width, "little") for number in (size - 1, 0, 1, 2))
    assert content == expected


def test_documents_and_vocabulary_come_back(tmp_path: Path) -> None:
    vocabulary = BytePair(merges=("a b",))
    documents = [torch.tensor([1, 256, 3]), torch.tensor([0]), torch.tensor([5, 6])]
    file = write_tokens(tmp_path / "x", iter(documents), vocabulary)
    assert (len(file), file.num_documents, file.lengths.tolist()) == (6, 3, [3, 1, 2])
    for number, ids in enumerate(documents):
        assert torch.equal(file.document(number), ids)
    assert file.vocabulary == vocabulary
    with pytest.raises(ValueError, match=r"document=3 is not in .*x; 0\.\.2 is allowed"):
        file.document(3)


def test_fingerprints_tell_ids_documents_and_vocabularies(tmp_path: Path) -> None:
    one, two = torch.tensor([1, 2, 3]), torch.tensor([4])
    files = [
        write_tokens(tmp_path / "a", [one, two], Bytes()),
        write_tokens(tmp_path / "b", [one, two + 1], Bytes()),
        write_tokens(tmp_path / "c", [torch.cat([one, two])], Bytes()),
        write_tokens(tmp_path / "d", [one, two], Characters()),
        write_tokens(tmp_path / "e", [one, two], Bytes()),
    ]
    prints = [file.fingerprint() for file in files]
    assert len(set(prints[:4])) == 4
    assert prints[4] == prints[0] == "96f0b2109e5c6cc7"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps")
def test_the_file_is_mapped(tmp_path: Path) -> None:
    megabyte = torch.zeros(2**20, dtype=torch.uint8)
    path = write_tokens(tmp_path / "large", [megabyte] * 8, Bytes()).path
    file = TokenFile(path)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    start, end = (int(word, 16) for word in mapped[0].split()[0].split("-"))
    assert start <= file.tokens.data_ptr() < end
    resident = Path("/proc/self/smaps").read_text().split(str(path))[1].split("Rss:")[1].split()[0]
    assert int(resident) < 1024, "kB of the file were read"
    assert len(file) == 8 * 2**20


def damage(path: Path, at: int, flip: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= flip
    path.write_bytes(content)


def test_cut_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path, 5, 3).path
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:4], b"", b"some text, longer than the footer of a token file" * 3):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"numbers.tokens is not a whole token file \(it is cut short, or a file of another kind\)"
        ):
            TokenFile(path)
    path.write_bytes(whole[1:])
    with pytest.raises(ValueError, match=r"which do not fit 8 tokens.*delete it and write it again"):
        TokenFile(path)
    with pytest.raises(ValueError, match=r"nowhere does not exist; a token file is allowed"):
        TokenFile(tmp_path / "nowhere")


def test_a_changed_header_is_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path, 5, 3).path
    whole = path.read_bytes()
    for at in range(8, len(whole) - 16, 3):
        damage(path, at)
        with pytest.raises(ValueError, match=r"numbers.tokens is not a whole token file"):
            TokenFile(path)
        path.write_bytes(whole)
    TokenFile(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "8"}, "count='8' is not allowed in Header; use a whole number"),
        ({"count": True}, "count=True is not allowed in Header"),
        ({"dtype": ["|u1"]}, r"dtype=\['|u1'\] is not allowed in Header"),
        ({"dtype": "|u8"}, "it has format 1 and dtype '|u8'"),
        ({"format": 1.0}, "format=1.0 is not allowed in Header"),
        ({"starts": [0, 5, 5]}, "its documents do not follow each other"),
        ({"starts": [1, 5]}, "its documents do not follow each other"),
        ({"starts": [0, 8]}, "its documents do not follow each other"),
        ({"starts": []}, "its documents do not follow each other"),
        ({"starts": [0, None]}, "starts=.* is not allowed in Header"),
        ({"vocabulary": 3}, "vocabulary=3 is not allowed in Header"),
        ({"vocabulary": {"vocabulary": "klingon"}}, "vocabulary='klingon' is unknown"),
        ({"surplus": 1}, "its header is another one"),
        ({"sha256": ...}, "its header is another one"),
        ({"count": 2**70}, "has more than 64 bits"),
    ],
)
def test_a_header_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = numbered(tmp_path, 5, 3).path
    header = json.loads(path.read_bytes()[8 : -tokens.FOOTER.size]) | change
    text = json.dumps({name: value for name, value in header.items() if value is not ...}).encode()
    footer = tokens.FOOTER.pack(hashlib.sha256(text).digest(), len(text), tokens.MAGIC)
    path.write_bytes(bytes(range(8)) + text + footer)
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        TokenFile(path)


def test_tokens_beyond_the_vocabulary_are_not_read(tmp_path: Path) -> None:
    file = write_tokens(tmp_path / "x.tokens", [torch.arange(8)], Characters())
    damage(file.path, 2, 64)
    with pytest.raises(ValueError, match=r"x.tokens is not a whole token file .it has tokens beyond its 27 symbols"):
        TokenFile(file.path).read(torch.tensor([0]), 8)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbered(tmp_path, 5).path
    monkeypatch.setattr(tokens, "FORMAT", 2)
    with pytest.raises(ValueError, match=r"it has format 1 and dtype '\|u1'"):
        TokenFile(path)


def test_changed_tokens_are_found(tmp_path: Path) -> None:
    file = numbered(tmp_path, 5, 3)
    file.verify()
    damage(file.path, 2)
    with pytest.raises(ValueError, match="its tokens have another SHA-256 than its header says"):
        TokenFile(file.path).verify()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def documents() -> Iterator[Tensor]:
        yield torch.tensor([1, 2])
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        write_tokens(tmp_path / "x", documents(), Bytes())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_kill_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = numbered(tmp_path, 4)
    monkeypatch.setattr(os, "replace", lambda *names: os._exit(9))
    child = os.fork()
    if not child:
        try:
            numbered(tmp_path, 7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(TokenFile(file.path)) == 4
    assert {path.suffix for path in tmp_path.iterdir()} == {".tokens", ".partial"}


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "documents is empty; one document or more is allowed"),
        ([torch.tensor([1]), torch.tensor([], dtype=torch.int64)], r"document 1 has shape \(0,\)"),
        ([torch.zeros(2, 2, dtype=torch.int64)], r"document 0 has shape \(2, 2\)"),
        ([torch.zeros(2)], r"document 0 .* dtype torch.float32; integers \(t,\)"),
        ([torch.tensor([3, 27])], r"document 0 has ids in 3\.\.27; 0\.\.26 is allowed"),
        ([torch.tensor([-1, 3])], r"document 0 has ids in -1\.\.3; 0\.\.26 is allowed"),
    ],
)
def test_wrong_documents_are_refused(tmp_path: Path, documents: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_tokens(tmp_path / "x", documents, Characters())


@settings(max_examples=60)
@given(num=st.integers(1, 60), length=st.integers(1, 60), stride=st.integers(1, 60))
def test_evaluation_counts_every_token_once(folder: Path, num: int, length: int, stride: int) -> None:
    length, stride = min(length, num), min(stride, length, num)
    file = numbered(folder, num)
    starts, new = file.windows(length, stride)
    windows = file.read(starts, length)
    assert windows.shape == (len(starts), length)
    counted = [row[length - count :].tolist() for row, count in zip(windows, new.tolist(), strict=True)]
    assert [number for part in counted for number in part] == list(range(num))
    assert int(new[0]) == length
    assert set(new[1:-1].tolist()) <= {stride}


def test_evaluation_windows_by_hand(tmp_path: Path) -> None:
    file = numbered(tmp_path, 6, 4)
    starts, new = file.windows(4, 3)
    assert (starts.tolist(), new.tolist()) == ([0, 3, 6], [4, 3, 3])
    starts, new = file.windows(4)
    assert (starts.tolist(), new.tolist()) == ([0, 4, 6], [4, 4, 2])


@pytest.mark.parametrize(
    ("length", "stride", "message"),
    [
        (9, None, r"length=9 does not fit .*numbers.tokens with 8 tokens; 1\.\.8 is allowed"),
        (0, None, "length=0 does not fit"),
        (4, 5, r"stride=5 leaves gaps or stands still; 1\.\.4 is allowed"),
        (4, 0, "stride=0 leaves gaps or stands still"),
    ],
)
def test_wrong_evaluation_windows_are_refused(tmp_path: Path, length: int, stride: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbered(tmp_path, 5, 3).windows(length, stride)


def epochs(source: TokenSource, num: int, seed: int = 3) -> list[list[int]]:
    """The starts of the windows of the first epochs."""
    return [source.positions(epoch, len(source), seed).tolist() for epoch in range(num)]


@settings(max_examples=60)
@given(num=st.integers(1, 80), length=st.integers(1, 40))
def test_windows_of_an_epoch_lie_side_by_side(folder: Path, num: int, length: int) -> None:
    length = min(length, num)
    source = TokenSource(numbered(folder, num), length)
    for starts in epochs(source, 3):
        first = min(starts)
        assert sorted(starts) == list(range(first, first + len(source) * length, length))
        assert 0 <= first <= num - len(source) * length
        assert num - len(source) * length < 2 * length


def test_offsets_differ_by_epoch_and_reach_everything(tmp_path: Path) -> None:
    source = TokenSource(numbered(tmp_path, 100), 8)
    assert len(source) == 11
    firsts = [min(starts) for starts in epochs(source, 100)]
    assert set(firsts) == set(range(100 - 11 * 8 + 1))
    seen = {token for starts in epochs(source, 100) for start in starts for token in range(start, start + 8)}
    assert seen == set(range(100))


def test_windows_hold_the_text(tmp_path: Path) -> None:
    source = TokenSource(numbered(tmp_path, 30, 20), 7)
    batch = source.batch(3, 5, seed=1)
    assert (batch.dtype, tuple(batch.shape)) == (torch.int64, (5, 7))
    assert torch.equal(batch, source.positions(3, 5, 1)[:, None] + torch.arange(7))
    assert source.vocabulary == Bytes()
    assert source.fingerprint() == source.file.fingerprint()


def test_windows_stay_within_documents(tmp_path: Path) -> None:
    lengths = (30, 3, 8, 9, 41, 7)
    file = numbered(tmp_path, *lengths)
    source = TokenSource(file, 8, within_documents=True)
    edges = [*file.starts.tolist(), len(file)]
    assert (source.num_skipped, len(source)) == (2, 2 + 1 + 1 + 4)
    for starts in epochs(source, 40):
        found = [sum(edge <= start for edge in edges) - 1 for start in starts]
        assert sorted(found) == [0, 0, 2, 3, 4, 4, 4, 4]
        assert all(start + 8 <= edges[document + 1] for start, document in zip(starts, found, strict=True))
        taken = [token for start in starts for token in range(start, start + 8)]
        assert len(taken) == len(set(taken))
    firsts = [min(start for start in starts if start >= edges[4]) - edges[4] for starts in epochs(source, 60)]
    assert set(firsts) == set(range(41 - 4 * 8 + 1))


@settings(max_examples=30)
@given(first=st.integers(1, 30), second=st.integers(1, 30), within=st.booleans())
def test_the_batch_size_only_cuts_the_row(folder: Path, first: int, second: int, within: bool) -> None:
    source = TokenSource(numbered(folder, 40, 33), 5, within_documents=within)
    rows = [
        torch.cat([source.positions(step, size, 3) for step in range(-(-40 // size))])[:40] for size in (first, second)
    ]
    assert torch.equal(*rows)


def test_resume_needs_no_state(tmp_path: Path) -> None:
    file = numbered(tmp_path, 40, 33)
    running = TokenSource(file, 5)
    batches = [running.batch(step, 4, seed=7) for step in range(12)]
    for step in (11, 0, 6):
        assert torch.equal(TokenSource(file, 5).batch(step, 4, seed=7), batches[step])
        assert not torch.equal(running.batch(step, 4, seed=8), batches[step])
        assert torch.equal(running.batch(step, 4, seed=7), batches[step])


def test_training_samples_are_windows_without_labels(tmp_path: Path) -> None:
    source = TokenSource(numbered(tmp_path, 40), 5)
    samples = TextBatches(source).batch(2, 3, seed=1)
    assert samples.values.equal(source.batch(2, 3, seed=1))
    assert samples.labels is None


def test_the_order_stays_the_same_between_versions(tmp_path: Path) -> None:
    assert TokenSource(numbered(tmp_path, 40), 5).positions(0, 7, 0).tolist() == [27, 2, 17, 22, 32, 12, 7]


def test_long_windows_are_refused(tmp_path: Path) -> None:
    file = numbered(tmp_path, 6, 10)
    with pytest.raises(ValueError, match=r"length=17 does not fit .*numbers.tokens with 16 tokens; 1\.\.16 is allowed"):
        TokenSource(file, 17)
    with pytest.raises(ValueError, match=r"length=11 does not fit the longest document of .* with 10 tokens"):
        TokenSource(file, 11, within_documents=True)
    with pytest.raises(ValueError, match="step=-1 is negative"):
        TokenSource(file, 4).batch(-1, 2, 0)
    with pytest.raises(ValueError, match="batch_size=0 is too small"):
        TokenSource(file, 4).batch(0, 0, 0)
